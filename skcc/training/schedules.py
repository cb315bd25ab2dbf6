"""Learning-rate schedules."""

import math
from collections.abc import Callable, Sequence

import torch

WARM_UP = 0.1  # share of the steps in which the learning rate rises


def one_cycle(progress: float) -> float:
    """Rise from a tenth during the first tenth of training, then fall to zero by a cosine.

    Parameters
    ----------
    progress : float
        Share of the steps that are done.

    Returns
    -------
    factor : float
        Multiplies the peak learning rate.
    """
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "constant": lambda progress: 1.0,
}


class LRScheduler:
    """Sets the learning rate before each step, without a host-device sync.

    Parameters
    ----------
    optimizers : sequence of torch.optim.Optimizer
        All get the same learning rate.

    peak : float
        Largest learning rate.

    schedule : str
        A key of `SCHEDULES`.

    n_steps : int
        Steps of the whole training run.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        peak: float,
        schedule: str,
        n_steps: int,
    ):
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.peak, self.factor, self.n_steps = peak, SCHEDULES[schedule], n_steps
        self.steps_done = 0
        for group in self.groups:
            device = group["params"][0].device
            # A CUDA graph reads the learning rate from memory.
            group["lr"] = torch.tensor(peak, device=device) if group["capturable"] else peak

    def step(self) -> None:
        """Set the learning rate of the next optimizer step."""
        rate = self.peak * self.factor(min(1.0, self.steps_done / self.n_steps))
        for group in self.groups:
            if group["capturable"]:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.steps_done += 1
