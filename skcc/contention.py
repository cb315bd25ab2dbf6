"""Sharing the cores with other programs, without waiting for each other's waiting threads.

torch splits an operation over threads, and each of them waits at the end for the slowest. GNU's
OpenMP lets them spin for some milliseconds, which is fastest where no other program wants the core.
Where one does, threads that spin keep those from running that they wait for. GNU's OpenMP knows
this case: where it has more threads than CPUs, they sleep almost at once (its manual, at
GOMP_SPINCOUNT). But it counts those of its own process only. So a thread looks how long the others
wait for a core, and while that is long, it adds some that do nothing. Results are the same bits.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from threadpoolctl import ThreadpoolController

_PERIOD = 0.5  # seconds between two looks
_SHORT = 0.1  # seconds of a computation that is not looked at
# Cores that the threads of this process lack, on average. At .45 fits are as fast with threads that
# sleep as with threads that spin (docs/log.md); in between nothing changes, so that noise does not.
_SLEEP_ABOVE, _SPIN_BELOW = 0.5, 0.4
_TASKS = Path("/proc/self/task")


def seconds_without_core() -> dict[str, float]:
    """Seconds in which each thread of this process could run but had no core, by its number.

    It is empty where the system does not say, as outside of Linux.
    """
    waited = {}
    with contextlib.suppress(OSError):
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                waited[task.name] = int((task / "schedstat").read_bytes().split()[1]) / 1e9
    return waited


class _SurplusThreads:
    """Threads that sleep, so many that GNU's OpenMP finds more threads than CPUs, and no more."""

    def __init__(self, n_threads: int):
        # GNU's OpenMP counts those that compute, and those here but the one that starts them.
        self._n_threads = max(2, len(os.sched_getaffinity(0)) + 2 - n_threads)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="skcc-surplus", daemon=True)
        self._thread.start()

    def _hold(self):
        torch.get_num_threads()  # since torch sets a thread's number at its first use
        openmp = ThreadpoolController().select(prefix="libgomp")
        with openmp.limit(limits=self._n_threads):
            torch.zeros(1 << 17).sum()  # starts them, since it is split; they end with this thread
            self._ended.wait()

    def end(self):
        self._ended.set()
        self._thread.join()


class _Watch:
    """A thread that looks whether other programs want the cores."""

    def __init__(self, n_threads: int):
        self._n_threads, self._ended = n_threads, threading.Event()
        self._thread = threading.Thread(target=self._run, name="skcc-watch", daemon=True)
        self._thread.start()

    def _run(self):
        if self._ended.wait(_SHORT):
            return
        surplus, waited, when = None, seconds_without_core(), time.perf_counter()
        while waited and not self._ended.wait(_PERIOD):
            before, waited = waited, seconds_without_core()
            since, when = when, time.perf_counter()
            lacked = sum(waited[task] - before.get(task, 0) for task in waited) / (when - since)
            if surplus is None and lacked > _SLEEP_ABOVE:
                surplus = _SurplusThreads(self._n_threads)
            elif surplus is not None and lacked < _SPIN_BELOW:
                surplus = surplus.end()
        if surplus is not None:
            surplus.end()

    def end(self):
        self._ended.set()
        self._thread.join()


class _Sharing:
    """One watch for all computations that run at the same time."""

    def __init__(self):
        self._lock, self._n_inside, self._watch = threading.Lock(), 0, None

    def __enter__(self):
        with self._lock:
            self._n_inside += 1
            n_threads = torch.get_num_threads()
            if self._watch is None and n_threads > 1:
                self._watch = _Watch(n_threads)

    def __exit__(self, *error):
        with self._lock:
            self._n_inside = max(0, self._n_inside - 1)
            if not self._n_inside and self._watch is not None:
                self._watch = self._watch.end()

    def reset(self):
        """Forget the other threads, which a forked child does not have."""
        self.__init__()


_sharing = _Sharing()


@contextlib.contextmanager
def shared_cores() -> Iterator[None]:
    """Let torch's threads sleep while they wait, as long as other programs want their cores.

    It may be nested, and entered by several threads at once. It works as a decorator as well.
    """
    with _sharing:
        yield


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_sharing.reset)
