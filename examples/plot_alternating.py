"""
Why so many pseudo-labels?
==========================

DeepCluster learns the clusters of k-means as if they were labels, and then runs k-means again. It
learns many more clusters than are wanted.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans

from skcc import DeepCluster
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:1200], digits.target[:1200]

# %%
# Many clusters are purer
# -----------------------
# The purity is the share of images whose class is the most frequent one of their cluster. Among
# pixels, ten clusters mix digits; a hundred hardly do. So a hundred are the better teacher.


def purity(labels):
    return sum(np.bincount(classes[labels == k]).max() for k in np.unique(labels)) / len(labels)


numbers = [10, 20, 50, 100]
rows = images.reshape(len(images), -1)
first = [purity(KMeans(k, n_init=4, random_state=0).fit_predict(rows)) for k in numbers]

# %%
# What is learned from them
# -------------------------
# ``n_pseudolabels`` is five times the number of clusters by default. At the end k-means finds the
# ten clusters that are wanted.
figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
ax.plot(numbers, first, "o-", label="purity of clusters of pixels")
accuracy = []
for n_pseudolabels in (10, 20, 50, 100):
    model = DeepCluster(
        10, n_pseudolabels=n_pseudolabels, max_epochs=24, readout="kmeans", random_state=0
    )
    accuracy.append(clustering_accuracy(classes, model.fit_predict(images)))
    print(n_pseudolabels, model.history_[-1], accuracy[-1])
ax.plot(numbers, accuracy, "s-", label="accuracy of ten clusters at the end")
ax.set(xscale="log", xlabel="pseudo-labels", ylim=(None, 1))
ax.set_xticks(numbers, numbers)
ax.minorticks_off()
ax.legend()
plt.show()
