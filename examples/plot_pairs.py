"""
Which pairs belong together?
============================

Deep Adaptive Clustering (DAC) compares two images by the cosine of their soft assignments, and
trains on the pairs that it is sure of.
"""

import matplotlib.pyplot as plt
import numpy as np

from skcc import DAC
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:800], digits.target[:800]

# %%
# Two lengths of training
# -----------------------
# Pairs above one threshold are called similar, pairs below another one dissimilar. During training
# the two approach each other. The classes say here who is right; the method does not see them.
order = np.argsort(classes, kind="stable")[::4]
same = classes[order, None] == classes[order]
figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained", height_ratios=[3, 2])
for (top, bottom), max_epochs in zip(axes.T, [10, 30], strict=True):
    model = DAC(10, max_epochs=max_epochs, batch_size=100, readout="head", random_state=0)
    labels = model.fit_predict(images)
    p = model.predict_proba(images[order])
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    cosines = p @ p.T
    top.imshow(cosines, cmap="viridis", vmin=0, vmax=1)
    top.set(xticks=[], yticks=[], ylabel="images, ordered by digit")
    top.set_title(f"{max_epochs} epochs: accuracy {clustering_accuracy(classes, labels):.2f}")
    for name, chosen in {"one digit": same, "different digits": ~same}.items():
        bottom.hist(cosines[chosen], np.linspace(0, 1, 26), density=True, alpha=0.6, label=name)
    similar = cosines > 0.5
    bottom.set(xlabel="cosine of a pair", ylabel="density", yscale="log")
    bottom.set_title(f"{same[similar].mean():.0%} of the pairs above .5 are of one digit")
    bottom.legend()
plt.show()

# %%
# A mistake among sure pairs is learned like any other pair, and then confirms itself: these are the
# yellow patches beside the diagonal. Longer training makes most pairs sure, right or wrong.
