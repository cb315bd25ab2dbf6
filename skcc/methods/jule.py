"""JULE (Yang, Parikh, Batra, CVPR 2016)."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import compute_on_rank_zero, gather
from skcc.objective import Objective, Phase, Setup
from skcc.readouts.linkage import MAX_SAMPLES, graph_degree_linkage, spread, neighbor_weights, chains


class AgglomerativeObjective(Objective):
    n_views = 2

    def __init__(self, setup: Setup, n_clusters, *, n_epochs, embedding_dim, unrolling_rate, margin, n_negatives):
        super().__init__()
        n = setup.n_samples
        self.n_clusters, self.n_embedding = n_clusters, embedding_dim
        self.unrolling_rate, self.margin, self.n_negatives = unrolling_rate, margin, n_negatives
        self.backbone, self.head = setup.backbone, nn.Linear(setup.n_features, embedding_dim)
        self.register_buffer("labels", torch.zeros(n, dtype=torch.long))
        self.register_buffer("sample", torch.zeros(min(n, MAX_SAMPLES), dtype=torch.long))
        self.register_buffer("targets", torch.zeros(n_epochs, dtype=torch.long))
        self.register_buffer("keys", torch.zeros(n, 2, 2))
        self.register_buffer("centers", torch.zeros(n_clusters, embedding_dim))
        self.register_buffer("variance", torch.ones(()))

    def before_epoch(self, epoch):
        self.keys.copy_(torch.rand(self.keys.shape, generator=epoch.generator))
        if epoch.number == 0:
            n = len(self.labels)
            self.sample.copy_(torch.randperm(n, generator=epoch.generator)[: len(self.sample)].sort().values)
            X = epoch.sweep(lambda v: v.flatten(1)).numpy()
            self._begin(X)
        elif (target := int(self.targets[epoch.number])) < self.labels.max() + 1:
            X = epoch.sweep(self.embed).numpy()
            self._merge(X, target, self.labels.numpy() if RECURRENT else None)

    def _begin(self, X):
        s = self.sample.numpy()
        w, near = neighbor_weights(X[s])
        count = chains(near, self.n_clusters).max() + 1
        counts = []
        while count > self.n_clusters:
            count = max(self.n_clusters, count - math.ceil(self.unrolling_rate * count))
            counts.append(count)
        counts = torch.tensor(counts or [self.n_clusters])
        E = len(self.targets)
        self.targets.copy_(counts[torch.arange(E) * len(counts) // E])
        print(counts)
        self._merge(X, int(self.targets[0]))

    def _merge(self, X, target, labels=None):
        s = self.sample.numpy()
        l = graph_degree_linkage(X[s], target, labels=None if labels is None else labels[s])
        self.labels.copy_(torch.from_numpy(spread(X, s, l)))

    def forward(self, views, index):
        z = torch.stack([self.embed(v) for v in views], dim=1)
        z, index = gather(z, index)
        labels, keys = self.labels[index], self.keys[index]
        if len(views) == 1: keys = keys[:, :1]
        return {"triplets": self.triplets(z.flatten(0, 1), labels.repeat_interleave(z.shape[1]), keys.flatten(0, 1))}

    def triplets(self, z, labels, keys):
        squared = 2 - 2 * z @ z.T
        same = labels[:, None] == labels
        draw = (keys[:, :1] + keys[:, 1]) % 1
        own = torch.eye(len(z), dtype=torch.bool)
        has, positive = draw.masked_fill(~same | own, -1).max(dim=1)
        neg = draw.masked_fill(same, -1).topk(min(self.n_negatives, len(z)), dim=1)
        hinge = squared.gather(1, positive[:, None]) - squared.gather(1, neg.indices) + self.margin
        valid = (neg.values >= 0) & (has >= 0)[:, None]
        return (hinge.clamp_min(0) * valid).sum() / valid.sum().clamp_min(1)

    def after_training(self, epoch):
        X = epoch.sweep(self.embed).numpy()
        self._merge(X, self.n_clusters)
        z = torch.from_numpy(X)
        for k in range(self.n_clusters):
            self.centers[k] = z[self.labels == k].mean(0)
        self.variance.copy_((z - self.centers[self.labels]).square().mean())

    def assign(self, images):
        return F.softmax(-torch.cdist(self.embed(images).float(), self.centers).square() / (2 * self.variance), dim=1)

    def embed(self, images):
        return F.normalize(self.head(self.backbone(images)), dim=1)

RECURRENT = True

class JULE(BaseDeepClusterer):
    """Draft."""

    embedding_dim: int = 160
    unrolling_rate: float = 0.9
    margin: float = 0.2
    n_negatives: int = 20
    views: int = 2

    def _phases(self, setup):
        o = AgglomerativeObjective(setup, self.n_clusters, n_epochs=self.settings_["max_epochs"], embedding_dim=self.embedding_dim, unrolling_rate=self.unrolling_rate, margin=self.margin, n_negatives=self.n_negatives)
        o.n_views = self.views
        yield Phase(o)

    @property
    def merged_(self):
        return self.weights_["labels"]
