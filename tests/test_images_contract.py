"""What scikit-learn asks of vectors, asked of images: its checks never see one."""

import copy
import pickle
from itertools import product

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from estimators import FULL
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = FULL
KINDS = ("gray uint8", "NHWC uint8", "NCHW tensor", "paths", "PIL")
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
ANSWERS = ("predict", "predict_proba", "transform")


def take(X, index):
    return [X[i] for i in index] if isinstance(X, list) else X[index]


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(
    scope="module",
    params=[*product(ESTIMATORS[:1], KINDS), *product(ESTIMATORS[1:], ("gray uint8", "paths"))],
    ids=lambda case: f"{case[0].__name__}-{case[1]}",
)
def case(request):
    """An estimator and a kind of images; how X is read does not depend on the method."""
    return request.param


@pytest.fixture(scope="module")
def unfitted(case, device):
    return case[0](
        n_clusters=3,
        readout="head",
        max_epochs=2,
        batch_size=40,
        image_size=8,
        random_state=0,
        device=device,
        precision="fp32",
        n_jobs=2,
    )


@pytest.fixture(scope="module")
def X(case, kinds_of_x):
    return kinds_of_x[case[1]]


@pytest.fixture(scope="module")
def fitted(unfitted, X):
    return copy.deepcopy(unfitted).fit(X)


@pytest.fixture(scope="module")
def answers(fitted, X):
    return {name: getattr(fitted, name)(X) for name in ANSWERS}


def assert_same(a, b, device):
    if device == "cpu":
        np.testing.assert_array_equal(a, b)
    else:  # kernels differ in the order of their sums
        np.testing.assert_allclose(a, b, atol=2e-2)


def test_answers_have_the_right_shapes_and_types(fitted, answers):
    assert answers["predict"].dtype.kind == fitted.labels_.dtype.kind == "i"
    assert answers["predict_proba"].shape == (120, 3)
    assert answers["transform"].shape == (120, len(fitted.get_feature_names_out()))
    assert answers["predict_proba"].dtype == answers["transform"].dtype == np.float32
    np.testing.assert_array_equal(answers["predict"], fitted.labels_)


def test_fit_is_idempotent(fitted, X, answers):
    again = copy.deepcopy(fitted).fit(X)
    np.testing.assert_array_equal(again.predict_proba(X), answers["predict_proba"])
    assert again.fit(X).history_[0] == pytest.approx(fitted.history_[0], rel=1e-2)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_do_not_depend_on_order_or_company(fitted, X, answers, device, name):
    answer = getattr(fitted, name)
    order = np.random.default_rng(0).permutation(120)
    assert_same(answer(take(X, order)), answers[name][order], device)
    assert_same(answer(take(X, np.arange(30, 37))), answers[name][30:37], device)
    one_by_one = np.concatenate([answer(take(X, [i])) for i in range(5)])
    assert_same(one_by_one, answers[name][:5], device)


def test_answers_leave_the_estimator_as_it_was(fitted, X):
    before = dict(vars(fitted))
    arrays = copy.deepcopy(fitted.weights_)
    for name in (*ANSWERS, "score"):
        getattr(fitted, name)(X)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())
    for name, array in arrays.items():
        np.testing.assert_array_equal(fitted.weights_[name], array)


def contents(X):
    if isinstance(X, list) and isinstance(X[0], Image.Image):
        return [image.tobytes() for image in X]
    if isinstance(X, list):
        return [path.read_bytes() for path in X]
    return X.clone() if isinstance(X, torch.Tensor) else X.copy()


def test_neither_fit_nor_answers_change_x(unfitted, X):
    before = contents(X)
    model = copy.deepcopy(unfitted).fit(X)
    for name in (*ANSWERS, "score"):
        getattr(model, name)(X)
    after = contents(X)
    assert np.array_equal(before, after) if not isinstance(before, list) else before == after


def test_pickles_and_read_only_memory_maps(fitted, X, answers, device, tmp_path):
    assert_same(
        pickle.loads(pickle.dumps(fitted)).predict_proba(X), answers["predict_proba"], device
    )
    joblib.dump((fitted, X), tmp_path / "both")
    mapped, mapped_x = joblib.load(tmp_path / "both", mmap_mode="r")
    assert not next(iter(mapped.weights_.values())).flags.writeable
    for name in ANSWERS:
        assert_same(getattr(mapped, name)(mapped_x), answers[name], device)
    assert_same(mapped.fit(mapped_x).predict_proba(mapped_x), answers["predict_proba"], device)


