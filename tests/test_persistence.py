"""Fitted estimators on disk: the same answers, and nothing executed."""

import json
import pickle
import struct
from itertools import product
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from estimators import FULL
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skcc
from skcc import persistence
from skcc.atomic import atomic_write
from skcc.augment import ImageAugmentation

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = FULL
QUICK = {"n_clusters": 3, "max_epochs": 2, "batch_size": 40, "random_state": 0, "device": "cpu"}
ANSWERS = ("predict_proba", "transform")


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(256, 7), nn.BatchNorm1d(7))


class Mine(ImageAugmentation):
    pass


def noisy(images):
    return images + 0.1 * torch.randn_like(images)


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda c: c.__name__)
def cls(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(cls, shapes):
    return cls(**QUICK).fit(shapes[0])


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def assert_alike(loaded, fitted, X):
    for name in ANSWERS:
        np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(fitted, name)(X))
    np.testing.assert_array_equal(loaded.labels_, fitted.labels_)
    assert loaded.score(X) == fitted.score(X)
    assert loaded.history_ == fitted.history_
    assert loaded.settings_ == fitted.settings_
    assert vars(loaded).keys() == vars(fitted).keys()


VARIANTS = {
    "defaults": {},
    "k-means": {"readout": "kmeans"},
    "an augmentation": {"augment": ImageAugmentation(scale=(0.5, 1.0), flip=0.0)},
    "a RandomState": {"random_state": np.random.RandomState(3)},
    "NumPy integers": {"n_clusters": np.int64(3), "learning_rate": np.float32(1e-3)},
    "a device": {"device": torch.device("cpu")},
}


@pytest.mark.parametrize(
    ("cls", "variant"),
    [*product(ESTIMATORS[:1], VARIANTS), *product(ESTIMATORS[1:], ["defaults", "k-means"])],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_saved_estimator_is_the_same_estimator(cls, shapes, tmp_path, variant):
    X = shapes[0]
    model = cls(**QUICK | {"image_size": 8} | VARIANTS[variant]).fit(X)
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m")
    assert_alike(loaded, model, X)
    assert loaded.device == "auto"
    if variant != "a RandomState":
        same = loaded.set_params(device="cpu").fit(X)
        np.testing.assert_array_equal(same.predict_proba(X), model.predict_proba(X))


def test_vectors_rows_and_names_of_columns(cls, shapes, tmp_path):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(shapes[0].reshape(120, -1)[:, ::8] / 7.0).add_prefix("c")
    model = cls(**QUICK).fit(table)
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m")
    assert_alike(loaded, model, table)
    assert list(loaded.feature_names_in_) == list(table.columns)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(table.add_prefix("x"))
    rows = shapes[0].reshape(120, -1)
    model = cls(**QUICK, image_shape=(16, 16), checkpoint_dir=tmp_path / "c").fit(rows)
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m")
    assert_alike(loaded, model, rows)
    assert (loaded.image_shape, loaded.checkpoint_dir) == ((16, 16), None)


def test_modules_and_functions_of_the_user_are_given_again(cls, shapes, tmp_path):
    X = shapes[0]
    model = cls(**QUICK, backbone=Net(), augment=noisy).fit(X)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"backbone was Net.*load\(path, backbone=\.\.\.\)"):
        cls.load(tmp_path / "m", augment=noisy)
    with pytest.raises(ValueError, match=r"augment was noisy.*load\(path, augment=\.\.\.\)"):
        cls.load(tmp_path / "m", backbone=Net())
    with pytest.raises(ValueError, match="weights do not fit"):
        cls.load(tmp_path / "m", backbone=nn.Sequential(nn.Flatten(), nn.Linear(256, 5)),
                 augment=noisy)  # fmt: skip
    assert_alike(cls.load(tmp_path / "m", backbone=Net(), augment=noisy), model, X)
    own = cls(**QUICK, augment=Mine(scale=(0.5, 1.0))).fit(X)
    own.save(tmp_path / "m")
    with pytest.raises(ValueError, match="augment was Mine"):
        cls.load(tmp_path / "m")


def test_the_header_says_what_made_the_file(cls, path):
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
        assert {name.split("/")[1] for name in file.keys()} >= {"weights_", "labels_"}  # noqa: SIM118
    assert json.loads(header["estimator"]) == cls.__name__
    versions = json.loads(header["versions"])
    assert versions["skcc"] == skcc.__version__
    assert versions.keys() == {"skcc", "torch", "numpy", "sklearn"}
    parameters = json.loads(header["parameters"])
    assert parameters == {**cls().get_params(), **QUICK}
    assert b"\x80\x04" not in path.read_bytes()[:4]
    assert b"sklearn." not in path.read_bytes(), "no name of a class to import"


