"""What each of several processes does in tests/test_distributed.py, and one process by itself.

``python ranks.py FOLDER`` joins a group, does every task, and leaves what came of it in
``FOLDER/RANK.pt``; the folder holds what the tasks work on.
"""

import contextlib
import io
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from methods_for_tests import METHODS, Drawing, SmallBackbone
from torch import nn

from skcc import ContrastiveClustering, TwinContrastClustering, cli, distributed
from skcc.augment import AUGMENTATIONS, Views
from skcc.backbones import BACKBONES
from skcc.callbacks import CSVLogger
from skcc.data import Store, decoding
from skcc.methods.contrastive import ContrastiveObjective
from skcc.methods.twin import TwinContrastObjective, TwinContrastSettings
from skcc.objective import Setup
from skcc.training import engine
from skcc.training.batchnorm import convert_batch_norm
from skcc.training.checkpoint import Checkpoint
from skcc.training.phases import Run

SMALL = {"batch_size": 40, "n_heads": 2, "backbone": "conv4", "image_size": 10, "random_state": 0}
COMMON = {"projection_dim": 16, "n_heads": 2, "instance_temperature": 0.5,
          "cluster_temperature": 1.0, "instance_weight": 1.0, "cluster_weight": 1.0,
          "entropy_weight": 1.0}  # fmt: skip
TWIN = {"n_epochs": 9, "batch_size": 16, "conditioned": True, "symmetric": False,
        "assignment_temperature": 0.1, "gumbel_temperature": 1.0, "gumbel_noise": 1.0,
        "momentum": 0.9, "instance_queue": 2, "cluster_queue": 3, "prior": "ema",
        "prior_weight": 1.0, "membership": "sample", "cluster_gradient": "assignment"}  # fmt: skip


class Doubled(nn.Module):
    """A network in float64, with a layer that no loss reaches."""

    def __init__(self, network, n_out):
        super().__init__()
        self.network, self.unused = network, nn.Linear(n_out, 1)

    def forward(self, x):
        return self.network(x.double())


def objective_of(kind, **options):
    torch.manual_seed(0)
    network = Doubled(BACKBONES["conv4"]((12, 12, 1), (10, 10)), 256)
    setup = Setup(network, 256, (1, 10, 10), 101)
    if kind == "contrastive":
        return ContrastiveObjective(setup, 5, **COMMON, **options).double()
    return TwinContrastObjective(
        setup, TwinContrastSettings(n_clusters=5, **COMMON, **TWIN)
    ).double()


def noise(n, *shape):
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


def train(objective, n=101, epochs=3, aside=0, **how):
    """Steps in float64: batches of 14 or 15, not divisible by 2 or 3."""
    how = {
        "epochs": epochs, "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0.0,
        "schedule": "one-cycle", "seed": 0, **how,
    }  # fmt: skip
    stores = [Store(torch.from_numpy(noise(m, 12, 12, 1))) if m else None for m in (n, aside)]
    views = Views(AUGMENTATIONS["gray"], (10, 10))
    result = engine.train(objective, stores[0], views, unlabeled=stores[1], **how)
    return {"history": result.history, "state": objective.state_dict()}


# -- tasks: each gives plain values and tensors -----------------------------------------------


def steps_contrastive(folder):
    return train(objective_of("contrastive"))


def steps_of_muon(folder):
    return train(objective_of("contrastive"), optimizer="muon")


def steps_of_pairs(folder):
    """Second views of neighbours, in two of three epochs."""
    return train(objective_of("contrastive", pairing_epoch=1))


def steps_twin(folder):
    return train(objective_of("twin"))


def steps_unlabeled(folder):
    return train(objective_of("contrastive"), n=31, aside=40, epochs=2)


def steps_of_two_samples(folder):
    """Batches of two or three: of three processes one has nothing to do, at times."""
    return train(objective_of("twin"), n=7, epochs=2, batch_size=2)


def steps_of_small_methods(folder):
    """All phases of the methods of `methods_for_tests`, in float64, on batches of 13 of 53."""
    return {cls.__name__: trained_in_phases(cls) for cls in METHODS if cls is not Drawing}


