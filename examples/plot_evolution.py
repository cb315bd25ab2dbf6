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
# A callback that keeps features
# ------------------------------
# ``set_callbacks`` takes any object with these four methods; scikit-learn has callbacks since
# release 1.9. With the parameter ``fitted_estimator``, it gets a model after each epoch, as if
# training had ended there. That takes a pass over the images.


class FeatureRecorder:
    """Keep features and clusters of some epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def setup(self, estimator, context):
        self.snapshots = {}

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if fitted_estimator.n_iter_ in self.epochs:
            features = fitted_estimator.transform(X)
            self.snapshots[fitted_estimator.n_iter_] = features, fitted_estimator.labels_


recorder = FeatureRecorder([1, 5, 12, 24])
model = ContrastiveClustering(n_clusters=10, max_epochs=24, batch_size=128, random_state=0)
model.set_callbacks(recorder).fit(images)

# %%
# Four maps
# ---------
# t-SNE maps the features, 128 numbers per image, to a plane. Colours are the clusters at that
# epoch. The classes are used for the accuracy only.
figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained")
for ax, (epoch, (features, labels)) in zip(axes, recorder.snapshots.items(), strict=True):
    EmbeddingDisplay.from_predictions(
        features, labels, method="tsne", n_samples=600, random_state=0, ax=ax
    )
    ax.set_title(f"epoch {epoch}, accuracy {clustering_accuracy(classes, labels):.2f}")
plt.show()

# %%
# The loss says much less. Its terms have lower bounds well above zero, since views of different
# images cannot all be far apart. Training may still improve the features when the curve is flat.
TrainingCurveDisplay.from_estimator(model)
plt.show()
