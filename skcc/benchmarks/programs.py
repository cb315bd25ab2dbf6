"""``skcc bench programs``: fits of programs that run at the same time and share the cores."""

import multiprocessing
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from operator import truediv

import torch
from sklearn.exceptions import ConvergenceWarning

from skcc.datasets import load_digits
from skcc.methods.contrastive import ContrastiveClustering


def programs(*, most: int = 2, epochs: int = 8, repeats: int = 3) -> dict:
    """Time of fits in several programs at once, over the same fits one after the other.

    Contrastive Clustering on scikit-learn's digits, by its own head. Each program has as many
    threads as torch takes by itself, whatever the number of threads here.

    Parameters
    ----------
    most : int, default=2
        Number of programs that fit at once.

    epochs : int, default=8
        Epochs of a fit.

    repeats : int, default=3
        Number of turns; the ratio is their median.

    Returns
    -------
    record : dict
        Seconds of each turn, one after the other and at once, and the ratio.
    """
    context = multiprocessing.get_context("spawn")
    in_a_row, at_once = [], []
    with ProcessPoolExecutor(most, context) as pool:
        list(pool.map(partial(_fit, epochs=1), range(most)))  # imports, and the first steps
        for _ in range(repeats):
            start = time.perf_counter()
            for seed in range(most):
                n_threads = pool.submit(_fit, seed, epochs).result()
            in_a_row.append(time.perf_counter() - start)
            start = time.perf_counter()
            list(pool.map(partial(_fit, epochs=epochs), range(most)))
            at_once.append(time.perf_counter() - start)
    return {
        "bench": "programs",
        "programs": most,
        "threads_of_each": n_threads,
        "seconds_in_a_row": in_a_row,
        "seconds_at_once": at_once,
        "at_once_over_in_a_row": statistics.median(map(truediv, at_once, in_a_row)),
    }


def _fit(seed, epochs):
    """Fit, and return the number of torch's threads."""
    model = ContrastiveClustering(10, random_state=seed, max_epochs=epochs, readout="head")
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # few epochs
        model.fit(load_digits().images)
    return torch.get_num_threads()
