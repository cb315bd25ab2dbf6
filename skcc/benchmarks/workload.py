"""Synthetic images, and a network with everything that its training needs."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skcc.augment import AUGMENTATIONS, Views
from skcc.backbones import BACKBONES
from skcc.data import Store
from skcc.methods.contrastive import ContrastiveObjective
from skcc.objective import Setup
from skcc.rng import private_rng
from skcc.training.engine import train
from skcc.training.settings import resolve_device

HEADS = {
    "projection_dim": 128,
    "n_heads": 1,
    "instance_temperature": 0.5,
    "cluster_temperature": 1.0,
    "instance_weight": 1.0,
    "cluster_weight": 1.0,
    "entropy_weight": 1.0,
}
_DISTINCT_IMAGES = 512


def synthetic_images(n: int, side: int) -> np.ndarray:
    """Make smooth random colour images.

    Plain noise would be unusually hard to decode and to blur.
    """
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, max(2, side // 8), max(2, side // 8), 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((side, side))) for s in small])


class _JointObjective(ContrastiveObjective):
    joined = ()

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self.losses(*self.backbone(torch.cat(views)).chunk(2))


def with_joint_statistics(objective: ContrastiveObjective) -> ContrastiveObjective:
    """Pass both views through the backbone in one call, with joint batch statistics."""
    objective.__class__ = _JointObjective
    return objective


class Workload:
    """An objective, images, views and an optimizer: what a benchmark trains."""

    def __init__(
        self, *, backbone, side, batch, n, clusters, device, dtype=torch.float32, joint=False,
        channels_last=True, estimator=None,
    ):  # fmt: skip
        self.device = resolve_device(device)
        self.dtype, self.batch = dtype, batch
        images = torch.from_numpy(synthetic_images(min(n, _DISTINCT_IMAGES), side))
        repeats = -(-n // _DISTINCT_IMAGES)
        self.store = Store(images.repeat(repeats, 1, 1, 1)[:n].to(self.device))
        with private_rng(0, self.device):
            network = BACKBONES[backbone]((side, side, 3), (side, side)).eval()
            self.objective = self._make_objective(network, side, clusters, estimator)
        n_views = self.objective.n_views, self.objective.n_augmented
        self.views = Views(AUGMENTATIONS["natural"], (side, side), *n_views)
        if joint:
            with_joint_statistics(self.objective)
        if not channels_last:  # the views are channels last
            network.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.objective.to(self.device, memory_format=layout).train()
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)

    def _make_objective(self, network, side, clusters, estimator):
        n_features = network(torch.zeros(2, 3, side, side)).shape[1]
        setup = Setup(network, n_features, (3, side, side), len(self.store))
        if estimator is None:
            return ContrastiveObjective(setup, clusters, **HEADS)
        estimator.settings_ = {"max_epochs": 1, "batch_size": self.batch}
        return next(estimator._phases(setup)).objective

    def train_epoch(self, **options) -> None:
        """Train for one epoch with the engine; options are those of `engine.train`."""
        train(
            self.objective, self.store, self.views, epochs=1, batch_size=self.batch,
            learning_rate=1e-3, weight_decay=0.0, schedule="one-cycle", seed=0, dtype=self.dtype,
            **options,
        )  # fmt: skip
