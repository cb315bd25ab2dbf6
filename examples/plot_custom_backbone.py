"""
A custom backbone
=================

Any module of torch from images to features can be the network.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import ClusterGridDisplay

digits = load_digits()

# %%
# The network
# -----------
# It maps (n, channels, height, width) to (n, d); the width d is found by a forward pass. Images of
# digits have one channel and 8 x 8 pixels; ``image_size`` would resize them.
#
# Its initial weights are drawn here, so they do not depend on ``random_state``.
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(1, 24, 5, padding=2, bias=False),
    nn.BatchNorm2d(24),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(24, 48, 3, padding=1, bias=False),
    nn.BatchNorm2d(48),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(2),
    nn.Flatten(),
)

# %%
# Estimators of scikit-learn do not change their parameters. So the estimator trains a copy, and
# ``network`` itself stays as it is. If your network is trained already, training starts from its
# weights.
models = {
    "this network": ContrastiveClustering(10, backbone=network, max_epochs=24, random_state=0),
    "the default": ContrastiveClustering(10, max_epochs=12, random_state=0),
}
for name, model in models.items():
    model.fit(digits.images)
    size = sum(weights.size for key, weights in model.weights_.items() if "backbone" in key)
    accuracy = clustering_accuracy(digits.target, model.labels_)
    print(f"{name}: {size:,} weights, {model.n_iter_} epochs, accuracy {accuracy:.2f}")

# %%
# Its clusters
# ------------
# With a fraction of the weights it is not as good, but most of the digits are in the right cluster.
ClusterGridDisplay.from_estimator(models["this network"], digits.images, n_images=16)
plt.show()

# %%
# Saving
# ------
# The file has weights and no code, so the module is given again when it is loaded.
path = Path(tempfile.mkdtemp()) / "digits.safetensors"
models["this network"].save(path)
again = ContrastiveClustering.load(path, backbone=network)
print((again.predict(digits.images) == models["this network"].labels_).all())
