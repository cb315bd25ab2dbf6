"""
A walk to another image and back
================================

Associative Deep Clustering (ADC) sends a walker from an image to a near one, and from there back.
If classes are apart in the features, the walker comes back to the class where it began.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax
from sklearn.preprocessing import StandardScaler

from skcc import ADC
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:1000], digits.target[:1000]

# %%
# Training
# --------
# In training the walk leads from augmented views to plain ones and back, and should end at a view
# of the image where it began. After half of the epochs, others begin at the centroids of the
# clusters. No label is used.
model = ADC(n_clusters=10, max_epochs=20, random_state=0)
labels = model.fit_predict(images)
print(f"accuracy {clustering_accuracy(classes, labels):.2f}")

# %%
# The walks that result
# ---------------------
# A step goes to a row with a probability that is the softmax of the cosines. Half of the images are
# where walks begin and end, the others are visited. The table has the probability that a walk which
# began at a digit (row) ends at a digit (column).


def round_trips(rows, classes, temperature):
    """Probabilities to get from each class to each, by way of the other half of the rows."""
    a, b = rows[::2], rows[1::2]
    there = softmax(a @ b.T / temperature, axis=1)
    back = softmax(b @ a.T / temperature, axis=1)
    member = np.eye(10)[classes[::2]]
    return (member / member.sum(axis=0)).T @ there @ back @ member


figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.6), layout="constrained", sharey=True)
rows = {"pixels": images.reshape(len(images), -1) / 255, "features of ADC": model.transform(images)}
for ax, (name, X) in zip(axes, rows.items(), strict=True):
    X = StandardScaler().fit_transform(X)
    table = round_trips(X / np.linalg.norm(X, axis=1, keepdims=True), classes, 0.1)
    ax.imshow(table, cmap="viridis", vmin=0, vmax=1)
    ax.set(xlabel="walk ends at", xticks=range(10), yticks=range(10))
    ax.set_title(f"{name}: {np.diag(table).mean():.0%} return")
axes[0].set_ylabel("walk begins at")
plt.show()

# %%
# Among pixels a walk easily gets from a nine to a three; among the features most walks come back.
