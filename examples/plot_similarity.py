"""
Similarity curves
=================

What training does to pairs: two views of an image become alike, and different images do not.
"""

import matplotlib.pyplot as plt

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import SimilarityDisplay
from skcc.similarity import SimilarityMonitor

digits = load_digits()
images, classes = digits.images[:600], digits.target[:600]

# %%
# Four kinds of pairs
# -------------------
# ``SimilarityMonitor`` is a callback, for scikit-learn 1.9 and newer; it measures cosines after
# each epoch. Positive instances are two views of one image, negative ones views of different
# images. Clusters are compared as columns of the table of assignments: the members of a cluster
# by the first views with those of the same cluster (positive) or of another one (negative) by
# the second views.
#
# One run is as it should be. The other is not: both of its views are the plain image.
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
for ax, name, augmented_views in zip(
    axes, ["random views", "no augmentation"], [2, 0], strict=True
):
    monitor = SimilarityMonitor()
    model = ContrastiveClustering(
        n_clusters=10,
        max_epochs=18,
        batch_size=100,
        augmented_views=augmented_views,
        random_state=0,
    )
    labels = model.set_callbacks(monitor).fit_predict(images)
    SimilarityDisplay(similarity=monitor.similarity_).plot(ax=ax)
    ax.set_title(f"{name}: accuracy {clustering_accuracy(classes, labels):.2f}")
plt.show()

# %%
# How to read them
# ----------------
# In the first epoch everything resembles everything. Then different images spread out until
# their mean cosine is 0, and different clusters have no members in common. The band about the
# negative instances stays wide, since some of these pairs are of one class, and are alike
# rightly.
#
# The positive pairs tell the two runs apart. With random views they fall at first, and it is
# work to bring them up again: the network learns what the views of an image have in common.
# Without augmentation they are at 1 from the start. There is nothing to be learned, and the
# clusters are worth as little.
