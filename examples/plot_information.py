"""
Clusters that stay themselves
=============================

PICA compares each cluster with itself and the others in another view of the images. The views
decide what it finds: weak ones make it confident of clusters that are wrong.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from skcc import PICA
from skcc.augment import AUGMENTATIONS, ImageAugmentation
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:800], digits.target[:800]

# %%
# Two augmentations
# -----------------
# The default for gray images crops, rotates and slants. The other one crops by less than a pixel.


def random_views(augment, seed):
    """One view of each image, as integers from 0 to 255."""
    n, pixels = len(images), torch.from_numpy(images)[..., None]
    table = augment.draw(n, (8, 8, 1), torch.Generator().manual_seed(seed))
    views = augment(pixels, table, torch.arange(n), (8, 8))
    return (255 * views[:, 0]).round().to(torch.uint8).numpy()


choices = {"the default views": AUGMENTATIONS["gray"],
           "weak views": ImageAugmentation(scale=(0.8, 1.0), flip=0.0)}  # fmt: skip

# %%
# The cosines of clusters
# -----------------------
# A cluster is the column of its probabilities for all images. Its cosine with itself in another
# view should be 1, those with other clusters 0. No label is needed for that; the accuracy needs
# them.
figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.8), layout="constrained")
for ax, (name, augment) in zip(axes, choices.items(), strict=True):
    model = PICA(10, augment=augment, max_epochs=20, batch_size=100, readout="head", random_state=0)
    accuracy = clustering_accuracy(classes, model.fit_predict(images))
    p, q = (model.predict_proba(random_views(augment, seed)) for seed in (1, 2))
    cosines = (p / np.linalg.norm(p, axis=0)).T @ (q / np.linalg.norm(q, axis=0))
    ax.imshow(cosines, cmap="viridis", vmin=0, vmax=1)
    ax.set(xlabel="clusters of another view", ylabel="clusters of a view", xticks=[], yticks=[])
    itself = np.diag(cosines).mean()
    ax.set_title(f"{name}\ncosine with itself {itself:.2f}, accuracy {accuracy:.2f}")
plt.show()

# %%
# Weak views are easier to agree on, so less has to be learned about digits. IIC, whose loss is the
# mutual information of the clusters of two views, depends on the views in the same way.
