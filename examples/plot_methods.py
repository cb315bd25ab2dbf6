"""
Six methods on the same digits
==============================

What deep clustering has tried over the years, from autoencoders to contrast, on the same scans of
digits and with the same network.
"""

import time

import matplotlib.pyplot as plt

import skcc
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:1000], digits.target[:1000]

# %%
# The methods
# -----------
# An autoencoder asks for no clusters. DEC sharpens those that it finds there. DeepCluster learns
# the labels of k-means, JULE those of a merging that goes on while it learns. The last two contrast
# views of images. They train for 24 epochs, less than by default, to save time.
METHODS = {
    "autoencoder": skcc.AutoencoderClustering,
    "DEC": skcc.DEC,
    "DeepCluster": skcc.DeepCluster,
    "JULE": skcc.JULE,
    "Twin-Contrast": skcc.TwinContrastClustering,
    "Contrastive": skcc.ContrastiveClustering,
}
accuracy, seconds = {}, {}
for name, method in METHODS.items():
    started = time.perf_counter()
    model = method(10, max_epochs=24, batch_size=128, random_state=0)
    labels = model.fit_predict(images)
    seconds[name] = time.perf_counter() - started
    accuracy[name] = clustering_accuracy(classes, labels)
    print(f"{name:14} {accuracy[name]:.3f}  {seconds[name]:5.1f} s")

# %%
# Accuracy against time
# ---------------------
# By default, all of them read their clusters off the nearest neighbours among the features, so the
# figures say how good the features are. ``readout="head"`` or ``readout="kmeans"`` reads them off
# as the papers did.
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for name in METHODS:
    ax.scatter(seconds[name], accuracy[name])
    ax.annotate(name, (seconds[name], accuracy[name]), xytext=(5, 5), textcoords="offset points")
ax.set(xlabel="seconds", ylabel="accuracy", xlim=(0, 1.25 * max(seconds.values())))
ax.margins(y=0.15)
plt.show()

# %%
# One seed proves little, and other images another thing. The page "Which method?" has the rest.
