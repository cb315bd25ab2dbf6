"""
How features form
=================

Maps of the features at four moments of training: a cloud falls apart into clusters.
"""

import matplotlib.pyplot as plt

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.plotting import EmbeddingDisplay, TrainingCurveDisplay

digits = load_digits()
images, classes = digits.images[:1000], digits.target[:1000]

# %%
# A callback that looks on
# ------------------------
# ``set_callbacks`` takes any object with these four methods; scikit-learn has callbacks since
# release 1.9. One that asks for ``fitted_estimator`` is handed, after each epoch, a model as if
# training had ended there. That costs a pass over the images.


class Snapshots:
    """Keep features and clusters of some epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def setup(self, estimator, context):
        self.taken = {}

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if fitted_estimator.n_iter_ in self.epochs:
            now = fitted_estimator.transform(X), fitted_estimator.labels_
            self.taken[fitted_estimator.n_iter_] = now


snapshots = Snapshots([1, 5, 12, 24])
model = ContrastiveClustering(n_clusters=10, max_epochs=24, batch_size=128, random_state=0)
model.set_callbacks(snapshots).fit(images)

# %%
# Four maps
# ---------
# t-SNE lays out the features, 128 numbers per image, on a plane. Colours are the clusters of
# that moment; the classes, which training never saw, serve for the accuracy alone.
figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained")
for ax, (epoch, (features, labels)) in zip(axes, snapshots.taken.items(), strict=True):
    EmbeddingDisplay.from_predictions(
        features, labels, method="tsne", n_samples=600, random_state=0, ax=ax
    )
    ax.set_title(f"epoch {epoch}, accuracy {clustering_accuracy(classes, labels):.2f}")
plt.show()

# %%
# The loss says much less. Its terms have floors well above zero, since views of other images
# are never as far apart as the formula would like: a curve that has become flat is no sign that
# nothing happens.
TrainingCurveDisplay.from_estimator(model)
plt.show()