def test_a_file_that_names_a_device_of_another_machine_loads_here(cls, fitted, shapes, path):
    fitted_there = pickle.loads(pickle.dumps(fitted)).set_params(device="cuda:9")
    fitted_there._fitted_with["device"] = "cuda:9"
    fitted_there.settings_ = fitted.settings_ | {"device": "cuda:9"}
    fitted_there.save(path)
    np.testing.assert_array_equal(
        cls.load(path).predict_proba(shapes[0]), fitted.predict_proba(shapes[0])
    )
    with pytest.raises(ValueError, match="device='cuda:9' cannot be used here"):
        cls.load(path, device="cuda:9")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_file_from_a_gpu_loads_on_a_cpu(cls, shapes, tmp_path):
    model = cls(**QUICK | {"device": "cuda", "precision": "fp32"}).fit(shapes[0])
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m", device="cpu")
    agreed = loaded.predict(shapes[0]) == model.predict(shapes[0])
    assert agreed.mean() >= 0.95
    gap = np.abs(loaded.predict_proba(shapes[0]) - model.predict_proba(shapes[0]))
    assert np.median(gap) < 2e-2  # convolutions are in TF32 on the device


# -- files that are not what they should be --------------------------------------------------


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def with_header(path, change):
    """Rewrite the JSON at the head of a safetensors file."""
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    change(header["__metadata__"])
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + whole[8 + size :])


def other_estimator(header):
    header["estimator"] = '"KMeans"'


def without_state(header):
    del header["state"]


def of_a_newer_skcc(header):
    header["skcc_format"] = "99"


def with_another_parameter(header):
    state = json.loads(header["state"])
    state["dict"]["_fitted_with"]["dict"]["colour"] = 0.9
    header["state"] = json.dumps(state)


def with_fewer_clusters(header):
    state = json.loads(header["state"])
    state["dict"]["_fitted_with"]["dict"]["n_clusters"] = 2
    header["state"] = json.dumps(state)


def with_an_unknown_kind(header):
    header["state"] = '{"object": "os.system"}'


def without_weights(header):
    state = json.loads(header["state"])
    del state["dict"]["weights_"]
    header["state"] = json.dumps(state)