def trained_in_phases(cls):
    torch.manual_seed(0)
    model = cls(3, max_epochs=3)
    model.settings_ = {
        "max_epochs": 3, "batch_size": 14, "optimizer": "adamw", "learning_rate": 1e-3,
        "weight_decay": 0.0, "schedule": "one-cycle", "image_size": (8, 8), "precision": "float32",
    }  # fmt: skip
    store = Store(torch.from_numpy(noise(53, 9, 9, 1)))

    def in_float64():
        for phase in model._phases(Setup(SmallBackbone(64).double(), 12, (1, 8, 8), 53)):
            phase.objective.double()
            yield phase

    run = Run(store=store, settings=model.settings_, augmentation=AUGMENTATIONS["gray"],
              device=torch.device("cpu"), seed=0)  # fmt: skip
    objective, history, _ = run.train(in_float64())
    return {"history": history, "state": objective.state_dict()}


def layers_of_batch_norm(folder):
    """Input, output and gradients of layers, for the rows of this process; all have all."""
    found = {}
    for name, momentum, n in [("even", 0.1, 12), ("uneven", None, 7), ("single", 0.1, 1)]:
        torch.manual_seed(n)
        layer = nn.BatchNorm2d(3, momentum=momentum).double()
        nn.init.uniform_(layer.weight)
        nn.init.uniform_(layer.bias)
        holder = nn.Sequential(layer)
        x = torch.randn(n, 3, 4, 5, dtype=torch.float64) * 3 + 100
        x[:, 0] = 7.0  # a channel that is the same everywhere
        x.requires_grad_()
        target = torch.randn(n, 3, 4, 5, dtype=torch.float64)
        mine = distributed.rank_slice(n)
        with convert_batch_norm(holder), distributed.global_batch_size(n):
            for _ in range(2):
                holder.zero_grad()
                x.grad = None
                (whole,) = distributed.gather(holder(x[mine.start : mine.stop]))
                ((whole - target) ** 3).sum().backward()
        assert type(holder[0]) is nn.BatchNorm2d
        # Averaged as by DistributedDataParallel.
        gradients = [sum_over_ranks(t.grad) / distributed.world_size()
                     for t in (layer.weight, layer.bias, x)]  # fmt: skip
        found[name] = {"output": whole.detach(), "gradients": gradients,
                       "buffers": dict(layer.named_buffers())}  # fmt: skip
    return found


def sum_over_ranks(tensor):
    parts = distributed.all_gather_rows(tensor[None], distributed.world_size())
    return parts.sum(0)


def fits(folder):
    """Labels and answers of whole fits."""
    pictures = np.load(folder / "pictures.npy")
    pictures = np.concatenate([pictures[::3], pictures[1:114:3], pictures[2:108:3]])  # 40, 38, 36
    found = {}
    for kind, X, how in [
        # The first is trained until the three kinds are found, so that the last digits decide none.
        ("contrastive", pictures,
         {"max_epochs": 40, "readout": "kmeans", "optimizer": "adamw"}),
        ("twin", pictures, {"max_epochs": 3, "random_state": 1}),
        ("vectors", pictures.reshape(len(pictures), -1) / 7.0,
         {"max_epochs": 12, "backbone": "auto", "image_size": None}),
    ]:  # fmt: skip
        cls = TwinContrastClustering if kind == "twin" else ContrastiveClustering
        model = cls(3, **{**SMALL, **how}).fit(X)
        model.save(folder / f"{kind}-{distributed.world_size()}.safetensors")
        found[kind] = {
            "labels": torch.from_numpy(model.labels_),
            "weights": {k: torch.from_numpy(v) for k, v in model.weights_.items()},
            "score": model.score(X),
            "epochs": model.n_iter_,
        }
        X = np.concatenate([X] * 4)
        for n in (1, 2, 130):  # shared answers are those of one process, bit for bit
            together = [model.predict_proba(X[:n]), model.transform(X[:n]), model.predict(X[:n])]
            with distributed.single_process():
                by_itself = [f(X[:n]) for f in (model.predict_proba, model.transform,
                                                model.predict)]  # fmt: skip
            for ours, own in zip(together, by_itself, strict=True):
                np.testing.assert_array_equal(ours, own)
    return found


def paths(folder):
    """A folder with a damaged file; every process decodes its part, once with a cache."""
    files = sorted((folder / "files").iterdir())
    found, decode = {}, decoding.decode
    for kind, cache in [("memory", None), ("new cache", folder / "cache"),
                        ("old cache", folder / "cache")]:  # fmt: skip
        decoded = []
        decoding.decode = lambda source, *out, seen=decoded: (
            seen.append(source),
            decode(source, *out),
        )[1]
        try:
            model = ContrastiveClustering(
                3, max_epochs=2, cache_dir=cache, on_error="warn", n_jobs=1, **SMALL
            ).fit(files)
        finally:
            decoding.decode = decode
        found[kind] = {"labels": torch.from_numpy(model.labels_), "decoded": len(decoded),
                       "invalid": [i for i, _ in model.invalid_]}  # fmt: skip
    found["predicted"] = torch.from_numpy(model.predict(files))
    found["errors"] = [
        said(ContrastiveClustering(3, max_epochs=2, **SMALL).fit, files),
        said(model.set_params(on_error="raise").predict, files),
    ]
    return found


