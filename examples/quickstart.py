"""
Quickstart
==========

Cluster 1,797 scans of handwritten digits without their labels, and look at the clusters.
"""

from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import train_test_split

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import ClusterGridDisplay

# %%
# The images: uint8, 8 x 8 pixels, gray. Their classes are used for scoring only. A tenth is held
# out: a fitted model also assigns new images.
digits = load_digits()
train, held_out, digit, held_out_digit = train_test_split(
    digits.images, digits.target, test_size=0.1, random_state=0
)

# %%
# Network, views, batch size and epochs are chosen from the images.
model = ContrastiveClustering(n_clusters=10, random_state=0, verbose=1)
labels = model.fit_predict(train)

# %%
# Compare with k-means of the pixels.
k_means = KMeans(10, n_init=10, random_state=0).fit(train.reshape(len(train), -1))
print(f"\n{'':24}  ACC    NMI    ARI")
for name, classes, clusters in [
    ("k-means of the pixels", digit, k_means.labels_),
    ("ContrastiveClustering", digit, labels),
    ("  on held-out images", held_out_digit, model.predict(held_out)),
]:
    acc = clustering_accuracy(classes, clusters)
    nmi = normalized_mutual_info_score(classes, clusters)
    ari = adjusted_rand_score(classes, clusters)
    print(f"{name:24} {acc:.3f}  {nmi:.3f}  {ari:.3f}")

# %%
# A row per cluster: its most confident images, and its size.
display = ClusterGridDisplay.from_estimator(model, train, n_images=16)
display.figure_.savefig("digits_clusters.png", dpi=150)
print("\ndigits_clusters.png shows each cluster's most confident images")
