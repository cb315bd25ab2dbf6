"""``skcc bench readout``: the time of reading clusters off, against that of training."""

import time
import warnings

from sklearn.exceptions import ConvergenceWarning

from skcc import datasets
from skcc.methods.contrastive import ContrastiveClustering
from skcc.readouts import read_out
from skcc.training.settings import resolve_device


def readout(*, n: int = 1797, epochs: int = 0, device: str) -> dict:
    """Neighbours, candidates and classifier of ``readout="auto"`` against the training on digits.

    Parameters
    ----------
    n : int, default=1797
        Number of digits.

    epochs : int, default=0
        Of training; 0 stands for the default.

    device : str
        Device to compute on.

    Returns
    -------
    record : dict
        Processor seconds of training with the read-out of the head, and of reading out, and their
        ratio.
    """
    where = resolve_device(device)
    X = datasets.load("digits", n_images=n).images
    model = ContrastiveClustering(
        10, max_epochs=epochs or "auto", readout="head", random_state=0, device=device
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs leave clusters empty
        fit_seconds = _seconds(lambda: model.fit(X))
    features, head = model.transform(X), model.predict(X)
    seconds = _seconds(
        lambda: read_out(features, 10, method="auto", head=head, keep_lengths=False, device=where)
    )
    return {
        "bench": "readout",
        "n": n,
        "fit_seconds": fit_seconds,
        "readout_seconds": seconds,
        "readout_over_fit": seconds / fit_seconds,
    }


def _seconds(function):
    started = time.process_time()
    function()
    return time.process_time() - started
