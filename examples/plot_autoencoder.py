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
# Estimators drop what only training needs, the decoder of an autoencoder too. So the same
# regression draws images from 20 principal components of the features of both. It is tried on
# images that neither network has seen.
drawn = {"image": held_out / 255}
for name, method, max_epochs in [
    ("VAE", VariationalAutoencoderClustering, 18),
    ("CC", ContrastiveClustering, 16),
]:
    model = method(10, max_epochs=max_epochs, batch_size=128, random_state=0).fit(images)
    code = PCA(20, whiten=True).fit(model.transform(images))
    codes, new = (code.transform(model.transform(X)) for X in (images, held_out))
    decoder = KernelRidge(alpha=1, kernel="rbf", gamma=0.015)
    decoder.fit(codes, images.reshape(len(images), -1) / 255)
    drawn[name] = decoder.predict(new).reshape(-1, 8, 8)
    error = np.square(drawn[name] - drawn["image"]).mean()
    accuracy = clustering_accuracy(classes, model.labels_)
    print(f"{name:3}  squared error {error:.3f}  accuracy of the clusters {accuracy:.2f}")
    if name == "VAE":
        steps = np.linspace(0, 1, 14)[:, None]
        between = decoder.predict((1 - steps) * new[2] + steps * new[5]).reshape(-1, 8, 8)
drawn["VAE, 3 to 0"] = between

# %%
# Fourteen digits again
# ---------------------
# The code of the autoencoder remembers more of how a digit was written. That is no advantage for
# clusters, which should not depend on it. The last row is drawn from codes on the line between
# those of two images: some of them stand for no digit.
figure, axes = plt.subplots(4, 14, figsize=(10, 3), layout="constrained")
for line, (name, row) in zip(axes, drawn.items(), strict=True):
    for ax, image in zip(line, row, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()
