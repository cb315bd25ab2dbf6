"""
Many pure clusters, few at the end
==================================

DeepCluster and JULE cluster and learn in turn. Both begin with many more clusters than are wanted,
since small clusters are purer and so the better teachers.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans

from skcc import JULE, DeepCluster
from skcc.datasets import load_digits

digits = load_digits()
images, classes = digits.images[:1200], digits.target[:1200]

# %%
# Purity
# ------
# The purity is the share of images whose digit is the most frequent one of their cluster. It grows
# with the number of clusters, so it compares partitions of equally many only.
NUMBERS = [10, 20, 50, 100]


def purities(rows):
    found = []
    for k in NUMBERS:
        labels = KMeans(k, n_init=4, random_state=0).fit_predict(rows)
        members = (classes[labels == cluster] for cluster in range(k))
        found.append(sum(np.bincount(of_one).max() for of_one in members) / len(rows))
    return found


# %%
# Before and after training
# -------------------------
# DeepCluster learns 50 clusters of k-means, which are found anew every few epochs. JULE merges the
# images by their pixels until 30 clusters are left, learns these, and then merges the images by its
# features.
rows = {"pixels": images.reshape(len(images), -1)}
for method in (DeepCluster, JULE):
    model = method(10, max_epochs=24, random_state=0).fit(images)
    rows[f"features of {method.__name__}"] = model.transform(images)

figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for name, X in rows.items():
    ax.plot(NUMBERS, purities(X), "o-", label=name)
ax.set(xscale="log", xlabel="clusters of k-means", ylabel="purity", ylim=(None, 1))
ax.set_xticks(NUMBERS, NUMBERS)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# Among pixels small clusters are pure and ten large ones are not. Learning the small ones brings
# images of a digit together, so that ten clusters of the features are nearly as pure.
