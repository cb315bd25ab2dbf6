"""
How many clusters?
==================

Several criteria, of pixels and of features that were learned with more clusters than are expected.
Where they agree the answer can be trusted.
"""

import matplotlib.pyplot as plt

from skcc import ContrastiveClustering, suggest_n_clusters
from skcc.datasets import load_digits
from skcc.plotting import ClusterNumberDisplay

images = load_digits().images[:1200]

# %%
# Features
# --------
# Suppose that nobody knows how many digits there are. Features favour the number with which they
# were learned, so the model has more clusters than anybody expects.
model = ContrastiveClustering(20, max_epochs=24, batch_size=128, random_state=0).fit(images)

# %%
# Four criteria
# -------------
# All numbers are tried in one space. The eigengap counts groups in the graph of nearest neighbours.
# The silhouette compares distances to the own cluster and the next. The stability is the agreement
# of the clusters of two halves of the images. The information is that of a sample's neighbours
# about its cluster; it says nothing where clusters touch.
numbers = {
    "pixels": suggest_n_clusters(images, range(5, 16)),
    "features": suggest_n_clusters(model.transform(images), range(5, 16)),
}
figure, axes = plt.subplots(4, 2, figsize=(11, 7), sharex=True, layout="constrained")
for column, (name, found) in zip(axes.T, numbers.items(), strict=True):
    ClusterNumberDisplay.from_predictions(found, ax=column)
    column[0].set_title(name)
plt.show()

# %%
# Among the features the stability is largest at ten, where it is nearly 1: two halves of the images
# give the same clusters. At nine and at eleven it is lower. Criteria that name more are not wrong:
# some digits are written in two ways. A number that several criteria name, and a jump of the
# stability, are the best evidence that there is without labels.
