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
from skcc.distributed import gather
from skcc.losses import negative_entropy
from skcc.metrics import clustering_accuracy
from skcc.objective import Objective
from skcc.plotting import ClusterConfusionDisplay, TrainingCurveDisplay

# %%
# What is trained
# ---------------
# An objective gives the terms of the loss, which are added up, soft assignments, and features. Here
# the terms are what the cluster of a view tells about that of the other, and one of the package
# that keeps clusters from running empty. `gather` is for several processes: terms need all rows.


class InformationObjective(Objective):
    def __init__(self, backbone, n_features, n_clusters):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(n_features, n_clusters)

    def forward(self, views, index):
        p, q = gather(*(self.assign(view) for view in views))
        joint = ((p.T @ q + q.T @ p) / (2 * len(p))).clamp_min(1e-9)
        margin = joint.sum(dim=1, keepdim=True)
        information = (joint * (joint / (margin * margin.T)).log()).sum()
        return {"information": -information, "entropy": negative_entropy((p + q) / 2)}

    def assign(self, images):
        return self.head(self.embed(images)).float().softmax(dim=1)

    def embed(self, images):
        return self.backbone(images)


# %%
# A constructor, as scikit-learn wants it, and the objective for the engine.
class InformationClustering(BaseDeepClusterer):
    def __init__(self, n_clusters=8, *, backbone="auto", augment="auto", image_size=None,
                 image_shape=None, augmented_views=2, readout="head", max_epochs="auto",
                 max_seconds=None, batch_size="auto", learning_rate="auto", weight_decay=0.0,
                 schedule="one-cycle", checkpoint_dir=None, device="auto", precision="auto",
                 sync_batchnorm=True, n_jobs=None, cache_dir=None, on_error="raise",
                 random_state=None, verbose=0):  # fmt: skip
        self.n_clusters, self.backbone, self.augment = n_clusters, backbone, augment
        self.image_size, self.image_shape, self.readout = image_size, image_shape, readout
        self.augmented_views, self.max_seconds = augmented_views, max_seconds
        self.max_epochs, self.batch_size, self.schedule = max_epochs, batch_size, schedule
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.checkpoint_dir, self.device, self.precision = checkpoint_dir, device, precision
        self.sync_batchnorm, self.n_jobs, self.cache_dir = sync_batchnorm, n_jobs, cache_dir
        self.on_error, self.random_state, self.verbose = on_error, random_state, verbose

    def _phases(self, backbone, n_features, settings):
        yield InformationObjective(backbone, n_features, self.n_clusters), settings


# %%
# All else works as in the package, whose own methods do better on digits.
digits = load_digits()
model = InformationClustering(n_clusters=10, max_epochs=24, random_state=0).fit(digits.images)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
TrainingCurveDisplay.from_estimator(model, ax=axes[0])
ClusterConfusionDisplay.from_predictions(digits.target, model.labels_, ax=axes[1])
axes[1].set_title(f"accuracy {clustering_accuracy(digits.target, model.labels_):.2f}")
plt.show()
