"""Bad input: early, with what was got and what is wanted, and nothing lost."""

import copy
import re
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from estimators import FULL
from PIL import Image
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import nn

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.augment import ImageAugmentation, VectorAugmentation
from skcc.exceptions import DivergenceWarning, ImageReadError

UNREADABLE = ["/no/such/file.png"] * 4  # its error comes first if anything is read
GOOD = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
ESTIMATORS = FULL


@pytest.fixture(params=ESTIMATORS, ids=lambda c: c.__name__)
def estimator(request, monkeypatch):
    def no_training(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr("skcc.training.engine.train", no_training)
    return request.param(n_clusters=3)


def with_nan(value):
    X = GOOD / 255
    X[3, 2, 1] = value
    return X


BAD_X = {
    "empty list": ([], ValueError, "empty|0 sample"),
    "empty array": (GOOD[:0], ValueError, "0 sample"),
    "empty table": (np.empty((0, 5)), ValueError, "0 sample"),
    "no pixels": (np.empty((9, 0, 8, 3)), ValueError, r"no pixels|0 feature"),
    "fewer images than clusters": (GOOD[:2], ValueError, "n_samples=2.*n_clusters=3"),
    "NaN": (with_nan(np.nan), ValueError, "NaN"),
    "infinity": (with_nan(np.inf), ValueError, "infinity"),
    "NaN in a table": (with_nan(np.nan).reshape(20, -1), ValueError, "NaN"),
    "floats above 1": (GOOD / 1.0, ValueError, r"\[0, 1\].*got values from 0 to 255"),
    "floats below 0": (GOOD / 255 - 0.5, ValueError, r"\[0, 1\]"),
    "large integers": (GOOD.astype(int) * 2, ValueError, r"\[0, 255\]"),
    "negative integers": (GOOD.astype(int) - 9, ValueError, r"\[0, 255\]"),
    "complex images": (GOOD * 1j, ValueError, "[Cc]omplex"),
    "complex table": ((GOOD * 1j).reshape(20, -1), ValueError, "[Cc]omplex"),
    "sparse": (scipy.sparse.eye(20).tocsr(), TypeError, "[Ss]parse"),
    "one axis": (np.arange(20), ValueError, "Expected 2D array"),
    "five axes": (GOOD[None], ValueError, r"shape \(1, 20, 8, 8, 3\)"),
    "one number": (3.0, ValueError, "[Ee]xpected 2D array"),
    "None": (None, (ValueError, TypeError), "None|object"),
    "mixed channels": ([*GOOD[:9], GOOD[9][..., :1]], ValueError, "channel counts"),
    "ragged arrays": ([*GOOD[:9], GOOD[9][:4]], ValueError, "different shapes"),
    "ragged object array": (
        np.array([GOOD[0], GOOD[1][:4], GOOD[2]], dtype=object), ValueError, "different shapes"),
    "ragged lists": ([[1, 2, 3], [4, 5]], ValueError, "ragged|inhomogeneous"),
    "ragged tensors": ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], ValueError, "different"),
    "objects": (np.array([object(), object(), object()]), TypeError, "object"),
    "dicts": ([{"a": 1}] * 9, TypeError, "dict"),
    "image and array": ([Image.new("L", (8, 8)), GOOD[0]], TypeError, "mixes"),
    "missing file": (["/no/such/file.png"] * 5, ImageReadError, "/no/such/file.png"),
    "missing folder": ("/no/such/folder", ImageReadError, "/no/such/folder"),
    "words": (np.array([["a", "b"], ["c", "d"]] * 5), ValueError, "convert|numeric|string"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_X)
def test_bad_images_are_refused_before_training(estimator, case):
    X, error, message = BAD_X[case]
    with pytest.raises(error, match=message):
        estimator.fit(X)
    assert not hasattr(estimator, "weights_")