def said(function, *arguments):
    """The error that a call ends with."""
    try:
        function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def misuse(folder):
    """Calls that differ between the processes, or cannot be shared."""
    rank, pictures = distributed.rank(), np.load(folder / "pictures.npy")
    small = {**SMALL, "max_epochs": 1}
    return {
        "data": said(ContrastiveClustering(3, **small).fit, pictures[rank:100]),
        "parameters": said(ContrastiveClustering(3, entropy_weight=1.0 + rank, **small).fit,
                           pictures),
        "batches": said(ContrastiveClustering(2, sync_batchnorm=False,
                                              **{**small, "batch_size": 3}).fit, pictures[:9]),
    }  # fmt: skip


def manners(folder):
    """Who writes and prints; and that all stop when one wants to."""
    world, rank = distributed.world_size(), distributed.rank()
    pictures, out, err = np.load(folder / "pictures.npy"), io.StringIO(), io.StringIO()
    model = ContrastiveClustering(3, max_epochs=6, verbose=1, sync_batchnorm=False, **SMALL)
    with contextlib.suppress(ImportError):  # scikit-learn before 1.9 has no callbacks
        model.set_callbacks(CSVLogger(folder / f"logs-{world}-{rank}"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        model.fit(pictures)
        stopped = ContrastiveClustering(3, max_epochs=6, max_seconds=1e-9 if rank else None,
                                        **SMALL).fit(pictures)  # fmt: skip
        model.save(folder / f"saved-{world}-{rank}")
        stopped.set_params(checkpoint_dir=folder / f"checkpoint-{world}-{rank}").fit(pictures)
    return {
        "printed": out.getvalue() + err.getvalue(), "epochs": stopped.n_iter_,
        "files": sorted(p.name for p in folder.glob(f"*-{world}-{rank}*")),
        "statistics": model.weights_["backbone.0.1.running_mean"].tolist(),
    }  # fmt: skip


def goes_on(folder):
    """The second half of a training whose first half one process did; and a first half."""
    world = distributed.world_size()
    mine = folder / f"half-done-of-{world}-rank-{distributed.rank()}"
    shutil.copytree(folder / "half-done", mine)
    return {
        "whole": resumed(mine, 4),
        "half": resumed(folder / f"half-of-{world}", 2),
    }


def resumed(folder, until):
    """Training in a folder, up to an epoch."""
    checkpoint = Checkpoint(folder / "phase-0.pt", {}, 0)
    return train(objective_of("twin"), n=53, epochs=4, checkpoint=checkpoint,
                 report=lambda history, seconds: len(history) == until)  # fmt: skip


def command(folder):
    """``skcc fit`` and ``skcc predict``."""
    out, text = folder / f"command-{distributed.world_size()}", io.StringIO()
    options = ["-k", "3", "-o", str(out), "--epochs", "2", "--on-error", "warn", "--jobs", "1"]
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        codes = [cli.main(["fit", str(folder / "files"), *options])]
        distributed.all_gather_object(None)  # the first one has written the model
        options = ["--on-error", "warn", "-o", str(out / "predicted.csv")]
        model = str(out / "model.safetensors")
        codes.append(cli.main(["predict", model, str(folder / "files"), *options]))
    return {"codes": codes, "text": text.getvalue()}


TASKS = [
    steps_contrastive, steps_of_muon, steps_of_pairs, steps_twin, steps_unlabeled,
    steps_of_two_samples,
    steps_of_small_methods, layers_of_batch_norm, goes_on,
]  # fmt: skip
OF_TWO = [fits, paths, misuse, manners, command]  # a third process would show nothing new


def main(folder):
    torch.set_num_threads(1)
    if "RENDEZVOUS" in os.environ:  # a group of the script's own
        torch.distributed.init_process_group(
            "gloo", init_method=os.environ["RENDEZVOUS"], rank=int(os.environ["MY_RANK"]),
            world_size=int(os.environ["MY_WORLD"]),
        )  # fmt: skip
    distributed.init_process_group()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for task in TASKS + (OF_TWO if distributed.world_size() == 2 else []):
            found[task.__name__] = task(folder)
    torch.save(found, folder / f"{distributed.rank()}.pt")
    if "RENDEZVOUS" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
