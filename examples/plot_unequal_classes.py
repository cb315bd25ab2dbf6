"""
Classes of unequal size
=======================

Ten classes, the largest ten times as large as the smallest. A cluster head wants clusters of equal
size; the nearest neighbours among its features know better.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

from skcc import ContrastiveClustering, NeighborClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

# %%
# Digits, thinned out
# -------------------
# 174 zeros, 135 ones, and so on down to 17 nines.
digits = load_digits()
true_sizes = np.array([174, 135, 104, 81, 63, 48, 37, 29, 22, 17])
kept = np.concatenate([np.flatnonzero(digits.target == k)[:n] for k, n in enumerate(true_sizes)])
images, classes = digits.images[kept], digits.target[kept]

# %%
# Two ways to read off the clusters
# ---------------------------------
# A term of the loss keeps the head's clusters from running empty, and so favours equal sizes.
# ``readout="auto"``, the default, does after training what is done here by hand: it clusters the
# features by their neighbours.
model = ContrastiveClustering(10, max_epochs=40, readout="head", random_state=0).fit(images)
by_neighbors = NeighborClustering(10, random_state=0).fit_predict(model.transform(images))

# %%
# Sizes
# -----
# Each cluster stands at the digit that it is matched with.
figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
ax.bar(np.arange(10), true_sizes, 0.8, fill=False, zorder=3, label="true size")
for shift, name, labels in [(-0.2, "head", model.labels_), (0.2, "neighbours", by_neighbors)]:
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (classes, labels), 1)
    _, cluster_of = linear_sum_assignment(-counts)
    accuracy = clustering_accuracy(classes, labels)
    ax.bar(np.arange(10) + shift, counts.sum(axis=0)[cluster_of], 0.35,
           label=f"{name}: accuracy {accuracy:.2f}")  # fmt: skip
ax.set(xlabel="digit", ylabel="images", xticks=range(10))
ax.legend()
plt.show()

# %%
# The clusters of the head are of nearly equal size: large classes are divided, small ones get
# images of others. By neighbours most sizes are about right, but the ones are still divided.
