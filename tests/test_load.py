"""One estimator in many threads and processes, and many estimators one after the other."""

import contextlib
import ctypes
import gc
import os
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from estimators import FULL
from joblib import Parallel, delayed, parallel_config
from PIL import Image

from skcc import ContrastiveClustering, fitting
from skcc.training import sweep

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]
ESTIMATORS = FULL
METHODS = ("predict", "predict_proba", "transform", "score")


def quick(cls=ContrastiveClustering, **parameters):
    return cls(
        **{
            "n_clusters": 3,
            "readout": "head",
            "max_epochs": 1,
            "batch_size": 40,
            "image_size": 8,
            "random_state": 0,
            "device": "cpu",
        }
        | parameters
    )


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """Several batches of few images."""
    monkeypatch.setattr(sweep, "INFERENCE_BATCH", 16)


@pytest.fixture(scope="module")
def all_packed(kinds_of_x):
    """Fitted estimators as pickles: whoever unpickles one is the first to use it."""
    return {
        cls: pickle.dumps(quick(cls, readout="kmeans").fit(kinds_of_x["paths"][:40]))
        for cls in ESTIMATORS
    }


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def packed(request, all_packed):
    return all_packed[request.param]


def answers(model, X):
    return [getattr(model, name)(X) for name in METHODS]


def assert_same(got, expected):
    for mine, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, wanted)


# -- many at once ---------------------------------------------------------------------------


def test_eight_threads_get_the_answers_that_one_gets(packed, kinds_of_x):
    """All at once, on an estimator that has yet to build its module."""
    X = [kinds_of_x[kind][:24] for kind in ("paths", "NHWC uint8", "PIL", "NCHW float")]
    alone = [answers(pickle.loads(packed), x) for x in X]
    model, start = pickle.loads(packed), threading.Barrier(8)

    def work(i):
        start.wait()
        return answers(model, X[i % 4])

    with ThreadPoolExecutor(8) as pool:
        for i, got in enumerate(pool.map(work, range(8))):
            assert_same(got, alone[i % 4])


def test_threads_that_come_first_together_build_one_module(packed, monkeypatch):
    model, start, built = pickle.loads(packed), threading.Barrier(8), []
    build = fitting.fitted_objective
    monkeypatch.setattr(
        fitting, "fitted_objective", lambda *arguments: built.append(1) or build(*arguments)
    )

    def work(i):
        start.wait()
        return model._objective()

    with ThreadPoolExecutor(8) as pool:
        modules = set(pool.map(work, range(8)))
    assert len(modules) == len(built) == 1
    assert not modules.pop().training


def test_a_module_in_use_is_not_moved(packed, monkeypatch):
    """Another device gets a module of its own: a thread may be computing with the old one."""
    monkeypatch.setattr("skcc.base.private_rng", lambda *_: contextlib.nullcontext())
    model = pickle.loads(packed)
    old = model._objective()
    model.set_params(device="meta")  # a device that every torch has
    assert sweep.device_of(model._objective()).type == "meta"
    assert sweep.device_of(old).type == "cpu"


# Four processes share what was loaded before they parted, and start together.
FORKS = """
import os, sys
import numpy as np
import torch
import skcc
from skcc.training import sweep

torch.set_num_threads(1)
sweep.INFERENCE_BATCH = 16
folder = sys.argv[1]
X = np.load(f"{folder}/X.npy")
models = {name: getattr(skcc, name).load(f"{folder}/{name}", device="cpu") for name in sys.argv[2:]}
gate, open_gate = os.pipe()
children = []
for i in range(4):
    child = os.fork()
    if child == 0:
        os.close(open_gate)
        os.read(gate, 1)  # returns when all have been started and the parent closes its end
        for name, model in models.items():
            names = "predict", "predict_proba", "transform", "score"
            got = [getattr(model, method)(X) for method in names]
            np.savez(f"{folder}/{name}-{i}.npz", *got)
        os._exit(0)
    children.append(child)
os.close(open_gate)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX has processes that part")
@pytest.mark.processes
def test_four_processes_get_the_answers_that_one_gets(all_packed, kinds_of_x, tmp_path):
    X, models = kinds_of_x["NHWC uint8"][:24], {}
    np.save(tmp_path / "X.npy", X)
    for cls, packed in all_packed.items():
        models[cls.__name__] = pickle.loads(packed)
        models[cls.__name__].save(tmp_path / cls.__name__)
    subprocess.run([sys.executable, "-c", FORKS, str(tmp_path), *models], check=True, timeout=300)
    for name, model in models.items():
        expected = answers(model, X)
        for i in range(4):
            with np.load(tmp_path / f"{name}-{i}.npz") as got:
                assert_same(got.values(), expected)


@pytest.mark.long
def test_four_workers_of_joblib_get_the_answers_that_one_gets(packed, kinds_of_x):
    model, X = pickle.loads(packed), kinds_of_x["paths"][:24]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        together = Parallel(n_jobs=4)(delayed(in_small_batches)(model, X) for _ in range(8))
    for got in together:
        assert_same(got, answers(model, X))


def in_small_batches(model, X):
    sweep.INFERENCE_BATCH = 16
    return answers(model, X)


def noisy(images):
    return images + 0.1 * torch.randn_like(images)


def test_concurrent_fits_do_not_disturb_each_other(shapes):
    """Of both methods, with and without functions that draw from torch's global generator."""
    X = shapes[0][:40, ::2, ::2]

    def fit(seed):
        augment = noisy if seed % 2 else "auto"
        cls = ESTIMATORS[seed // 2 % 2]
        model = quick(cls, random_state=seed, augment=augment, max_epochs=2, batch_size=20).fit(X)
        return model.history_, model.weights_, model.labels_, model.score(X)

    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(fit, range(8)))
    assert torch.equal(torch.get_rng_state(), before)
    for seed, got in enumerate(together):
        np.testing.assert_equal(got, fit(seed))


