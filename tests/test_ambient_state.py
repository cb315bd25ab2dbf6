"""The state of torch that a user sets for other code changes no result; nor does a fork hang."""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from methods_for_tests import EachEpochAnew, TwoPhases, TwoTurns
from threadpoolctl import threadpool_limits

from skcc import ContrastiveClustering, TwinContrastClustering, ambient
from skcc.ambient import default_torch_state
from skcc.rng import private_rng

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 6, 6), dtype=np.uint8)
VECTORS = RNG.normal(size=(16, 5))
QUICK = {
    "n_clusters": 2,
    "readout": "head",
    "max_epochs": 1,
    "batch_size": 8,
    "random_state": 0,
    "device": "cpu",
}
CASES = {
    "images": (ContrastiveClustering, IMAGES),
    "vectors": (ContrastiveClustering, VECTORS),
    "twin images": (TwinContrastClustering, IMAGES),
    "twin vectors": (TwinContrastClustering, VECTORS),
    "two phases": (TwoPhases, IMAGES),
    "two turns": (TwoTurns, VECTORS),  # draws noise in the default dtype
    "each epoch anew": (EachEpochAnew, VECTORS),
}


@contextlib.contextmanager
def a_setting(put, get, value, usual):
    """Set a global setting of torch, check that it is unchanged at the end, and reset it."""
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(usual)


def dtype(value):
    return a_setting(torch.set_default_dtype, torch.get_default_dtype, value, torch.float32)


@contextlib.contextmanager
def everything():
    with dtype(torch.float64), torch.device("meta"), torch.autocast("cpu"), torch.inference_mode():
        yield


STATES = {
    "float64": lambda: dtype(torch.float64),
    "bfloat16": lambda: dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "default device": lambda: a_setting(
        torch.set_default_device, torch.get_default_device, torch.device("meta"), None
    ),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "grad disabled": lambda: a_setting(
        torch.set_grad_enabled, torch.is_grad_enabled, False, True
    ),
    "deterministic": lambda: a_setting(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True, False
    ),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "everything": everything,
}  # fmt: skip


def results(cls, X, file, **parameters):
    """What an estimator computes by each of its public methods."""
    model = cls(**QUICK | parameters).fit(X)
    model.save(file)
    loaded = cls.load(file, device="cpu")
    unpickled = pickle.loads(pickle.dumps(model))
    again = cls(**QUICK | {"random_state": 1}).start_from(loaded)
    return {
        **model.weights_,
        "labels": model.predict(X),
        "score": model.score(X),
        "loaded": loaded.predict_proba(X),
        "unpickled": unpickled.transform(X),
        **{f"start {name}": weight for name, weight in again._initial_backbone.items()},
    }


@pytest.mark.parametrize("case", CASES)
def test_no_state_of_torch_changes_a_result(case, tmp_path):
    cls, X = CASES[case]
    expected = results(cls, X, tmp_path / "m")
    names = STATES if case in ("images", "two turns") else ("float64", "everything")
    for name in names:
        with STATES[name]():
            got = results(cls, X, tmp_path / "m")
        assert_same(got, expected, name)


@pytest.mark.parametrize("by_user", [False, True])
def test_kernels_of_cudnn_are_deterministic_inside(by_user, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", by_user)
    with default_torch_state(), default_torch_state():
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.deterministic is by_user


def assert_same(got, expected, name):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value, err_msg=f"{key} in {name}", strict=True)


def test_autocast_of_the_user_does_not_freeze_weights(tmp_path):
    """Its cache would hold bfloat16 copies of weights from before the first step."""
    parameters = {"precision": "bf16", "max_epochs": 2}
    expected = results(*CASES["images"], tmp_path / "m", **parameters)
    with torch.autocast("cpu", torch.bfloat16):
        got = results(*CASES["images"], tmp_path / "m", **parameters)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        other = results(*CASES["images"], tmp_path / "m", **parameters)
    assert_same(got, expected, "autocast")
    assert_same(other, expected, "autocast without cache")


def test_tensors_of_any_mode_are_samples():
    plain = torch.from_numpy(IMAGES).float() / 255
    expected = ContrastiveClustering(**QUICK).fit(plain).transform(plain)
    with torch.inference_mode():
        inside = torch.from_numpy(IMAGES).float() / 255
        got = ContrastiveClustering(**QUICK).fit(inside).transform(inside)
    np.testing.assert_array_equal(got, expected)
    for X in (inside, plain.clone().requires_grad_()):
        np.testing.assert_array_equal(ContrastiveClustering(**QUICK).fit(X).transform(X), expected)


