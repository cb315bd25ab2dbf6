"""
Embeddings instead of images
============================

Rows of numbers, such as the output of a pre-trained network, are clustered as well.
"""

import matplotlib.pyplot as plt
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import EmbeddingDisplay

# %%
# Where vectors come from
# -----------------------
# This example uses principal components of digits in place of the embeddings of a network, so
# that nothing is downloaded.
digits = load_digits()
vectors = PCA(30, random_state=0).fit_transform(digits.images.reshape(-1, 64))

# %%
# `skcc.ImageEmbedder` computes embeddings with networks of torchvision and timm, which download
# their weights:
#
# .. code-block:: python
#
#     from sklearn.pipeline import make_pipeline
#     from skcc import ImageEmbedder
#
#     embedder = ImageEmbedder("torchvision/resnet18", cache_dir="cache/")
#     make_pipeline(embedder, ContrastiveClustering(10)).fit_predict("photos/")

# %%
# Clusters of vectors
# -------------------
# A table without ``image_shape`` holds vectors. They are standardised. The backbone is a
# perceptron, and views add noise and drop features.
model = ContrastiveClustering(n_clusters=10, random_state=0).fit(vectors)
k_means = KMeans(10, n_init=10, random_state=0).fit(vectors)

figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for ax, name, features, labels in [
    (axes[0], "vectors, k-means", vectors, k_means.labels_),
    (axes[1], "features of skcc", model.transform(vectors), model.labels_),
]:
    EmbeddingDisplay.from_predictions(
        features, labels, method="tsne", n_samples=800, random_state=0, ax=ax
    )
    ax.set_title(f"{name}: accuracy {clustering_accuracy(digits.target, labels):.2f}")
plt.show()

# %%
# Views of vectors cannot use that these are images, so the result is worse than with the images
# themselves. If you have images, cluster those, or compare with good embeddings.
print(model.settings_)
