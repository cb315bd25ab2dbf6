"""
A custom objective
==================

A new method is two small classes; training loop, devices, files and the scikit-learn API are
inherited. This one is Invariant Information Clustering (Ji et al., ICCV 2019) in its simplest form.
"""

import matplotlib.pyplot as plt
from torch import nn

from skcc.base import BaseDeepClusterer
from skcc.datasets import load_digits
from skcc.distributed import gather
from skcc.losses import negative_entropy
from skcc.metrics import clustering_accuracy
from skcc.objective import Objective, Phase
from skcc.plotting import ClusterConfusionDisplay, TrainingCurveDisplay

# %%
# The objective
# -------------
# An objective returns loss terms, which are added up, soft assignments, and features. The first
# term is the mutual information of the assignments of two views; the second one is from the package
# and keeps clusters from running empty. `gather` collects the rows of all processes.


class InformationObjective(Objective):
    def __init__(self, setup, n_clusters, entropy_weight):
        super().__init__()
        self.backbone, self.n_embedding = setup.backbone, setup.n_features
        self.head = nn.Linear(setup.n_features, n_clusters)
        self.entropy_weight = entropy_weight

    def forward(self, views, index):
        p, q = gather(*(self.assign(view) for view in views))
        joint = ((p.T @ q + q.T @ p) / (2 * len(p))).clamp_min(1e-9)
        marginal = joint.sum(dim=1, keepdim=True)
        information = (joint * (joint / (marginal * marginal.T)).log()).sum()
        entropy = self.entropy_weight * negative_entropy((p + q) / 2)
        return {"information": -information, "entropy": entropy}

    def assign(self, images):
        return self.head(self.embed(images)).float().softmax(dim=1)

    def embed(self, images):
        return self.backbone(images)


# %%
# The estimator
# -------------
# It declares its own parameters and inherits those that all estimators share. A phase is a part of
# training with an objective; methods with pre-training yield several.


class InformationClustering(BaseDeepClusterer):
    entropy_weight: float = 1.0

    def _phases(self, setup):
        yield Phase(InformationObjective(setup, self.n_clusters, self.entropy_weight))


# %%
# Everything else works as in the package, whose own methods do better on digits.
digits = load_digits()
model = InformationClustering(n_clusters=10, max_epochs=24, random_state=0).fit(digits.images)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
TrainingCurveDisplay.from_estimator(model, ax=axes[0])
ClusterConfusionDisplay.from_predictions(digits.target, model.labels_, ax=axes[1])
axes[1].set_title(f"accuracy {clustering_accuracy(digits.target, model.labels_):.2f}")
plt.show()