BAD_PARAMETERS = {
    "n_clusters": [0, -1, 2.0, "3", None, True],
    "backbone": ["resnet", 3, None],
    "augment": ["natural-ish", None, 3],
    "image_size": [0, "32", (8, 8)],
    "image_shape": [(8,), "8x8", (8, 0), (8.0, 8.0)],
    "readout": ["mean", None],
    "max_epochs": [0, 1.5, "many"],
    "batch_size": [1, 0, "all"],
    "optimizer": ["sgd", None, 1],
    "learning_rate": [0, -1e-3, float("nan"), float("inf"), "fast"],
    "weight_decay": [-1, None],
    "schedule": ["cosine?", None],
    "device": ["gpu", "cuda:99", "tpu", 3.5],
    "precision": ["fp16", None],
    "cuda_graphs": ["always", 1, None],
    "compile_step": ["auto", 1, None],
    "augmented_views": [3, "both", True],
    "max_seconds": [0, "1 h"],
    "sync_batchnorm": ["yes", 1],
    "random_state": ["42", -1, 2**32, 1.5, np.random.default_rng(0), [1, 2]],
    "checkpoint_dir": [True, b"a", __file__, "a\0b"],
    "cache_dir": [True, 3, __file__, __file__ + "/below"],
    "n_jobs": ["2", 0, 1.5],
    "on_error": ["ignore", None],
    "verbose": ["yes", -1, None],
    "projection_dim": [0, "x"],
    "n_heads": [0, None],
    "instance_temperature": [0, "x"],
    "cluster_temperature": [-1, None],
    "instance_weight": [-1, "x"],
    "cluster_weight": [-1, None],
    "entropy_weight": [-1, float("nan")],
}
BAD_PARAMETERS["device"] += ["meta", torch.device("meta"), "CPU", True, ["cpu"], "hpu"]
BAD_PARAMETERS["backbone"] += [nn.Identity, nn.Linear(3, 2, device="meta")]
BAD_TWIN_PARAMETERS = {
    "assignment_temperature": [0, "x"],
    "gumbel_temperature": [0, None],
    "gumbel_noise": [-1, "x"],
    "prior_weight": [-1],
    "instance_queue": [-1, 2.0],
    "cluster_queue": [-1, "x"],
    "momentum": [1.5, -1, "x"],
    "prior": ["x", True],
    "membership": ["x", None],
    "cluster_gradient": ["x", None],
    "conditioned": ["x", 1],
    "symmetric": ["x", 0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BAD_PARAMETERS.items() for v in values]
)
def test_bad_parameters_are_named_with_what_came(estimator, name, value):
    assert_named_before_reading(estimator, name, value)


def assert_named_before_reading(estimator, name, value):
    estimator.set_params(**{name: value})
    with pytest.raises(ValueError, match=f"^(each entry of )?{name}\\b") as caught:
        estimator.fit(UNREADABLE)
    assert not isinstance(caught.value, ImageReadError)


@pytest.mark.parametrize("name", BAD_TWIN_PARAMETERS)
def test_bad_parameters_of_a_method_are_named(name):
    for value in BAD_TWIN_PARAMETERS[name]:
        assert_named_before_reading(TwinContrastClustering(3), name, value)
    assert vars(TwinContrastClustering).keys() >= BAD_TWIN_PARAMETERS.keys()


def test_every_parameter_has_a_bad_value():
    assert TwinContrastClustering().get_params().keys() == (
        BAD_PARAMETERS.keys() | BAD_TWIN_PARAMETERS.keys()
    )


def test_a_generator_is_answered_by_a_line_that_works():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"such as (int\(generator\.integers\(2\*\*32\)\))") as e:
        ContrastiveClustering(random_state=generator).fit(UNREADABLE)
    line = re.search(r"such as (int\(.*\)\)?);", str(e.value))[1]
    ContrastiveClustering(random_state=eval(line, {"generator": generator}))._check_parameters()


RUNTIME = {"device": "meta", "precision": "fp8", "on_error": "ignore", "n_jobs": "2"}


@pytest.mark.parametrize("name", RUNTIME)
def test_parameters_of_a_fitted_estimator_are_named_as_early(fitted, name):
    other = copy.copy(fitted).set_params(**{name: RUNTIME[name]})
    for method in ("predict", "predict_proba", "transform", "score"):
        with pytest.raises(ValueError, match=f"^{name}"):
            getattr(other, method)(UNREADABLE)


@pytest.mark.parametrize("X", ["/no/folder", ["/no/u.png"] * 3, "/no/*.png"])
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_unlabeled_files_that_do_not_exist_are_named_first(X, on_error):
    with pytest.raises(ImageReadError, match=r"^unlabeled: .*/no/"):
        ContrastiveClustering(2, on_error=on_error).fit(UNREADABLE, unlabeled=X)
    with pytest.raises(ValueError, match="instance_weight > 0"):
        ContrastiveClustering(2, instance_weight=0).fit(UNREADABLE, unlabeled=X)


class Doubles(nn.Flatten):
    def forward(self, x):
        return super().forward(x).double()


class Indices(nn.Flatten):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True)


class Pair(nn.Flatten):
    def forward(self, x):
        return super().forward(x), x


class Nothing(nn.Flatten):
    def forward(self, x):
        return super().forward(x)[:, :0]


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("weight")


