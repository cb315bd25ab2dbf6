"""
Features of a network that knows other classes
==============================================

Features that somebody else's network computes are rows of numbers. k-means divides them by the
distances to ten centres; ``NeighborClustering`` asks the nearest neighbours.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.neural_network import MLPClassifier

from skcc import NeighborClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import EmbeddingDisplay

digits = load_digits()
rows, classes = digits.images.reshape(-1, 64) / 255, digits.target

# %%
# Networks that were trained on half of the classes
# -------------------------------------------------
# A pre-trained network rarely knows the classes that are wanted. Here it is a perceptron that
# learned, with labels, to tell five of the digits apart. Its hidden layer is used on all ten.
vectors = {"pixels": rows}
for name, known in {
    "digits 0 to 4": [0, 1, 2, 3, 4],
    "digits 5 to 9": [5, 6, 7, 8, 9],
    "even digits": [0, 2, 4, 6, 8],
    "odd digits": [1, 3, 5, 7, 9],
}.items():
    seen = np.isin(classes, known)
    network = MLPClassifier((128,), max_iter=300, random_state=0).fit(rows[seen], classes[seen])
    hidden = np.maximum(rows @ network.coefs_[0] + network.intercepts_[0], 0)
    vectors[f"trained on\n{name}"] = hidden

# %%
# Two ways to cluster them
# ------------------------
# ``NeighborClustering`` trains no network. It refines several partitions, that of k-means among
# them, until each sample has the cluster that its neighbours make likeliest; the best ones vote.
methods = [KMeans(10, n_init=10, random_state=0), NeighborClustering(10, random_state=0)]
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
for method in methods:
    accuracy = [clustering_accuracy(classes, method.fit_predict(X)) for X in vectors.values()]
    axes[0].plot(accuracy, range(len(vectors)), "o", label=type(method).__name__)
axes[0].set_yticks(range(len(vectors)), vectors)
axes[0].set(xlabel="accuracy", xlim=(0.65, 1), title="all ten digits")
axes[0].legend()
EmbeddingDisplay.from_predictions(
    hidden, method.labels_, method="tsne", n_samples=800, random_state=0, ax=axes[1]
)
axes[1].set_title("clusters by neighbours (trained on odd digits)")
plt.show()

# %%
# These networks know too little of other digits to beat the pixels, but k-means is ahead in none of
# the five rows. `skcc.ImageEmbedder` computes features by networks of torchvision and timm.
