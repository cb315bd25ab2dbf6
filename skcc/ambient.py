"""Isolation from the state of torch that users set for their own code, and from `os.fork`.

Public methods compute inside `default_torch_state`, so that gradient modes, autocast, the default
dtype and the default device of the caller change no result. No other file handles this state.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from multiprocessing.dummy import DummyProcess

import torch
from joblib import cpu_count

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


def _set_cudnn_deterministic(is_deterministic):
    torch.backends.cudnn.deterministic = is_deterministic


# What all threads of a process share: how it is read and set, and what it is while skcc computes.
_SHARED = (
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
    # Of cuDNN's kernels those whose sums have a fixed order are as fast (docs/log.md), and with
    # them training on a GPU repeats bit for bit.
    (lambda: torch.backends.cudnn.deterministic, _set_cudnn_deterministic, True),
)


class _ProcessState:
    """Settings that all threads of a process share.

    They are those of skcc while any thread is inside, and the user's when the last one leaves.
    """

    def __init__(self):
        self._lock, self._n_inside = threading.Lock(), 0
        self._replaced = {}  # what the user had, by the place of the setting

    def __enter__(self):
        with self._lock:
            self._n_inside += 1
            # Also for a second thread: the user may have set the state since the first entered.
            for place, (get, set_, wanted) in enumerate(_SHARED):
                if (found := get()) != wanted:
                    self._replaced[place] = found
                    set_(wanted)

    def __exit__(self, *error):
        with self._lock:
            self._n_inside = max(0, self._n_inside - 1)
            if not self._n_inside:
                self._restore()

    def _restore(self):
        for place, found in self._replaced.items():
            get, set_, wanted = _SHARED[place]
            if get() == wanted:  # what is another now was set by the user in the meantime
                set_(found)
        self._replaced = {}

    def reset(self):
        """Forget the other threads, which a forked child does not have."""
        self._lock, self._n_inside = threading.Lock(), 0
        self._restore()


_process_state = _ProcessState()


@contextlib.contextmanager
def default_torch_state() -> Iterator[None]:
    """Compute in torch's default state, and restore the state of the caller afterwards.

    Gradients are enabled, inference mode and autocast are disabled, the default dtype is float32,
    the default device is the CPU, deterministic algorithms are not required, and kernels of cuDNN
    are deterministic. It may be nested, and entered by several threads at once. It works as a
    decorator as well.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process_state)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # The others cost time in each operation, so they are entered only where they are needed.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in filter(torch.is_autocast_enabled, _AUTOCAST_DEVICES):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def threads_per_fit(n_threads: int) -> int:
    """How many of torch's threads a fit uses.

    What limits torch from outside is followed without this function: ``OMP_NUM_THREADS``, which
    joblib sets for its processes, threadpoolctl's limits, and `torch.set_num_threads`. But torch
    knows no quota of a container, and fits in a pool of threads would each take all the cores;
    threads of torch that wait for a core delay all others.

    Parameters
    ----------
    n_threads : int
        Number that torch would use.

    Returns
    -------
    n_threads : int
        At most the number of CPUs that this process may use; in a thread of a pool, as joblib's
        backend "threading" makes, its share of them.
    """
    n_threads = min(n_threads, cpu_count())
    if not isinstance(threading.current_thread(), DummyProcess):
        return n_threads
    n_in_pools = sum(isinstance(thread, DummyProcess) for thread in threading.enumerate())
    return max(1, n_threads // n_in_pools)


class _FitThreads:
    """The number of torch's threads while models are fitted, and that of the user afterwards.

    torch keeps one number per thread and one for new threads, so what a fit finds may be that of
    another fit. The number of the user is what the first of those that run at the same time found.
    """

    def __init__(self):
        self._lock, self._n_inside, self._original = threading.Lock(), 0, 0

    def __enter__(self):
        with self._lock:
            if not self._n_inside:
                self._original = torch.get_num_threads()
            self._n_inside += 1
            n_threads = threads_per_fit(self._original)
            if n_threads < torch.get_num_threads():
                torch.set_num_threads(n_threads)

    def __exit__(self, *error):
        with self._lock:
            self._n_inside = max(0, self._n_inside - 1)
            if not self._n_inside and torch.get_num_threads() < self._original:
                torch.set_num_threads(self._original)

    def reset(self):
        """Forget the other threads, which a forked child does not have."""
        self.__init__()


_fit_threads = _FitThreads()


@contextlib.contextmanager
def limited_threads() -> Iterator[None]:
    """Use as many of torch's threads as `threads_per_fit` says; it works as a decorator as well."""
    with _fit_threads:
        yield


def _reset_after_fork():
    """Make torch usable in a forked child.

    The threads of OpenMP do not survive a fork, and an operation that is split over them would wait
    for them forever. With one thread, none is waited for.
    """
    torch.set_num_threads(1)
    _process_state.reset()
    _fit_threads.reset()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset_after_fork)
