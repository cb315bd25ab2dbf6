"""
Similarity curves
=================

How training changes pairs: two views of an image become similar, and different images do not.
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
# One run has random views. In the other both views are the plain image.
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
# In the first epoch all pairs are similar. Then different images spread out until their mean
# cosine is 0, and different clusters have no members in common. The band of the negative
# instances stays wide, since some of these pairs are of one class, and should be similar.
#
# The positive pairs distinguish the two runs. With random views their similarity falls at first
# and then rises: the network learns what the views of an image have in common. Without
# augmentation it is 1 from the start. There is nothing to learn, and the clusters are bad.
