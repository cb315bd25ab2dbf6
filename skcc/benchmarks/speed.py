"""Speed, as ratios measured in one run against plain code or a plain loop.

Every measurement alternates between its candidates and compares medians, since machines are
shared: processor time on CPUs, time between events on accelerators. Where the comparison needs
other code (Pillow's transforms, the masked form of a loss, a hand-written loop), it is here and
serves as the oracle of a test, too.
"""

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from skcc.augment import AUGMENTATIONS, Views, plain_view
from skcc.backbones import BACKBONES
from skcc.data import Store
from skcc.losses import cluster_contrast, nt_xent
from skcc.methods.contrastive import ContrastiveClustering, ContrastiveObjective
from skcc.methods.twin import TwinContrastClustering
from skcc.objective import Epoch, Setup
from skcc.rng import private_rng
from skcc.training.engine import train
from skcc.training.settings import resolve_device, resolve_precision
from skcc.training.sweep import INFERENCE_BATCH, autocast

_HEADS = {
    "projection_dim": 128,
    "n_heads": 1,
    "instance_temperature": 0.5,
    "cluster_temperature": 1.0,
    "instance_weight": 1.0,
    "cluster_weight": 1.0,
    "entropy_weight": 1.0,
}


# -- clocks ---------------------------------------------------------------------------------


def _seconds(function: Callable, device: torch.device) -> float:
    """Processor seconds of a call, or seconds between two events of an accelerator."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    started = time.process_time()
    function()
    return time.process_time() - started


def medians(
    candidates: dict[str, Callable], *, repeats: int, device: torch.device
) -> dict[str, float]:
    """Median time of each candidate, all measured in turns.

    Parameters
    ----------
    candidates : dict of str to callable
        Called without arguments; once more than counted, to warm up.

    repeats : int
        Counted calls of each.

    device : torch.device
        Where they compute.

    Returns
    -------
    seconds : dict of str to float
        Processor time on a CPU, device time on CUDA.
    """
    times = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, function in candidates.items():
            seconds = _seconds(function, device)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def ceilings(device: torch.device) -> dict[str, float]:
    """What the device reaches in a matrix product and a copy.

    Parameters
    ----------
    device : torch.device
        Which.

    Returns
    -------
    ceilings : dict of str to float
        "gigaflops" of a bfloat16 product (float32 on CPUs), "gigabytes_per_second" read and
        written by a copy.
    """
    on_gpu = device.type == "cuda"
    n = 8192 if on_gpu else 1024
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    block = torch.empty(2**30 if on_gpu else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    seconds = medians(
        {"product": lambda: a @ a, "copy": lambda: target.copy_(block)}, repeats=5, device=device
    )
    return {
        "gigaflops": 2 * n**3 / seconds["product"] / 1e9,
        "gigabytes_per_second": 2 * block.numel() / seconds["copy"] / 1e9,
    }


def _images(n, side, channels=3):
    """Smooth random pictures: noise alone would make decoding and blurring unusual."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, max(2, side // 8), max(2, side // 8), channels), np.uint8)
    large = np.stack([np.asarray(Image.fromarray(s.squeeze()).resize((side, side)))
                      for s in small])  # fmt: skip
    return large.reshape(n, side, side, channels)


def _pillow_transform(size, strength, blur):
    """The views of Contrastive Clustering by Pillow and torchvision, for one image."""
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


# -- augmentation ---------------------------------------------------------------------------


