"""
A custom augmentation
=====================

Views say what does not matter about an image. Where orientation does not, as under a microscope
or from a satellite, say so.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

from skcc import ContrastiveClustering
from skcc.augment import ImageAugmentation
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import ClusterGridDisplay

# %%
# Digits that lie any way round
# -----------------------------
digits = load_digits()
chosen = np.isin(digits.target, [0, 1, 3, 4])
rng = np.random.default_rng(0)
images = np.stack([np.rot90(i, rng.integers(4)) for i in digits.images[chosen]])
classes = digits.target[chosen]

# %%
# Other numbers
# -------------
# Often the augmentations that are there do, with other numbers. The default turns gray images
# by a few degrees only; here they turn all the way.
turning = ImageAugmentation(scale=(0.6, 1.0), rotation=180, brightness=0.6, contrast=0.6)

# %%
# A function of your own
# ----------------------
# Or write a function from a batch of floats in [0, 1], of shape (n, channels, height, width),
# to a view of each image. It draws from torch's generator, which is seeded for it and put back
# after it.


def any_way_round(images):
    n = len(images)
    angle = 2 * math.pi * torch.rand(n)
    zoom = 0.7 + 0.3 * torch.rand(n)
    cos, sin, zero = zoom * angle.cos(), zoom * angle.sin(), torch.zeros(n)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(n, 2, 3)
    grid = F.affine_grid(turn, images.shape, align_corners=False)
    turned = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (turned * (0.5 + torch.rand(n, 1, 1, 1))).clamp(0, 1)


views = any_way_round(torch.from_numpy(images[:1]).float().expand(12, 1, 8, 8) / 255)
figure, axes = plt.subplots(1, 12, figsize=(9, 1), layout="constrained")
for ax, view in zip(axes, views, strict=True):
    ax.imshow(view[0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.axis("off")
figure.suptitle("twelve views of one image")
plt.show()

# %%
# Which one fits?
# ---------------
# By default, digits that lie and digits that stand are in clusters of their own.
figure, axes = plt.subplots(1, 3, figsize=(15, 2), layout="constrained")
choices = {"the default": "auto", "ImageAugmentation": turning, "a function": any_way_round}
for ax, (name, augment) in zip(axes, choices.items(), strict=True):
    model = ContrastiveClustering(n_clusters=4, augment=augment, max_epochs=20, random_state=0)
    accuracy = clustering_accuracy(classes, model.fit_predict(images))
    ClusterGridDisplay.from_estimator(model, images, n_images=10, ax=ax)
    ax.set_title(f"{name}: accuracy {accuracy:.2f}")
plt.show()