def test_one_image(unfitted, fitted, X, answers):
    np.testing.assert_array_equal(fitted.predict(take(X, [7])), answers["predict"][[7]])
    assert np.isfinite(fitted.score(take(X, [7])))
    with pytest.raises(ValueError, match=r"n_samples=1 should be >= n_clusters=3"):
        copy.deepcopy(unfitted).fit(take(X, [7]))
    with pytest.raises(ValueError, match=r"0 sample|empty"):
        copy.deepcopy(unfitted).fit(take(X, []))


def test_one_cluster(unfitted, X):
    model = copy.deepcopy(unfitted).set_params(n_clusters=1).fit(X)
    assert (model.labels_ == 0).all()
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((120, 1)))
    assert model.score(X) == 0


# -- arrays alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64", "F-ordered", "view"])
@pytest.mark.parametrize("cls", ESTIMATORS[:1], ids=lambda c: c.__name__)
def test_one_picture_in_many_dtypes_is_one_picture(cls, kinds_of_x, dtype):
    X = kinds_of_x["NHWC uint8"]
    wide = np.repeat(X, 2, axis=2)
    other = {
        "F-ordered": lambda: np.asfortranarray(X),
        "view": lambda: wide[:, :, ::2],
    }.get(dtype, lambda: (X / 255).astype(dtype) if "float" in dtype else X.astype(dtype))()
    how = {"n_clusters": 3, "readout": "head", "max_epochs": 2, "random_state": 0, "device": "cpu"}
    np.testing.assert_array_equal(
        cls(**how).fit(X).predict_proba(X), cls(**how).fit(other).predict_proba(other)
    )


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
def test_fit_on_one_form_and_predict_on_another(cls, kinds_of_x):
    X, paths, pil = (kinds_of_x[kind] for kind in ("NHWC uint8", "paths", "PIL"))
    first = np.ascontiguousarray(X.transpose(0, 3, 1, 2))
    forms = [X, X / 1.0, X / 255, (X / 255).astype(np.float16), X.astype(object), X.tolist(),
             first, torch.from_numpy(first).bfloat16(), list(torch.from_numpy(first)), paths, pil,
             pd.Series(list(X)), torch.utils.data.TensorDataset(torch.from_numpy(X))]  # fmt: skip
    rows = X.reshape(120, -1)
    tables = [rows, rows / 1.0, pd.DataFrame(rows).astype(float), rows.tolist(),
              list(torch.from_numpy(rows).bfloat16())]  # fmt: skip
    for fitted, later in ((X, forms + tables), (pil, forms), (first / 255, forms[2:7:4])):
        model = cls(n_clusters=3, readout="head", max_epochs=1, random_state=0, device="cpu").fit(
            fitted
        )
        for other in later:
            np.testing.assert_array_equal(model.predict(other), model.labels_)
    for wrong in (rows, rows / 255):  # in which order?
        with pytest.raises(ValueError, match="cannot tell the order"):
            model.predict(wrong)


@pytest.mark.parametrize(
    ("cls", "layout", "side"),
    [
        *product(ESTIMATORS[:1], ("gray", "NHWC", "NCHW", "PIL"), (1, 33)),
        *product(ESTIMATORS[:1], ("NHWC",), (8, 224, 512)),
        *product(ESTIMATORS[1:], ("gray", "PIL"), (1, 33)),
    ],
)
def test_from_one_pixel_to_512(cls, layout, side):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, side, side, 3), dtype=np.uint8)
    X = {
        "gray": lambda: pictures[..., 0],
        "NHWC": lambda: pictures,
        "NCHW": lambda: (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32),
        "PIL": lambda: [Image.fromarray(p) for p in pictures],
    }[layout]()
    model = cls(n_clusters=2, readout="head", max_epochs=1, random_state=0, device="cpu").fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert model.image_shape_[2] == (1 if layout == "gray" else 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 16, 8, 3), np.uint8), r"\(16, 8, 3\).*\(16, 16, 3\)"),
        (np.zeros((4, 3, 16, 15), np.uint8), r"\(16, 15, 3\).*\(16, 16, 3\)"),
        (np.zeros((4, 16, 16), np.uint8), r"\(16, 16, 1\).*\(16, 16, 3\)"),
        (np.zeros((4, 767)), "767 features.*768 features"),
        (np.zeros(16), "Expected 2D array"),
        (np.zeros((4, 16, 16, 3, 1), np.uint8), r"shape \(4, 16, 16, 3, 1\)"),
    ],
)
def test_images_of_another_shape_are_refused(kinds_of_x, wrong, message):
    for cls in ESTIMATORS:
        model = cls(n_clusters=2, readout="head", max_epochs=1, random_state=0, device="cpu")
        model.fit(kinds_of_x["NHWC uint8"])
        for name in (*ANSWERS, "score"):
            with pytest.raises(ValueError, match=message):
                getattr(model, name)(wrong)