def augment(
    *, size: int = 32, source: int | None = None, batch: int = 64, repeats: int = 11, device: str
) -> dict:
    """Two views per image: our batches against Pillow and torchvision, image by image.

    Parameters
    ----------
    size : int, default=32
        Side of the views. From 64 on, half of them are blurred, as for ImageNet-10.

    source : int, default=None
        Side of the images. None means that of the views below 64, a seventh more from there.

    batch : int, default=64
        Images per call.

    repeats : int, default=11
        Counted calls.

    device : str
        Where our views are made.

    Returns
    -------
    record : dict
        Milliseconds per image of both, and their ratio.
    """
    where = resolve_device(device)
    blurred = size >= 64
    source = source or (round(size * 8 / 7) if blurred else size)
    images = _images(batch, source)
    family = AUGMENTATIONS["natural-strong-blur" if blurred else "natural"]
    strength = 1.0 if blurred else 0.5
    views = Views(family, (size, size))
    store, index = torch.from_numpy(images).to(where), torch.arange(batch, device=where)
    generator = torch.Generator().manual_seed(0)

    def ours():
        tables = views.draw(batch, (source, source, 3), generator, where)
        return views(store, tables, index)

    theirs_one = _pillow_transform(size, strength, blurred)
    pictures = [Image.fromarray(image) for image in images]

    def theirs():
        return [torch.stack([theirs_one(p) for p in pictures]) for _ in range(2)]

    with torch.inference_mode(), torch.random.fork_rng([]):
        if where.type == "cpu":
            seconds = medians({"ours": ours, "theirs": theirs}, repeats=repeats, device=where)
        else:
            seconds = medians({"ours": ours}, repeats=repeats, device=where)
            seconds |= medians({"theirs": theirs}, repeats=repeats, device=torch.device("cpu"))
    return {
        "bench": "augment",
        "size": size,
        "source": source,
        "blur": blurred,
        "ms_per_image": 1000 * seconds["ours"] / batch,
        "ms_per_image_pillow": 1000 * seconds["theirs"] / batch,
        "times_faster": seconds["theirs"] / seconds["ours"],
        "gigabytes_per_second": 2 * batch * 3 * (source**2 + 4 * size**2) / seconds["ours"] / 1e9,
    }


# -- losses ---------------------------------------------------------------------------------


def masked_nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """`skcc.losses.nt_xent` as research code writes it: a mask picks the negatives.

    Parameters
    ----------
    a, b : Tensor of shape (n, d)
        Rows of unit length.

    temperature : float
        Divides the similarities.

    Returns
    -------
    loss : Tensor of shape ()
        The same number.
    """
    n = len(a)
    rows = torch.cat([a, b])
    similarity = rows @ rows.T / temperature
    positives = torch.cat([similarity.diagonal(n), similarity.diagonal(-n)])[:, None]
    other = torch.ones(2 * n, 2 * n, dtype=torch.bool, device=a.device).fill_diagonal_(False)
    i = torch.arange(n, device=a.device)
    other[i, i + n] = other[i + n, i] = False
    logits = torch.cat([positives, similarity[other].reshape(2 * n, -1)], dim=1)
    return F.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long, device=a.device))


