"""A trained objective on its device, and everything that is computed with it."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skcc import distributed
from skcc.augment import Views
from skcc.data import SampleStore, Store
from skcc.data.decoding import none_could_be_read
from skcc.exceptions import ImageReadWarning, warn
from skcc.objective import Objective
from skcc.readouts import TorchClassifier, k_means
from skcc.rng import private_rng
from skcc.training.sweep import SMALL_BATCHES, device_of, inference_batch, sweep

_PAIR_BY_PAIR = "donot_use_mm_for_euclid_dist"  # so that no row depends on the size of the batch


class FittedModel:
    """A trained objective with a read-out."""

    def __init__(self, objective: Objective, views: Views, draws: bool, dtype: torch.dtype):
        self.objective, self.views, self.draws, self.dtype = objective, views, draws, dtype
        self.device = device_of(objective)
        self._batch_sizes: dict[tuple, tuple[int, ...]] = {}  # found by trial
        self.order = torch.arange(0)
        self.centers = self.variance = self.classifier = None

    def set_readout(self, order, centers=None, variance=None, classifier=None) -> None:
        """Set how clusters are read off; without centres or classifier, it is the head."""
        self._batch_sizes = {}
        self.order = torch.tensor(order, device=self.device)
        if classifier is not None:
            self.classifier = TorchClassifier(classifier, self.device)
        if centers is not None:
            # In the order of k-means, so that sums are the same to the last bit.
            centers = torch.tensor(centers, device=self.device)[self.order.argsort()]
        self.centers, self.variance = centers, variance

    def assign(self, view: Tensor) -> Tensor:
        """Soft assignments by the read-out."""
        if self.classifier is not None:
            return self.classifier(self.objective.embed(view))[:, self.order]
        if self.centers is None:
            return self.objective.assign(view)[:, self.order]
        features = F.normalize(self.objective.embed(view).float())
        distance = torch.cdist(features, self.centers, compute_mode=_PAIR_BY_PAIR)
        return F.softmax(-(distance**2) / (2 * self.variance), dim=1)[:, self.order]

    def sweep(
        self,
        store: SampleStore,
        function: Callable[[Tensor], Tensor],
        view: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> np.ndarray:
        """Apply a function of views to all samples."""
        size = None if view else self._batch_size(store, function)
        rows = self._sweep(store, function, view or self.views.plain, size)
        return rows.float().numpy()

    def _sweep(self, store, function, view, size):
        return sweep(self.objective, store, function, view=view, dtype=self.dtype, batch_size=size)

    def _batch_size(self, store, function):
        """The smallest batch that holds all samples and gives each the bits of a large one.

        None if there is none.
        """
        method = getattr(function, "__func__", None)
        if method is None or len(store) > SMALL_BATCHES[-1]:
            return None
        key = method, self.dtype, torch.get_num_threads()
        if key not in self._batch_sizes:
            first = store.batch(torch.zeros(1, dtype=torch.long, device=store.device))
            self._batch_sizes[key] = self._try_batch_sizes(first, function)
        return next((s for s in self._batch_sizes[key] if s >= len(store)), None)

    def _try_batch_sizes(self, first, function):
        """The small batches that gave the bits of a large one, on 32 noisy copies of a sample.

        Libraries choose by the shapes in what order they add, so whether the bits are the same
        depends on the network, the device and the number of threads, but not on the samples.
        """
        shape = (inference_batch(Store(first), self.device), *first.shape[1:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(first.device)
        samples = first + 0.3 * noise
        if first.dtype == torch.uint8:
            samples = (first + 32 * noise).clamp(0, 255).byte()
        some, view = Store(samples[: SMALL_BATCHES[-1]]), self.views.plain
        expected = self._sweep(Store(samples), function, view, len(samples))[: len(some)]
        return tuple(
            size for size in SMALL_BATCHES
            if torch.equal(self._sweep(some, function, view, size), expected)
        )  # fmt: skip

    def rows_of(self, store: SampleStore, function: Callable) -> np.ndarray:
        """Apply a function of plain views to all images of X."""
        rows = self.sweep(store, function)
        warn_about_invalid(store)
        return store.scatter_to_input(rows, np.nan)

    def rows_of_two_views(
        self, store: SampleStore, function: Callable, seed: int = 0
    ) -> np.ndarray:
        """Apply a function to two random views of each image that can be read."""
        generator = torch.Generator().manual_seed(seed)
        indices = torch.from_numpy(store.sample_indices).to(self.device)
        tables = self.views.draw(store.n_images, store.shape, generator, self.device)
        with private_rng(seed, self.device) if self.draws else nullcontext():
            rows = self.sweep(
                store,
                lambda views: torch.stack([function(view) for view in views], dim=1),
                lambda batch, index: self.views(batch, tables, indices[index]),
            )
        warn_about_invalid(store)
        rows = np.delete(store.scatter_to_input(rows, np.nan), list(store.invalid), axis=0)
        if not len(rows):
            raise none_could_be_read(store.invalid)
        return rows

    def fit_k_means(self, store: SampleStore, n_clusters: int) -> tuple[np.ndarray, float]:
        """Cluster the normalised features of all samples."""
        features = self.sweep(store, lambda view: F.normalize(self.objective.embed(view).float()))
        _, centers, inertia = k_means(features, n_clusters)
        return centers.numpy().astype(np.float32), max(inertia / features.size, 1e-9)


def warn_about_invalid(store: SampleStore) -> None:
    """Warn of images that could not be read, if there are any."""
    if not store.invalid or not distributed.is_rank_zero():
        return
    some = [reason for _, reason in sorted(store.invalid.items())[:3]]
    warn(
        f"{len(store.invalid)} of {store.n_images} images could not be read: {'; '.join(some)}"
        + ("; ..." if len(store.invalid) > 3 else ""),
        ImageReadWarning,
    )


def has_assign(objective: Objective) -> bool:
    """Whether an objective has soft assignments of its own."""
    return type(objective).assign is not Objective.assign