def test_predicting_beside_a_fit_disturbs_neither(packed, kinds_of_x):
    X = kinds_of_x["NHWC uint8"][:40]
    expected = answers(pickle.loads(packed), X)
    parameters = {"augment": noisy, "max_epochs": 3, "batch_size": 20}
    alone = quick(**parameters).fit(X)
    with ThreadPoolExecutor(3) as pool:
        fitting = pool.submit(lambda: quick(**parameters).fit(X))
        for asked in [pool.submit(answers, pickle.loads(packed), X) for _ in range(4)]:
            assert_same(asked.result(), expected)
    np.testing.assert_equal(fitting.result().weights_, alone.weights_)


# -- one after the other --------------------------------------------------------------------


def in_use():
    """KiB of memory, threads and open files of this process, and networks that are alive."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not of glibc
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    status = Path("/proc/self/status").read_text().splitlines()
    own = ("RssAnon:", "VmSwap:")  # not what the system may drop, such as pages of libraries
    return {
        "KiB": sum(int(line.split()[1]) for line in status if line.startswith(own)),
        "objects": sys.getallocatedblocks(),
        "threads": len(os.listdir("/proc/self/task")),
        "threads of Python": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        # By type: some lazy modules of torch warn when they are asked what they are.
        "networks": sum(issubclass(type(x), torch.nn.Module) for x in gc.get_objects()),
    }


def cycles(n, at, folder):
    """Fit, ask, save and load again and again; what was in use after some of the cycles."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    files = [folder / f"{i:02}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    seen = []
    for cycle in range(1, n + 1):
        X = files if cycle % 2 else images
        places = {"cache_dir": folder / "cache", "checkpoint_dir": folder / "run"}
        model = quick(ESTIMATORS[cycle // 2 % 2], batch_size=12, n_jobs=2, **places).fit(X)
        shutil.rmtree(folder / "run")
        model.predict(X)
        model.save(folder / "model")
        again = type(model).load(folder / "model")
        again.score(X)
        pickle.loads(pickle.dumps(again)).transform(images)
        if cycle in at:
            del model, again
            seen.append(in_use())
    return seen


def assert_nothing_leaks(early, late):
    """Twenty estimators and more lie between: hundreds of objects each, and 1 MiB or more."""
    for name in ("threads", "threads of Python", "files", "networks"):
        assert late[name] == early[name], (name, early, late)
    assert late["objects"] - early["objects"] < 800, (early, late)
    assert late["KiB"] - early["KiB"] < 4096, (early, late)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what is in use is read from /proc")


@on_linux
def test_cycles_leak_neither_memory_nor_threads_nor_files(tmp_path):
    early, late = cycles(20, (8, 20), tmp_path)
    assert_nothing_leaks(early, late)


@on_linux
@pytest.mark.long
def test_a_thousand_cycles_leak_neither_memory_nor_threads_nor_files(tmp_path):
    seen = cycles(1000, (100, 400, 700, 1000), tmp_path)
    print(*seen, sep="\n")
    for late in seen[1:]:
        assert_nothing_leaks(seen[0], late)