def with_broken_json(header):
    header["state"] = header["state"][:-9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_estimator, "holds a KMeans, not a"),
        (without_state, "damaged"),
        (of_a_newer_skcc, "format 99 of a newer skcc"),
        (with_another_parameter, "differ in the parameters colour"),
        (with_fewer_clusters, "weights do not fit"),
        (with_an_unknown_kind, "damaged"),
        (without_weights, "damaged|do not fit"),
        (with_broken_json, "damaged"),
    ],
)
def test_a_changed_header_is_refused(cls, path, change, message):
    with_header(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        cls.load(path)
    assert str(path) in str(caught.value)


def test_truncated_foreign_and_hostile_files_are_refused_and_execute_nothing(cls, path, capfd):
    whole = path.read_bytes()
    contents = [whole[:keep] for keep in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1)]
    contents += [pickle.dumps(Evil()), b"\x89PNG\r\n\x1a\n" + b"\0" * 99, b"\xff" * 64]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, or no safetensors file"):
            cls.load(path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        cls.load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds no estimator of skcc"):
        cls.load(path)
    assert capfd.readouterr().out == ""
    with pytest.raises(FileNotFoundError, match="no such file"):
        cls.load(path.parent / "other")


def test_saving_needs_a_fit_and_a_failed_write_leaves_the_old_file(
    cls, fitted, shapes, path, monkeypatch
):
    with pytest.raises(NotFittedError):
        cls().save(path)

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(persistence, "to_bytes", full)
    with pytest.raises(OSError, match="no space"):
        fitted.save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    np.testing.assert_array_equal(cls.load(path).labels_, fitted.labels_)


def test_a_path_that_cannot_be_written_is_named(cls, fitted, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    cases = [
        (tmp_path / "nowhere" / "m", FileNotFoundError, "no folder"),
        (tmp_path / "file" / "m", NotADirectoryError, "is not a folder"),
        (tmp_path / "folder", IsADirectoryError, "Is a directory"),
        (tmp_path / ("x" * 300), OSError, "too long"),
    ]
    with monkeypatch.context() as m:
        m.setattr(persistence, "to_bytes", None)  # it fails before anything is packed
        for path, error, message in cases[:3]:
            with pytest.raises(error, match=message) as caught:
                fitted.save(path)
            assert caught.value.filename == str(path)
    for path, error, message in cases:
        with pytest.raises(error, match=message) as caught, atomic_write(path) as file:
            file.write(b"x")
        assert caught.value.filename == str(path)
        assert ".tmp" not in str(caught.value)
    monkeypatch.setattr("skcc.atomic.os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="may not be written to") as caught:
        fitted.save(tmp_path / "folder" / "m")
    assert caught.value.filename == str(tmp_path / "folder" / "m")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_name_may_be_as_long_as_the_file_system_allows(fitted, tmp_path):
    fitted.save(tmp_path / ("x" * 250))
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 250]


def test_a_failed_replacement_names_the_path(tmp_path, monkeypatch):
    def replace(source, target):
        raise PermissionError(13, "Permission denied", source, None, target)

    monkeypatch.setattr("skcc.atomic.os.replace", replace)
    with pytest.raises(PermissionError) as caught, atomic_write(tmp_path / "m") as file:
        file.write(b"x")
    assert str(caught.value) == f"[Errno 13] Permission denied: '{tmp_path / 'm'}'"
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_body_are_unchanged(tmp_path):
    with pytest.raises(OSError, match=r"^no space$"), atomic_write(tmp_path / "m"):
        raise OSError("no space")


class Remote:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_parameters_from_numpy_are_stored(cls, shapes, tmp_path):
    given = {
        "n_clusters": np.array(3),
        "image_shape": np.array([16, 16]),
        "readout": np.array("kmeans"),
        "cache_dir": Remote(tmp_path / "cache"),
    }
    model = cls(**QUICK | given).fit(shapes[0])
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m")
    assert (loaded.n_clusters, tuple(loaded.image_shape)) == (3, (16, 16))
    assert (loaded.readout, loaded.cache_dir) == ("kmeans", None)
    np.testing.assert_array_equal(loaded.predict(shapes[0]), model.labels_)


def test_what_no_file_can_hold_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="a/1 is of type set"):
        persistence.write(tmp_path / "m", {}, {"a": [1, {2}]})
    assert list(tmp_path.iterdir()) == []


def test_values_of_every_kind_come_back(tmp_path):
    state = {
        "scalars": [None, True, 3, 0.1, float("inf"), "ä", np.float32(0.5)],
        "nested": {"t": (1, (2, [3])), "empty": {}, "none": ()},
        "arrays": {"i": np.arange(3), "f": np.eye(2, dtype=np.float32)[:, ::-1], "0d": np.array(7)},
        "names": np.array(["a", "b"], dtype=object),
        "path": Path("a/b"),
        "augmentation": ImageAugmentation(flip=0.25),
    }
    persistence.write(tmp_path / "m", {"who": [1, 2]}, state)
    header, back = persistence.read(tmp_path / "m", {})
    assert header == {"who": [1, 2]}
    for name, array in state["arrays"].items():
        assert back["arrays"][name].dtype == array.dtype
        np.testing.assert_array_equal(back["arrays"].pop(name), array)
    assert list(back.pop("names")) == ["a", "b"]
    del state["arrays"], state["names"]
    back.pop("arrays")
    assert back == state


# -- the other formats ----------------------------------------------------------------------


def test_skops_trusts_all_but_the_estimator_itself(cls, fitted, shapes):
    io = pytest.importorskip("skops.io")
    packed = io.dumps(fitted)
    own = [f"{cls.__module__}.{cls.__name__}"]
    assert io.get_untrusted_types(data=packed) == own
    assert_alike(io.loads(packed, trusted=own), fitted, shapes[0])


def test_pickle_joblib_and_pipelines(cls, fitted, shapes, tmp_path):
    X = shapes[0]
    packed = pickle.dumps(fitted)
    assert b"torch" not in packed, "weights are NumPy arrays"
    assert_alike(pickle.loads(packed), fitted, X)
    pipeline = make_pipeline(StandardScaler(), cls(**QUICK, image_shape=(16, 16)))
    rows = X.reshape(120, -1)
    pipeline.fit(rows)
    joblib.dump(pipeline, tmp_path / "p")
    for how in (None, "r"):
        loaded = joblib.load(tmp_path / "p", mmap_mode=how)
        np.testing.assert_array_equal(
            loaded[-1].predict_proba(pipeline[0].transform(rows)),
            pipeline[-1].predict_proba(pipeline[0].transform(rows)),
        )
