"""
A custom objective
==================

A new method is two small classes; loop, devices, files and the face of scikit-learn are there. This
one is Invariant Information Clustering (Ji et al., ICCV 2019).
"""

import matplotlib.pyplot as plt
from torch import nn

from skcc.base import BaseDeepClusterer
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy
from skcc.objective import Objective
from skcc.plotting import ClusterConfusionDisplay, TrainingCurveDisplay

# %%
# What is trained
# ---------------
# An objective gives the terms of the loss, whose sum is minimised, soft assignments, and features.
# Here the loss is what the cluster of one view tells about that of the other.


class InformationObjective(Objective):
    def __init__(self, backbone, n_features, n_clusters):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(n_features, n_clusters)

    def forward(self, views, index):
        p, q = (self.assign(view) for view in views)
        joint = ((p.T @ q + q.T @ p) / (2 * len(p))).clamp_min(1e-9)
        margin = joint.sum(dim=1, keepdim=True)
        information = (joint * (joint / (margin * margin.T)).log()).sum()
        return {"information": -information}

    def assign(self, images):
        return self.head(self.embed(images)).float().softmax(dim=1)

    def embed(self, images):
        return self.backbone(images)


# %%
# The estimator
# -------------
# It has a constructor, as scikit-learn wants it, and hands the objective to the engine.


class InformationClustering(BaseDeepClusterer):
    def __init__(self, n_clusters=8, *, backbone="auto", augment="auto", image_size=None,
                 image_shape=None, augmented_views=2, readout="head", max_epochs="auto",
                 max_seconds=None, batch_size="auto", learning_rate="auto", weight_decay=0.0,
                 schedule="one-cycle", checkpoint_dir=None, device="auto", precision="auto",
                 sync_batchnorm=True, n_jobs=None, cache_dir=None, on_error="raise",
                 random_state=None, verbose=0):  # fmt: skip
        self.n_clusters, self.backbone, self.augment = n_clusters, backbone, augment
        self.image_size, self.image_shape = image_size, image_shape
        self.augmented_views, self.readout = augmented_views, readout
        self.max_epochs, self.max_seconds, self.batch_size = max_epochs, max_seconds, batch_size
        self.learning_rate, self.weight_decay, self.schedule = learning_rate, weight_decay, schedule
        self.checkpoint_dir, self.device, self.precision = checkpoint_dir, device, precision
        self.sync_batchnorm, self.n_jobs, self.cache_dir = sync_batchnorm, n_jobs, cache_dir
        self.on_error, self.random_state, self.verbose = on_error, random_state, verbose

    def _phases(self, backbone, n_features, settings):
        yield InformationObjective(backbone, n_features, self.n_clusters), settings


# %%
# Everything else works as it does for the methods of the package.
digits = load_digits()
model = InformationClustering(n_clusters=10, max_epochs=24, random_state=0).fit(digits.images)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
TrainingCurveDisplay.from_estimator(model, ax=axes[0])
ClusterConfusionDisplay.from_predictions(digits.target, model.labels_, ax=axes[1])
axes[1].set_title(f"accuracy {clustering_accuracy(digits.target, model.labels_):.2f}")
plt.show()
