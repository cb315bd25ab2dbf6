"""
Clusters that teach themselves
==============================

Deep Embedded Clustering (DEC) begins with the code of an autoencoder, and trains the encoder by
its own most certain assignments.
"""

import matplotlib.pyplot as plt

from skcc import DEC, DenoisingAutoencoderClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import EmbeddingDisplay

digits = load_digits()
images, classes = digits.images[:800], digits.target[:800]

# %%
# Before and after
# ----------------
# The first phase of DEC is a denoising autoencoder, and k-means of its code gives centres. In the
# second phase each image has a probability for each centre. They are squared and normalised, which
# makes large ones larger, and the encoder is trained to give the result.
#
# Clusters are read off here as in the papers: by k-means of the code, and by the largest
# probability.
models = {
    "autoencoder": DenoisingAutoencoderClustering(10, readout="kmeans"),
    "DEC": DEC(10, readout="head"),
}
figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
for ax, (name, model) in zip(axes, models.items(), strict=False):
    labels = model.set_params(max_epochs=16, batch_size=128, random_state=0).fit_predict(images)
    code = model.transform(images)
    EmbeddingDisplay.from_predictions(
        code, labels, method="tsne", n_samples=500, random_state=0, ax=ax
    )
    ax.set_title(f"{name}: accuracy {clustering_accuracy(classes, labels):.2f}")
EmbeddingDisplay.from_predictions(
    code, classes, method="tsne", n_samples=500, random_state=0, ax=axes[2]
)
axes[2].set_title("DEC, in the colours of the digits")
plt.show()

# %%
# Images between two clusters were drawn to one of them, whether it is the right one or not. So the
# clusters look far better separated than they are right: what the autoencoder has merged stays
# merged.