NO_FEATURES = {
    "float64": (Doubles(), r"gave shape \(2, 192\) and torch.float64"),
    "integers": (Indices(), r"gave shape \(2, 1\) and torch.int64"),
    "tuple": (Pair(), "gave tuple"),
    "no columns": (Nothing(), r"gave shape \(2, 0\)"),
    "its own error": (Broken(), "KeyError: 'weight'"),
    "no forward": (nn.Module(), "forward"),
    "weights in float64": (nn.Sequential(nn.Flatten(), nn.Linear(192, 3).double()), "dtype"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_FEATURES)
def test_a_module_without_features_is_named_before_training(estimator, case):
    module, message = NO_FEATURES[case]
    with pytest.raises(ValueError, match=f"^backbone .*{message}"):
        estimator.set_params(backbone=module, image_size=8).fit(GOOD)


@pytest.mark.parametrize("name", ["backbone", "augment"])
def test_what_is_for_images_is_not_for_vectors(estimator, name):
    for_images = {"backbone": ["conv4", "resnet18"], "augment": ["natural", ImageAugmentation()]}
    for value in for_images[name]:
        with pytest.raises(ValueError, match=f"^{name}=.* for images, .* vectors of 4 features"):
            estimator.set_params(**{name: value}).fit(np.eye(4))
    for_vectors = {"backbone": ["mlp"], "augment": ["vector", VectorAugmentation()]}
    for value in for_vectors[name]:
        with pytest.raises(ValueError, match=rf"^{name}=.* vectors, .* of shape \(8, 8, 3\)"):
            estimator.set_params(**{name: value}).fit(GOOD)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform", "score"])
def test_not_fitted(estimator, method):
    with pytest.raises(NotFittedError):
        getattr(estimator, method)(GOOD)


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda c: c.__name__)
def fitted(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # there is nothing to find
        return request.param(n_clusters=2, max_epochs=1, random_state=0).fit(GOOD)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (GOOD[:, :4], r"\(4, 8, 3\).*\(8, 8, 3\)"),
        (GOOD[..., :1], r"\(8, 8, 1\).*\(8, 8, 3\)"),
        (GOOD[..., 0], r"\(8, 8, 1\).*\(8, 8, 3\)"),
        (GOOD.reshape(20, -1)[:, :-1], "191 features.*192 features"),
        (GOOD * 2.0, r"from 0 to 510.*fitted on integers from 0 to 255"),
        (GOOD[:0], "0 sample"),
    ],
)
def test_other_images_than_those_of_fit_are_refused(fitted, X, message):
    before = fitted.predict(GOOD)
    for method in (fitted.predict, fitted.predict_proba, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=message):
            method(X)
    np.testing.assert_array_equal(fitted.predict(GOOD), before)


def test_a_failed_refit_leaves_the_fitted_model(fitted):
    before = fitted.predict_proba(GOOD)
    with pytest.raises(ValueError, match="NaN"):
        fitted.fit(with_nan(np.nan))
    np.testing.assert_array_equal(fitted.predict_proba(GOOD), before)


def test_training_that_fails_leaves_the_fitted_model(fitted):
    before = fitted.predict_proba(GOOD)
    fitted.set_params(augment=lambda images: images * float("nan"), n_clusters=5)
    with pytest.warns(DivergenceWarning), pytest.raises(FloatingPointError):
        fitted.fit(GOOD[:, :6])
    np.testing.assert_array_equal(fitted.predict_proba(GOOD), before)


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
def test_vectors_and_images_are_not_confused(cls):
    X = np.random.default_rng(0).normal(size=(40, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = cls(n_clusters=2, max_epochs=1, random_state=0).fit(X)
    for images in (GOOD, [Image.new("L", (2, 3))] * 4, torch.from_numpy(GOOD)):
        with pytest.raises(ValueError, match=r"images.*fitted on vectors of 6 features"):
            model.predict(images)
    for wrong in (X[:, :5], torch.from_numpy(X[:, :5])):
        with pytest.raises(ValueError, match=r"5 features.*6 features"):
            model.predict(wrong)
    np.testing.assert_array_equal(model.predict(torch.from_numpy(X)), model.labels_)


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
def test_a_refit_forgets_what_it_does_not_learn(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = cls(n_clusters=2, max_epochs=1, readout="kmeans", random_state=0).fit(GOOD)
        assert model.cluster_centers_.shape == (2, model.transform(GOOD).shape[1])
        model.set_params(readout="head").fit(GOOD)
    assert not hasattr(model, "cluster_centers_")
