"""Fits that are killed, and made to fail, in processes of their own; for tests/test_faults.py.

Importing torch takes seconds, so one process imports it and forks a child for each task. A task is
a line of JSON on standard input; the answer is a line with the status of the child.
"""

import hashlib
import io
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from methods_for_tests import METHODS, SmallBackbone

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.exceptions import CheckpointWarning
from skcc.training import checkpoint

SMALL_METHODS = {cls.__name__: cls for cls in METHODS}
EPOCHS, CALLS = 6, 6  # calls of a function of the user per epoch: two views, three steps


def digest(model):
    """A name for all that was learned, to the last bit."""
    summed = hashlib.blake2b(digest_size=16)
    for name in sorted(model.weights_):
        summed.update(name.encode() + model.weights_[name].tobytes())
    summed.update(model.labels_.tobytes() + repr(model.history_).encode())
    return summed.hexdigest()


def images():
    rng = np.random.default_rng(0)
    squares = np.kron(rng.integers(0, 2, (60, 4, 4)), np.ones((2, 2), int))
    return (100 * squares + rng.integers(0, 100, (60, 8, 8))).astype(np.uint8)


def fit(task, **parameters):
    """An estimator that is not fitted, and its X."""
    parameters |= {"max_epochs": EPOCHS, "batch_size": 20, "random_state": 0, "device": "cpu"}
    parameters["checkpoint_dir"] = task["folder"]
    if task["scenario"] == "TCC":
        queues = {"instance_queue": 2, "cluster_queue": 2}
        return TwinContrastClustering(3, **queues, **parameters), images()
    if task["scenario"] == "vectors":
        return ContrastiveClustering(3, **parameters), images().reshape(60, -1)[:, ::5] / 7.0
    X = images()
    if task["scenario"] in SMALL_METHODS:
        torch.manual_seed(0)
        return SMALL_METHODS[task["scenario"]](3, backbone=SmallBackbone(64), **parameters), X
    if task["scenario"] == "paths":
        X = sorted(map(str, Path(task["photos"]).iterdir()))
    return ContrastiveClustering(3, backbone=small_network(), **parameters), X


def small_network():
    """One that takes little time to train and to save."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, stride=2),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 32),
    )


def on_call(acts):
    """A function of the user that does something at some of its calls."""
    calls = [0]

    def views(batch):
        calls[0] += 1
        if calls[0] in acts:
            acts[calls[0]]()
        return batch + 0.1 * torch.randn_like(batch)

    return views


def in_the_middle_of(epoch):
    return CALLS * epoch + 3


def epochs_on_disk(task):
    folder = Path(task["folder"])
    names = sorted(path.name for path in folder.iterdir())
    state = torch.load(folder / "phase-0.pt", weights_only=True)
    return [len(state["history"]), names]


# -- faults ---------------------------------------------------------------------------------


def plain(task):
    model, X = fit(task)
    return {"digest": digest(model.fit(X))}


def killed_at(task):
    """SIGKILL before a call of a function, or when half of a checkpoint is written."""
    place, number = task["at"]
    holder, name = {
        "fsync": (os, "fsync"),
        "replace": (os, "replace"),
        "save": (checkpoint, "_write"),
    }[place]
    original, calls = getattr(holder, name), [0]

    def counted(*arguments):
        calls[0] += 1
        if calls[0] < number:
            return original(*arguments)
        if place == "save":
            state, file = arguments
            whole = io.BytesIO()
            original(state, whole)
            file.write(whole.getbuffer()[: whole.tell() // 2])
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(holder, name, counted)
    return plain(task)


def signalled(task):
    """A signal in the third epoch, for a training that has not saved anything yet."""
    checkpoint._SECONDS = 1e9
    warnings.simplefilter("always", CheckpointWarning)
    number = getattr(signal, task["signal"])
    acts = {in_the_middle_of(2): lambda: os.kill(os.getpid(), number)}
    if not task["send"]:
        acts = {}
    model, X = fit(task, augment=on_call(acts))
    model.fit(X)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    return {"digest": digest(model), "epochs": model.n_iter_}


def limit(size):
    """From now on the system refuses to let a file grow beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_disk(task):
    """No space in the third, the fourth and the last epoch."""
    on_disk = []

    def space():
        limit(resource.RLIM_INFINITY)
        on_disk.append(epochs_on_disk(task))

    acts = {
        in_the_middle_of(2): lambda: limit(2000),
        in_the_middle_of(4): space,
        in_the_middle_of(5): lambda: limit(2000),
    }
    if not task["send"]:
        acts = {}
    model, X = fit(task, augment=on_call(acts))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X)
    messages = [str(w.message) for w in caught if w.category is CheckpointWarning]
    on_disk.append(epochs_on_disk(task))
    return {"digest": digest(model), "said": messages, "on disk": on_disk}


def full_cache(task):
    model, X = fit(task, cache_dir=task["cache"])
    limit(2000)
    try:
        model.fit(X)
    except OSError as error:
        message = str(error)
    left = os.listdir(task["cache"])
    limit(resource.RLIM_INFINITY)
    return {"said": message, "left": left, "digest": digest(model.fit(X))}


def no_memory(task):
    """A step of the third epoch wants more than there is."""
    checkpoint._SECONDS = 1e9

    def greedy():
        with open("/proc/self/statm") as file:
            in_use = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**28, resource.RLIM_INFINITY))
        try:
            torch.empty(2**31, dtype=torch.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

    model, X = fit(task, augment=on_call({in_the_middle_of(2): greedy} if task["send"] else {}))
    try:
        return {"digest": digest(model.fit(X))}
    except MemoryError as error:
        fitted = [name for name in vars(model) if name.endswith("_")]
        return {"said": str(error), "fitted": fitted, "on disk": epochs_on_disk(task)}


FAULTS = {f.__name__: f for f in (plain, killed_at, signalled, full_disk, full_cache, no_memory)}


# -- processes ------------------------------------------------------------------------------


def child(task):
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        answer = FAULTS[task["fault"]](task)
        Path(task["out"]).write_text(json.dumps(answer))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    checkpoint._SECONDS = 0  # so short a training would not save at all
    for scenario in ("CC", "TCC", "vectors"):  # what is imported late is imported once
        model, X = fit({"scenario": scenario, "folder": None})
        model.set_params(max_epochs=1).fit(X)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for line in sys.stdin:
        task = json.loads(line)
        signal.sigtimedwait({signal.SIGCHLD}, 0)  # of the child before
        pid = os.fork()
        if pid == 0:
            child(task)
        # Until we have waited for it, no other process can have its number.
        if "after" in task and not signal.sigtimedwait({signal.SIGCHLD}, task["after"]):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
