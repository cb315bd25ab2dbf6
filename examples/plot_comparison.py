"""
Two deep methods and k-means
============================

Contrastive Clustering (CC), Twin-Contrast Clustering (TCC) and k-means on the same scans of digits.
"""

import time

import matplotlib.pyplot as plt
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import ClusterConfusionDisplay

digits = load_digits()
images, classes = digits.images[:1000], digits.target[:1000]

# %%
# One interface
# -------------
# All three have ``n_clusters`` and ``fit_predict``. k-means needs rows of pixels, the other two
# take the images. The deep methods train for fewer epochs than by default, to save time.
labels_of, seconds = {}, {}
for name, model, X in [
    ("k-means", KMeans(10, n_init=10, random_state=0), images.reshape(len(images), -1)),
    ("CC", ContrastiveClustering(10, max_epochs=24, batch_size=128, random_state=0), images),
    ("TCC", TwinContrastClustering(10, max_epochs=36, batch_size=128, random_state=0), images),
]:
    started = time.perf_counter()
    labels_of[name] = model.fit_predict(X)
    seconds[name] = time.perf_counter() - started

# %%
# Scores
# ------
# The accuracy is that of the best matching of clusters and classes; the other two scores need no
# matching.
print("          ACC    NMI    ARI    seconds")
for name, labels in labels_of.items():
    acc, nmi = clustering_accuracy(classes, labels), normalized_mutual_info_score(classes, labels)
    ari = adjusted_rand_score(classes, labels)
    print(f"{name:8}  {acc:.3f}  {nmi:.3f}  {ari:.3f}  {seconds[name]:7.1f}")

# %%
# Which digits are confused
# -------------------------
# Rows are the digits, columns the clusters, in the order of the digits that they are matched with.
figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
for ax, (name, labels) in zip(axes, labels_of.items(), strict=True):
    ClusterConfusionDisplay.from_predictions(classes, labels, ax=ax)
    ax.set_title(name)
plt.show()

# %%
# One seed proves little, and TCC wants more steps. ``skcc reproduce table --dataset digits
# --seeds 5`` runs five, with the default epochs.
