"""
How much one view tells about another
=====================================

Invariant Information Clustering (IIC) wants the cluster of one view of an image to tell the
cluster of another one. A table of the two shows what it has learned, and what the views decide.
"""

import matplotlib.pyplot as plt
import torch

from skcc import IIC
from skcc.augment import AUGMENTATIONS, ImageAugmentation
from skcc.datasets import load_digits
from skcc.losses import negative_mutual_information
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:1000], digits.target[:1000]
pixels = torch.from_numpy(images)[..., None]


def views_of(pixels, augment, seed):
    """Random views of all images, as integers from 0 to 255."""
    table = augment.draw(len(pixels), (8, 8, 1), torch.Generator().manual_seed(seed))
    views = augment(pixels, table, torch.arange(len(pixels)), (8, 8))
    return (255 * views[:, 0]).round().to(torch.uint8).numpy()


# %%
# Two augmentations
# -----------------
# The default for gray images crops, rotates and slants them. The other one moves them by less than
# a pixel. Nothing is measured by the classes but the accuracy.
choices = {"the default views": AUGMENTATIONS["gray"],
           "weak views": ImageAugmentation(scale=(0.9, 1.0), flip=0.0)}  # fmt: skip
figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.6), layout="constrained")
for ax, (name, augment) in zip(axes, choices.items(), strict=True):
    model = IIC(10, augment=augment, max_epochs=24, readout="head", random_state=0).fit(images)
    p, q = (torch.from_numpy(model.predict_proba(views_of(pixels, augment, seed)))
            for seed in (1, 2))  # fmt: skip
    joint = (p.T @ q + q.T @ p) / (2 * len(p))
    information = -negative_mutual_information(p, q, marginal_weight=1).item()
    ax.imshow(joint.sqrt(), cmap="magma", vmin=0, vmax=0.32)
    ax.set(xlabel="cluster of another view", ylabel="cluster of a view", xticks=[], yticks=[])
    accuracy = clustering_accuracy(classes, model.labels_)
    ax.set_title(f"{name}: {information:.2f} nats, accuracy {accuracy:.2f}")
    print(name, torch.bincount(torch.from_numpy(model.labels_)))
plt.show()
