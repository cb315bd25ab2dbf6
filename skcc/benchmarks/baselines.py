"""Plain code that the benchmarks compare with, as research code has it; also oracles of tests."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from skcc.benchmarks.workload import Workload
from skcc.objective import Epoch
from skcc.training.sweep import autocast

# -- views ----------------------------------------------------------------------------------


def pillow_transform(size: int, strength: float, *, blur: bool):
    """Make the augmentation of Contrastive Clustering for one image, by torchvision and Pillow."""
    from torchvision import transforms

    jitter = transforms.ColorJitter(
        0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength
    )  # fmt: skip
    blurs = [transforms.RandomApply([transforms.GaussianBlur(23, (0.1, 2.0))], 0.5)]
    return transforms.Compose([
        transforms.RandomResizedCrop(size),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([jitter], 0.8),
        transforms.RandomGrayscale(0.2),
        *(blurs if blur else []),
        transforms.ToTensor(),
    ])  # fmt: skip


class PillowViews(Dataset):
    """Two views of each image, made one image at a time."""

    def __init__(self, images: np.ndarray, size: int):
        self.images = images
        self.transform = pillow_transform(size, strength=0.5, blur=False)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = Image.fromarray(self.images[i])
        return self.transform(image), self.transform(image)


# -- losses ---------------------------------------------------------------------------------


def masked_nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Compute `skcc.losses.nt_xent` with a mask that selects the negatives."""
    rows = torch.cat([a, b])
    return _masked_cross_entropy(rows @ rows.T / temperature)


def broadcast_cluster_contrast(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    """Compute `skcc.losses.cluster_contrast` by broadcasting over all pairs of columns."""
    columns = torch.cat([p.T, q.T])
    similarity = F.cosine_similarity(columns[:, None], columns[None], dim=2) / temperature
    return _masked_cross_entropy(similarity)


def _masked_cross_entropy(similarity):
    """Return the cross-entropy of the positives, for similarities of shape (2n, 2n)."""
    n, device = len(similarity) // 2, similarity.device
    positives = torch.cat([similarity.diagonal(n), similarity.diagonal(-n)])[:, None]
    negative = torch.ones(2 * n, 2 * n, dtype=torch.bool, device=device).fill_diagonal_(False)
    i = torch.arange(n, device=device)
    negative[i, i + n] = negative[i + n, i] = False
    logits = torch.cat([positives, similarity[negative].reshape(2 * n, -1)], dim=1)
    return F.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long, device=device))


# -- training loops -------------------------------------------------------------------------


def plain_epoch(workload: Workload, on_part: Callable[[str | None], None] | None = None) -> None:
    """Train a workload for one epoch with a hand-written loop."""
    objective, store, device = workload.objective, workload.store, workload.device
    on_part = on_part or (lambda part: None)
    n, generator = len(store), torch.Generator().manual_seed(0)
    on_part("data")
    objective.before_epoch(Epoch(0, None, generator))
    tables = workload.views.draw(n, store.shape, generator, device)
    order = torch.randperm(n, generator=generator).to(device)
    for index in order.split(workload.batch):
        on_part("data")
        batch = store.samples[index]
        on_part("augmentation")
        views = workload.views(batch, tables, index)
        on_part("forward")
        with autocast(device, workload.dtype):
            loss = sum(objective(views, index).values())
        on_part("backward")
        gradients = torch.autograd.grad(loss, workload.parameters)
        on_part("optimizer")
        _step(workload, gradients)
        objective.after_step()
    on_part(None)


def _step(workload, gradients):
    for parameter, gradient in zip(workload.parameters, gradients, strict=True):
        parameter.grad = gradient
    workload.optimizer.step()
    workload.optimizer.zero_grad(set_to_none=True)


def published_epoch(workload: Workload, side: int) -> Callable[[], None]:
    """Make a function that trains a workload for one epoch of the published recipe.

    Views come from Pillow one image at a time, the network computes in float32, and masks select
    the negatives of the losses.
    """
    objective, device = workload.objective, workload.device
    images = workload.store.samples.cpu().numpy()
    loader = DataLoader(PillowViews(images, side), workload.batch)

    def epoch():
        for pair in loader:
            h = [objective.backbone(view.to(device)) for view in pair]
            z = [F.normalize(objective.instance_head(x), dim=1) for x in h]
            p = [F.softmax(objective.cluster_heads[0](x), dim=1) for x in h]
            entropy = sum((q.mean(0) * q.mean(0).log()).sum() for q in p)
            loss = masked_nt_xent(*z, 0.5) + broadcast_cluster_contrast(*p, 1.0) + entropy
            _step(workload, torch.autograd.grad(loss, workload.parameters))

    return epoch
