"""
A custom augmentation
=====================

Views define what does not matter about an image. In images from a microscope or a satellite the
orientation does not matter, so views should be rotated.
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
# Digits in any orientation
# -------------------------
digits = load_digits()
chosen = np.isin(digits.target, [0, 1, 3, 4])
rng = np.random.default_rng(0)
images = np.stack([np.rot90(i, rng.integers(4)) for i in digits.images[chosen]])
classes = digits.target[chosen]

# %%
# Other settings
# --------------
# Often the existing augmentation is enough, with other settings. The default rotates gray images
# by a few degrees only; here the angle is arbitrary.
rotating = ImageAugmentation(scale=(0.6, 1.0), rotation=180, brightness=0.6, contrast=0.6)

# %%
# A function of your own
# ----------------------
# Or write a function from a batch of floats in [0, 1], of shape (n, channels, height, width),
# to a view of each image. It may draw from torch's global generator, which is seeded before and
# restored afterwards.


def rotate_randomly(images):
    n = len(images)
    angle = 2 * math.pi * torch.rand(n)
    zoom = 0.7 + 0.3 * torch.rand(n)
    cos, sin, zero = zoom * angle.cos(), zoom * angle.sin(), torch.zeros(n)
    rotation = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(n, 2, 3)
    grid = F.affine_grid(rotation, images.shape, align_corners=False)
    rotated = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (rotated * (0.5 + torch.rand(n, 1, 1, 1))).clamp(0, 1)


views = rotate_randomly(torch.from_numpy(images[:1]).float().expand(12, 1, 8, 8) / 255)
figure, axes = plt.subplots(1, 12, figsize=(9, 1), layout="constrained")
for ax, view in zip(axes, views, strict=True):
    ax.imshow(view[0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.axis("off")
figure.suptitle("twelve views of one image")
plt.show()

# %%
# Which one fits?
# ---------------
# With the default, lying and upright digits are in different clusters.
figure, axes = plt.subplots(1, 3, figsize=(15, 2), layout="constrained")
choices = {"the default": "auto", "ImageAugmentation": rotating, "a function": rotate_randomly}
for ax, (name, augment) in zip(axes, choices.items(), strict=True):
    model = ContrastiveClustering(n_clusters=4, augment=augment, max_epochs=20, random_state=0)
    accuracy = clustering_accuracy(classes, model.fit_predict(images))
    ClusterGridDisplay.from_estimator(model, images, n_images=10, ax=ax)
    ax.set_title(f"{name}: accuracy {accuracy:.2f}")
plt.show()