def broadcast_cluster_contrast(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    """`skcc.losses.cluster_contrast` as research code writes it: all pairs of columns at once.

    Parameters
    ----------
    p, q : Tensor of shape (n, k)
        Assignments of the two views.

    temperature : float
        Divides the similarities.

    Returns
    -------
    loss : Tensor of shape ()
        The same number; needs memory for ``(2k)**2 * n`` numbers.
    """
    k = p.shape[1]
    columns = torch.cat([p.T, q.T])
    similarity = F.cosine_similarity(columns[:, None], columns[None], dim=2) / temperature
    positives = torch.cat([similarity.diagonal(k), similarity.diagonal(-k)])[:, None]
    other = torch.ones(2 * k, 2 * k, dtype=torch.bool, device=p.device).fill_diagonal_(False)
    i = torch.arange(k, device=p.device)
    other[i, i + k] = other[i + k, i] = False
    logits = torch.cat([positives, similarity[other].reshape(2 * k, -1)], dim=1)
    return F.cross_entropy(logits, torch.zeros(2 * k, dtype=torch.long, device=p.device))


def losses(
    *,
    clusters: tuple[int, ...] = (10, 100, 200, 1000),
    batches: tuple[int, ...] = (256, 1024),
    repeats: int = 5,
    device: str,
) -> Iterator[dict]:
    """Instance and cluster loss, forward and backward, against the forms of research code.

    Parameters
    ----------
    clusters : tuple of int, default=(10, 100, 200, 1000)
        Numbers of clusters.

    batches : tuple of int, default=(256, 1024)
        Images per batch.

    repeats : int, default=5
        Counted calls.

    device : str
        Where.

    Yields
    ------
    record : dict
        Milliseconds of both forms; None where the plain one would need over 2 GiB.
    """
    where = resolve_device(device)

    def both_ways(function, *tensors):
        leaves = [t.clone().requires_grad_() for t in tensors]
        return lambda: torch.autograd.grad(function(*leaves), leaves)

    for n in batches:
        z = [F.normalize(torch.randn(n, 128, device=where), dim=1) for _ in range(2)]
        seconds = medians(
            {
                "ours": both_ways(lambda a, b: nt_xent(a, b, temperature=0.5), *z),
                "plain": both_ways(lambda a, b: masked_nt_xent(a, b, 0.5), *z),
            },
            repeats=repeats,
            device=where,
        )
        yield _loss_record("instance", n, None, seconds)
        for k in clusters:
            p = [F.softmax(torch.randn(n, k, device=where), dim=1) for _ in range(2)]
            candidates = {"ours": both_ways(lambda a, b: cluster_contrast(a, b), *p)}
            if 4 * k * k * n * 4 <= 2**31:
                plain = both_ways(lambda a, b: broadcast_cluster_contrast(a, b, 1.0), *p)
                candidates["plain"] = plain
            seconds = medians(candidates, repeats=repeats if k < 200 else 2, device=where)
            yield _loss_record("cluster", n, k, seconds)


def _loss_record(name, n, k, seconds):
    plain = seconds.get("plain")
    rows, width = (2 * n, 128) if k is None else (2 * k, n)
    return {
        "bench": "losses",
        "loss": name,
        "batch": n,
        "clusters": k,
        "ms": 1000 * seconds["ours"],
        "ms_plain": None if plain is None else 1000 * plain,
        "times_faster": None if plain is None else plain / seconds["ours"],
        "gigaflops": 6 * rows**2 * width / seconds["ours"] / 1e9,
    }


# -- the whole step -------------------------------------------------------------------------


class _JointObjective(ContrastiveObjective):
    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self.losses(*self.backbone(torch.cat(views)).chunk(2))


def with_joint_statistics(objective: ContrastiveObjective) -> ContrastiveObjective:
    """Let both views pass through the backbone in one call, with batch statistics of both.

    Parameters
    ----------
    objective : ContrastiveObjective
        Changed in place.

    Returns
    -------
    objective : ContrastiveObjective
        The same.
    """
    objective.__class__ = _JointObjective
    return objective


class _Setting:
    """A network, its heads, images and views: what one measurement trains."""

    def __init__(
        self, *, backbone, side, batch, n, clusters, device, dtype=torch.float32, joint=False,
        channels_last=True, estimator=None,
    ):  # fmt: skip
        self.joint, self.estimator = joint, estimator
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device = resolve_device(device)
        self.dtype, self.batch = dtype, batch
        self.store = Store(torch.from_numpy(_images(min(n, 512), side))
                           .repeat(-(-n // 512), 1, 1, 1)[:n].to(self.device))  # fmt: skip
        self.views = Views(AUGMENTATIONS["natural"], (side, side))
        with private_rng(0, self.device):
            self.objective = self._objective(backbone, side, clusters)
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)

    def _objective(self, backbone, side, clusters):
        network = BACKBONES[backbone]((side, side, 3), (side, side)).eval()
        n_features = network(torch.zeros(2, 3, side, side)).shape[1]
        setup = Setup(network, n_features, (3, side, side), len(self.store))
        if self.estimator is None:
            objective = ContrastiveObjective(setup, clusters, **_HEADS)
        else:
            self.estimator.settings_ = {"max_epochs": 1, "batch_size": self.batch}
            objective = next(self.estimator._phases(setup)).objective
        if self.joint:
            with_joint_statistics(objective)
        if self.layout is torch.contiguous_format:  # views come as channels last
            network.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
        return objective.to(self.device, memory_format=self.layout).train()

    def engine_epoch(self, capture=False):
        """An epoch of the engine."""
        train(
            self.objective, self.store, self.views, epochs=1, batch_size=self.batch,
            learning_rate=1e-3, weight_decay=0.0, schedule="one-cycle", seed=0, dtype=self.dtype,
            cuda_graphs=capture,
        )  # fmt: skip

    def bare_epoch(self, watch=lambda part: None):
        """The same by a loop as one would write it by hand; `watch` is told what comes next."""
        n = len(self.store)
        generator = torch.Generator().manual_seed(0)
        watch("data")
        self.objective.before_epoch(Epoch(0, None, generator))
        tables = self.views.draw(n, self.store.shape, generator, self.device)
        order = torch.randperm(n, generator=generator).to(self.device)
        for index in order.split(self.batch):
            watch("data")
            batch = self.store.samples[index]
            watch("augmentation")
            views = self.views(batch, tables, index)
            watch("forward")
            with autocast(self.device, self.dtype):
                loss = sum(self.objective(views, index).values())
            watch("backward")
            self.apply(loss, lambda: watch("optimizer"))
            self.objective.after_step()
        watch(None)

    def apply(self, loss, between=lambda: None):
        """What a plain loop does with a loss."""
        gradients = torch.autograd.grad(loss, self.parameters)
        between()
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class _Count(TorchDispatchMode):
    """Counts what is dispatched to the device."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


class _Parts:
    """Seconds between the names it is told."""

    def __init__(self, device):
        self.device, self.seconds, self._at = device, {}, None

    def __call__(self, part):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._at is not None:
            name, since = self._at
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
        self._at = (part, now)


def step(
    *,
    method: str = "contrastive",
    backbone: str = "conv4",
    side: int = 16,
    batch: int = 128,
    steps: int = 8,
    clusters: int = 10,
    repeats: int = 5,
    device: str,
) -> Iterator[dict]:
    """The whole training step of the engine against a bare loop with the same network.

    Parameters
    ----------
    method : str, default="contrastive"
        The other is "twin", which is also compared with "contrastive", and measured with both
        directions as well.

    backbone : str, default="conv4"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=16
        Of images and views.

    batch : int, default=128
        Images per step.

    steps : int, default=8
        Per measurement.

    clusters : int, default=10
        Width of the cluster head.

    repeats : int, default=5
        Counted measurements.

    device : str
        Where.

    Yields
    ------
    record : dict
        Images per second, arithmetic rate, ratio to the bare loop, shares of its parts, and
        operations dispatched per step.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    estimators = {
        "contrastive": {"contrastive": ContrastiveClustering(clusters)},
        "twin": {
            "twin": TwinContrastClustering(clusters),
            "twin, symmetric": TwinContrastClustering(clusters, symmetric=True),
        },
    }
    if method not in estimators:
        raise ValueError(f"no method {method!r}; there are {', '.join(estimators)}")
    where = resolve_device(device)
    how = {
        "backbone": backbone, "side": side, "batch": batch, "n": batch * steps,
        "clusters": clusters, "device": where, "dtype": resolve_precision("auto", where),
    }  # fmt: skip
    for name, estimator in estimators[method].items():
        setting = _Setting(**how, estimator=estimator)
        candidates = {"engine": setting.engine_epoch, "bare": setting.bare_epoch}
        if method != "contrastive":
            other = _Setting(**how, estimator=ContrastiveClustering(clusters))
            candidates["contrastive"] = other.engine_epoch
        seconds = medians(candidates, repeats=repeats, device=where)
        ratios = {f"engine_over_{o}": seconds["engine"] / seconds[o] for o in candidates}
        del ratios["engine_over_engine"]
        yield {
            "bench": "step",
            "method": name,
            "backbone": backbone,
            "side": side,
            "batch": batch,
            "images_per_second": batch * steps / seconds["engine"],
            **{
                f"engine_over_{o}": seconds["engine"] / seconds[o] for o in seconds if o != "engine"
            },
            **_anatomy(setting, batch, steps / seconds["engine"]),
        }


def _anatomy(setting, batch, steps_per_second):
    """What a step consists of."""
    parts = _Parts(setting.device)
    setting.bare_epoch(parts)
    setting.store = Store(setting.store.samples[:batch])
    with FlopCounterMode(display=False) as flops:
        setting.bare_epoch()
    with _Count() as count:
        setting.engine_epoch()
    whole = sum(parts.seconds.values())
    return {
        "gigaflops": flops.get_total_flops() * steps_per_second / 1e9,
        "shares": {name: value / whole for name, value in parts.seconds.items()},
        "operations": count.calls,
    }


# -- what each trick is worth ---------------------------------------------------------------


class _Pillow(Dataset):
    """Two views of an image as research scripts make them: one image after the other."""

    def __init__(self, images, size):
        self.images, self.transform = images, _pillow_transform(size, strength=0.5, blur=False)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        picture = Image.fromarray(self.images[i])
        return self.transform(picture), self.transform(picture)


def _plain_recipe(setting, side):
    """An epoch of the published recipe: views by Pillow, float32, losses that pick by masks."""
    objective, device = setting.objective, setting.device
    loader = DataLoader(_Pillow(setting.store.samples.cpu().numpy(), side), setting.batch)

    def epoch():
        for pair in loader:
            h = [objective.backbone(view.to(device)) for view in pair]
            z = [F.normalize(objective.instance_head(x), dim=1) for x in h]
            p = [F.softmax(objective.cluster_heads[0](x), dim=1) for x in h]
            entropy = sum((q.mean(0) * q.mean(0).log()).sum() for q in p)
            loss = masked_nt_xent(*z, 0.5) + broadcast_cluster_contrast(*p, 1.0) + entropy
            setting.apply(loss)

    return epoch


def variants(
    *,
    backbone: str = "resnet18-small",
    side: int = 32,
    batch: int = 512,
    steps: int = 60,
    repeats: int = 3,
    compiled: int = 0,
    peer: int = 1,
    device: str,
) -> Iterator[dict]:
    """Training speed as one trick after the other is added, beside the published recipe.

    Parameters
    ----------
    backbone : str, default="resnet18-small"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=32
        Of images and views.

    batch : int, default=512
        Images per step.

    steps : int, default=60
        Per measurement. Recording a graph is part of it.

    repeats : int, default=3
        Counted measurements.

    compiled : int, default=0
        1 adds a row with torch.compile, whose first call takes minutes.

    peer : int, default=1
        1 adds a row with views by Pillow, fp32 and losses by masks.

    device : str
        Where. On a CPU there are no rows for bfloat16 and graphs.

    Yields
    ------
    record : dict
        Images per second by the clock on the wall, and the ratio to the first row.
    """
    where = resolve_device(device)
    how = {"backbone": backbone, "side": side, "batch": batch, "clusters": 10, "device": where}
    half = torch.bfloat16 if where.type == "cuda" else torch.float32
    n = batch * steps
    rows = {}
    if peer:
        rows["views by Pillow, fp32, masks"] = _plain_recipe(
            _Setting(n=2 * batch, **how, channels_last=False), side
        )
    rows["fp32"] = _Setting(n=n, **how, channels_last=False).engine_epoch
    rows["+ channels last"] = _Setting(n=n, **how).engine_epoch
    if where.type == "cuda":
        rows["+ bf16"] = _Setting(n=n, **how, dtype=half).engine_epoch
    rows["+ one forward"] = _Setting(n=n, **how, dtype=half, joint=True).engine_epoch
    if where.type == "cuda":
        captured = _Setting(n=n, **how, dtype=half)
        rows["+ graph, two forwards"] = lambda: captured.engine_epoch(capture=True)
        joint = _Setting(n=n, **how, dtype=half, joint=True)
        rows["+ graph, one forward"] = lambda: joint.engine_epoch(capture=True)
    if compiled:
        setting = _Setting(n=n, **how, dtype=half, joint=True)
        setting.objective.compile(dynamic=False)
        rows["+ compile, one forward"] = setting.engine_epoch
    first = None
    for name, epoch in rows.items():
        images = 2 * batch if "Pillow" in name else n
        rate = images / _wall(epoch, repeats, where)
        first = first or rate
        yield {
            "bench": "variants",
            "variant": name,
            "backbone": backbone,
            "side": side,
            "batch": batch,
            "images_per_second": rate,
            "times_the_first": rate / first,
        }


def _wall(function, repeats, device):
    """Median seconds on the wall; one call more to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


# -- inference, memory, scaling, import -----------------------------------------------------


def predict(*, n: int = 10_000, side: int = 28, repeats: int = 3, device: str) -> dict:
    """`predict_proba` against a bare batched forward of the same module.

    Parameters
    ----------
    n : int, default=10_000
        Images.

    side : int, default=28
        Of the images, in colour.

    repeats : int, default=3
        Counted calls.

    device : str
        Where.

    Returns
    -------
    record : dict
        Images per second of both, and the ratio.
    """
    where = resolve_device(device)
    X = np.resize(_images(min(n, 512), side), (n, side, side, 3))
    model = ContrastiveClustering(10, max_epochs=1, random_state=0, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch of noise
        model.fit(X[: min(n, 512)])
    module = model._objective()
    size = model.settings_["image_size"]
    dtype = resolve_precision("auto", where)
    samples = torch.from_numpy(X)

    def bare():
        with torch.inference_mode(), autocast(where, dtype):
            return torch.cat([
                module.assign(plain_view(part.to(where), size)).float().cpu()
                for part in samples.split(INFERENCE_BATCH)
            ]).numpy()  # fmt: skip

    seconds = medians(
        {"ours": lambda: model.predict_proba(X), "bare": bare}, repeats=repeats, device=where
    )
    some = plain_view(samples[: min(n, 128)].to(where), size)
    with FlopCounterMode(display=False) as flops, torch.inference_mode():
        module.assign(some)
    return {
        "bench": "predict",
        "n": n,
        "images_per_second": n / seconds["ours"],
        "bare_images_per_second": n / seconds["bare"],
        "speed_over_bare": seconds["bare"] / seconds["ours"],
        "gigaflops": flops.get_total_flops() / len(some) * n / seconds["ours"] / 1e9,
    }


def _peak(code: str, *arguments) -> dict[str, float]:
    """Run a program in a process of its own; what it prints last, as numbers."""
    out = _said_by(code, *arguments)
    return dict(zip(("before", "peak"), map(float, out.split()[-2:]), strict=True))


def _said_by(code, *arguments):
    """What a program prints that runs in a process of its own."""
    return subprocess.run(  # nosec B603 # this Python and code of this file, without a shell
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


_MEMORY = """
import re, sys, warnings
import numpy as np
from PIL import Image
from skcc import ContrastiveClustering
warnings.simplefilter("ignore")
def mib(what):  # of this process; what getrusage tells begins with the memory of its parent
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
"""
_FIT = (
    _MEMORY
    + """
n, device = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
X = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
model = ContrastiveClustering(10, max_epochs=1, device=device)
model.fit(X[:600])
before = mib("VmRSS")
model.set_params(batch_size=512).fit(X)
print(before, mib("VmHWM"))
"""
)
_PREDICT = (
    _MEMORY
    + """
folder, n, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
paths = [f"{folder}/{i % 64}.png" for i in range(n)]
model = ContrastiveClustering(2, max_epochs=1, device=device).fit(paths[:64])
model.predict(paths[:128])
before = mib("VmRSS")
model.predict(paths)
print(before, mib("VmHWM"))
"""
)


def memory(*, n: int = 60_000, device: str) -> dict:
    """Peak memory of the host above the data, each in a process of its own.

    Parameters
    ----------
    n : int, default=60_000
        Colour images of 32 x 32 for `fit`.

    device : str
        Where.

    Returns
    -------
    record : dict
        MiB of `fit` above the process that holds the data and has fitted once before, and of
        `predict` on files, ten and forty times a batch of them. Needs Linux.
    """
    fit = _peak(_FIT, n, device)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(_images(64, 96)):
            Image.fromarray(image).save(Path(folder) / f"{i}.png")
        files = {
            times: _peak(_PREDICT, folder, times * INFERENCE_BATCH, device)
            for times in (10, 40)
        }
    return {
        "bench": "memory",
        "n": n,
        "fit_mib": fit["peak"] - fit["before"],
        "predict_mib": {times: m["peak"] - m["before"] for times, m in files.items()},
    }


def scaling(
    *, n: int = 2048, batch: int = 512, repeats: int = 3, device: str, backbone: str = "conv4"
) -> dict:
    """Time of an epoch by number of images and of clusters.

    Parameters
    ----------
    n : int, default=2048
        Images; twice and four times as many are measured, too.

    batch : int, default=512
        Images per step.

    repeats : int, default=3
        Counted epochs.

    device : str
        Where.

    backbone : str, default="conv4"
        A key of `skcc.backbones.BACKBONES`.

    Returns
    -------
    record : dict
        Seconds per epoch, and ratios: time per image against that of `n`, and time with many
        clusters against that with 10.
    """
    where = resolve_device(device)
    how = {"backbone": backbone, "side": 16, "batch": batch, "device": where}
    by_n = {m: _Setting(n=m, clusters=10, **how).engine_epoch for m in (n, 2 * n, 4 * n)}
    by_k = {k: _Setting(n=n, clusters=k, **how).engine_epoch for k in (10, 100, 200)}
    seconds_n = medians(by_n, repeats=repeats, device=where)
    seconds_k = medians(by_k, repeats=repeats, device=where)
    return {
        "bench": "scaling",
        "batch": batch,
        "seconds_by_n": seconds_n,
        "time_per_image": {m: s / m / (seconds_n[n] / n) for m, s in seconds_n.items()},
        "seconds_by_clusters": seconds_k,
        "over_10_clusters": {k: s / seconds_k[10] for k, s in seconds_k.items()},
    }


def import_time(*, repeats: int = 5) -> dict:
    """Seconds of ``import skcc`` in a process that has imported torch.

    Parameters
    ----------
    repeats : int, default=5
        Processes.

    Returns
    -------
    record : dict
        Median seconds.
    """
    code = (
        "import torch, time; t = time.perf_counter(); import skcc; print(time.perf_counter() - t)"
    )
    times = [float(_said_by(code)) for _ in range(repeats)]
    return {"bench": "import", "seconds": statistics.median(times)}
