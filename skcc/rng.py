"""Random numbers: a generator per epoch, and torch's global generators behind a lock."""

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import torch

_lock = threading.RLock()


def _reset_after_fork():
    """Replace the lock in a forked child, where a thread that held it no longer exists."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset_after_fork)


def epoch_generator(seed: int, epoch: int, attempt: int = 0) -> torch.Generator:
    """Make the generator of one epoch, which does not depend on the epochs before it.

    Parameters
    ----------
    seed : int
        Seed of the training run.

    epoch : int
        Counted from 0.

    attempt : int, default=0
        1 for an epoch that is repeated after a loss was not finite.

    Returns
    -------
    generator : torch.Generator
        On the CPU.
    """
    entropy = (seed, epoch, attempt) if attempt else (seed, epoch)
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


@contextlib.contextmanager
def private_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and restore them afterwards.

    For code that takes no generator: initial weights, dropout, functions of the user. Only one
    thread at a time can be inside.

    Parameters
    ----------
    seed : int
        Seed inside the context.

    device : torch.device
        Its generator is seeded as well as the CPU's.
    """
    devices = [device] if device.type != "cpu" else []
    kind = devices[0].type if devices else "cuda"
    with _lock, torch.random.fork_rng(devices, device_type=kind):
        seed_global_rng(seed, device)
        yield


def seed_global_rng(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of one device.

    Parameters
    ----------
    seed : int
        The seed.

    device : torch.device
        Its generator is seeded as well as the CPU's.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):  # `manual_seed` seeds the current one
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)
