"""
What a code remembers
=====================

An autoencoder keeps what it needs to draw an image again. A contrastive network keeps what two
views of an image have in common. Drawing from the features of both shows the difference.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge

from skcc import ContrastiveClustering, VariationalAutoencoderClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
images, classes = digits.images[:1000], digits.target[:1000]
held_out = digits.images[1200:1214]

# %%
# Two networks, one decoder
# -------------------------
# Estimators drop what is only needed for training, the decoder of an autoencoder too. So the same
# regression draws images from the features of both, and is tried on images that neither has seen.
drawn = {"image": held_out / 255}
for name, method, max_epochs in [
    ("VAE", VariationalAutoencoderClustering, 24),
    ("CC", ContrastiveClustering, 16),
]:
    model = method(10, max_epochs=max_epochs, random_state=0).fit(images)
    code = PCA(20, whiten=True).fit(model.transform(images))
    codes, new = (code.transform(model.transform(X)) for X in (images, held_out))
    decoder = KernelRidge(alpha=1, kernel="rbf", gamma=0.015)
    decoder.fit(codes, images.reshape(len(images), -1) / 255)
    drawn[name] = decoder.predict(new).reshape(-1, 8, 8)
    accuracy = clustering_accuracy(classes, model.labels_)
    error = np.square(drawn[name] - drawn["image"]).mean()
    print(f"{name}: squared error {error:.3f}, accuracy {accuracy:.2f}")
    if name == "VAE":
        steps = np.linspace(0, 1, 14)[:, None]
        between = decoder.predict((1 - steps) * new[2] + steps * new[5]).reshape(-1, 8, 8)


def show(rows):
    _, axes = plt.subplots(len(rows), 14, figsize=(9, 0.72 * len(rows)), squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, row, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    plt.show()


# %%
# Fourteen digits again
# ---------------------
show(drawn)
# %%
show({"between": between})
