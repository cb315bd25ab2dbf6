"""Threads of torch sleep while they wait, as long as other programs want their cores."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from skcc import ContrastiveClustering, contention
from skcc.contention import seconds_without_core, shared_cores

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
QUICK = {"n_clusters": 3, "max_epochs": 1, "batch_size": 16, "readout": "head", "random_state": 0}

knows_who_waits = pytest.mark.skipif(
    not seconds_without_core(), reason="the system does not say how long threads wait for a core"
)
ignore_few_epochs = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def helpers():
    """Names of the threads that are ours."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("skcc-"))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- what the system says ----------------------------------------------------------------------


@knows_who_waits
def test_of_two_threads_on_one_cpu_one_always_waits():
    cpu = min(os.sched_getaffinity(0))
    begin, read = threading.Barrier(3), threading.Event()
    ended = threading.Semaphore(0)

    def work():
        os.sched_setaffinity(0, {cpu})  # of this thread only
        begin.wait()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 400_000)  # without the lock of the interpreter
        ended.release()
        read.wait(60)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    begin.wait()
    before, start = seconds_without_core(), time.perf_counter()
    ended.acquire()
    ended.acquire()
    wall, after = time.perf_counter() - start, seconds_without_core()
    read.set()
    lacked = {task: after[task] - before[task] for task in before}
    by_workers = sum(lacked[str(thread.native_id)] for thread in threads)
    assert 0.7 * wall < by_workers <= 2 * wall
    assert lacked[str(threading.get_native_id())] < 0.2 * wall, "a thread that sleeps wants none"


def test_where_the_system_does_not_say_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(contention, "_TASKS", tmp_path / "none")
    assert seconds_without_core() == {}
    (tmp_path / "17").mkdir()
    monkeypatch.setattr(contention, "_TASKS", tmp_path)
    assert seconds_without_core() == {}
    (tmp_path / "17" / "schedstat").write_text("5000000000 1500000000 12\n")
    assert seconds_without_core() == {"17": 1.5}


# -- threads that sleep ------------------------------------------------------------------------

SPINNING = """
import json, time, torch
from skcc.contention import _SurplusThreads
x = torch.ones(1 << 17)
def cpu_seconds():  # of threads that wait, mostly
    start = time.process_time()
    for _ in range(50):
        x.sum()
        time.sleep(0.006)
    return time.process_time() - start
cpu_seconds()
before, surplus = cpu_seconds(), _SurplusThreads(2)
time.sleep(0.1)
during = cpu_seconds()
surplus.end()
print(json.dumps([before, during, cpu_seconds()]))
"""


@pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2
    or all(pool["prefix"] != "libgomp" for pool in threadpool_info()),
    reason="threads spin in GNU's OpenMP, on two CPUs or more",
)
def test_surplus_threads_let_waiting_threads_sleep_until_they_end():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    before, during, after = json.loads(
        subprocess.run(
            [sys.executable, "-c", SPINNING],
            env=environment | {"OMP_NUM_THREADS": "2"}, capture_output=True, check=True,
        ).stdout
    )  # fmt: skip
    assert during < 0.3 * min(before, after)


@knows_who_waits
@ignore_few_epochs
def test_results_are_the_same_bits(two_threads):
    model = ContrastiveClustering(**QUICK)
    expected = model.fit_transform(IMAGES)
    surplus = contention._SurplusThreads(2)
    features = model.fit_transform(IMAGES)
    surplus.end()
    assert np.array_equal(features, expected)


# -- when --------------------------------------------------------------------------------------


class Machine:
    """Threads of this process lack so many cores."""

    lacks = 0.0

    def __init__(self):
        self.total, self.when = 0.0, time.perf_counter()

    def seconds_without_core(self):
        now = time.perf_counter()
        self.total += self.lacks * (now - self.when)
        self.when = now
        return {"1": self.total / 2, "2": self.total / 2}


@pytest.fixture
def machine(monkeypatch, two_threads):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("threads are watched on Linux only")
    machine = Machine()
    monkeypatch.setattr(contention, "seconds_without_core", machine.seconds_without_core)
    monkeypatch.setattr(contention, "_SHORT", 0.001)
    monkeypatch.setattr(contention, "_PERIOD", 0.02)
    return machine


SPIN, SLEEP = ["skcc-watch"], ["skcc-surplus", "skcc-watch"]


def test_threads_sleep_while_cores_are_wanted(machine):
    with shared_cores():
        for lacks, expected in [(0.9, SLEEP), (0.1, SPIN), (1.0, SLEEP), (0.0, SPIN)]:
            machine.lacks = lacks
            wait_for(lambda expected=expected: helpers() == expected)
            machine.lacks = 0.45  # neither here nor there: as it was
            time.sleep(0.15)
            assert helpers() == expected
        machine.lacks = 2.0
        wait_for(lambda: helpers() == SLEEP)
    assert not helpers()


def test_one_watch_for_all_that_compute(machine):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with shared_cores():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with shared_cores():
        with shared_cores():
            thread.start()
            inside.wait(60)
            assert helpers() == SPIN
        assert helpers() == SPIN
    assert helpers() == SPIN, "another thread still computes"
    leave.set()
    thread.join()
    assert not helpers()


def test_it_ends_with_an_error(machine):
    machine.lacks = 1.0

    def compute():
        with shared_cores():
            wait_for(lambda: helpers() == SLEEP)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute()
    assert not helpers()


def test_one_thread_has_none_to_wait_for():
    assert torch.get_num_threads() == 1
    with shared_cores():
        assert not helpers()


def test_nothing_is_watched_where_the_system_does_not_say(monkeypatch, machine):
    monkeypatch.setattr(contention, "seconds_without_core", dict)
    with shared_cores():
        wait_for(lambda: not helpers())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_watches_by_itself(machine):
    with shared_cores():
        child = os.fork()
        if child == 0:
            good = not helpers()
            torch.set_num_threads(2)
            with shared_cores():
                good &= helpers() == SPIN
            os._exit(0 if good and not helpers() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert helpers() == SPIN


# -- in estimators -----------------------------------------------------------------------------

SEEN = []


class Watched(nn.Module):
    """A network that notes which threads there are."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 8)

    def forward(self, x):
        SEEN.append(helpers())
        return self.linear(x.mean(dim=1).flatten(1))


@knows_who_waits
@ignore_few_epochs
def test_fit_and_long_inference_are_watched(two_threads):
    model = ContrastiveClustering(**QUICK, backbone=Watched())
    model.fit(IMAGES).predict(IMAGES[:8])  # the first small batches are compared with large ones
    for compute, images, is_watched in [
        (model.predict, IMAGES[:8], False),
        (model.predict, IMAGES, True),
        (model.transform, IMAGES, True),
        (model.fit, IMAGES, True),
    ]:
        SEEN.clear()
        compute(images)
        assert SEEN
        assert all(("skcc-watch" in found) == is_watched for found in SEEN)
        assert not helpers()