def test_threads_with_states_of_their_own():
    model = ContrastiveClustering(**QUICK).fit(IMAGES)
    expected = model.transform(IMAGES)
    modes = [torch.no_grad, torch.inference_mode, STATES["autocast"], STATES["device"]]

    def work(mode):
        with mode():
            refitted = ContrastiveClustering(**QUICK).fit(IMAGES)
            return model.transform(IMAGES), refitted.transform(IMAGES)

    with dtype(torch.float64), ThreadPoolExecutor(4) as pool:
        for pair in pool.map(work, 2 * modes):
            for got in pair:
                np.testing.assert_array_equal(got, expected, strict=True)


def test_the_state_returns_when_the_last_thread_leaves():
    with dtype(torch.float64):
        first, second = default_torch_state(), default_torch_state()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
        with pytest.raises(ZeroDivisionError), default_torch_state():
            _ = 1 / 0
        assert torch.get_default_dtype() == torch.float64


def test_a_state_that_is_set_while_a_thread_computes_is_kept():
    with dtype(torch.float64):
        with default_torch_state():
            torch.set_default_dtype(torch.float64)
            with default_torch_state():  # as another thread enters it
                assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
        with default_torch_state():
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() == torch.bfloat16
        torch.set_default_dtype(torch.float64)


# -- fork -----------------------------------------------------------------------------------

FORK = """
import multiprocessing
import numpy as np
import torch
from skcc import ContrastiveClustering

torch.set_num_threads(1)
X = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
model = ContrastiveClustering(2, max_epochs=1, random_state=0, device="cpu").fit(X)
torch.set_num_threads(2)
model.predict(X)


def work(_):
    return model.predict(X), torch.get_num_threads()


with multiprocessing.get_context("fork").Pool(1) as pool:
    [(labels, threads)] = pool.map_async(work, [0]).get(60)
np.testing.assert_array_equal(labels, model.labels_)
assert (threads, torch.get_num_threads()) == (1, 2)
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
@pytest.mark.processes
def test_a_forked_child_predicts():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=90)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_computes_leaves_no_lock_or_state():
    inside, done = threading.Event(), threading.Event()

    def compute():
        with (
            default_torch_state(),
            private_rng(0, torch.device("cpu")),
            ambient._process_state._lock,
        ):
            inside.set()
            done.wait(60)

    with dtype(torch.float64):
        thread = threading.Thread(target=compute)
        thread.start()
        inside.wait(60)
        child = os.fork()
        if child == 0:
            good = torch.get_default_dtype() == torch.float64
            with default_torch_state(), private_rng(0, torch.device("cpu")):
                good &= torch.get_default_dtype() == torch.float32
            os._exit(0 if good and torch.get_default_dtype() == torch.float64 else 1)
        done.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- threads ------------------------------------------------------------------------------------


@pytest.fixture
def four_threads(monkeypatch):
    """As on a machine of eight cores where torch uses four."""
    monkeypatch.setattr(ambient, "cpu_count", lambda: 8)
    torch.set_num_threads(4)
    yield monkeypatch
    assert torch.get_num_threads() == 4, "the number of the user is restored"
    torch.set_num_threads(1)


@ambient.limited_threads()
def threads_in_fit():
    time.sleep(0.02)  # so that all workers of a pool are busy at once
    return torch.get_num_threads()


def test_a_fit_has_the_threads_of_torch_but_no_more_than_cpus(four_threads):
    assert threads_in_fit() == 4
    four_threads.setattr(ambient, "cpu_count", lambda: 2)
    assert threads_in_fit() == 2
    with threadpool_limits(limits=1):
        assert threads_in_fit() == 1


def test_fit_is_limited(four_threads):
    four_threads.setattr(ambient, "cpu_count", lambda: 1)
    seen = set()
    augment = {"augment": lambda x: seen.add(torch.get_num_threads()) or x}
    ContrastiveClustering(**QUICK | augment).fit(IMAGES)
    assert seen == {1}


def test_fits_in_a_pool_of_threads_share_them(four_threads):
    with parallel_config(backend="threading"):
        assert Parallel(n_jobs=2)(delayed(threads_in_fit)() for _ in range(3)) == [2] * 3
        assert set(Parallel(n_jobs=6)(delayed(threads_in_fit)() for _ in range(6))) == {1}
    assert threads_in_fit() == 4
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4, "as in new threads of the user"


@pytest.mark.long
def test_fits_in_processes_have_the_threads_that_joblib_says(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    with parallel_config(backend="loky", inner_max_num_threads=1):
        assert Parallel(n_jobs=2)(delayed(threads_in_fit)() for _ in range(2)) == [1, 1]
