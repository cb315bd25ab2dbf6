"""Whatever comes: a clean error before training, or an estimator that agrees with itself."""

import numpy as np
import pytest
import torch
from estimators import FULL
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from skcc.training import engine

ESTIMATORS = FULL
SIDE = st.integers(1, 11)
SPOILS = ["number", "axes", "dtype", "range", "not finite", "parameters"]


@st.composite
def arrays(draw, spoil):
    """An array of any layout, dtype and order, with the values of images, unless it is spoiled."""
    n = draw(st.integers(0, 2) if spoil == "number" else st.integers(6, 40))
    h, w, c = draw(SIDE), draw(SIDE), draw(st.integers(1, 5))
    shapes = [(n, h, w), (n, h, w, c), (n, c, h, w), (n, h * w)]
    shape = draw(st.sampled_from([(n,), (n, h, w, c, 2), ()] if spoil == "axes" else shapes))
    odd, usual = ["c8", "U3", "O", "M8[s]"], ["u1", "i2", "i8", "?", "f2", "f4", "f8"]
    dtype = np.dtype(draw(st.sampled_from(odd if spoil == "dtype" else usual)))
    top = 300 if spoil == "range" else 1 if dtype.kind == "f" else 255
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = np.asarray(top * rng.random(shape))
    if spoil == "not finite":
        dtype = np.dtype("f4")
        values.flat[: 1 + values.size // 3] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return np.array(values.astype(dtype), order=draw(st.sampled_from("CF")))


@st.composite
def anything(draw, spoil):
    """An array as it is, or as a list, a tensor, or PIL images."""
    X = draw(arrays(spoil))
    kind = draw(st.sampled_from(["array", "array", "list", "nested", "tensor", "PIL"]))
    if kind == "list" and X.ndim:
        return list(X)
    if kind == "nested":
        return X.tolist()
    if kind == "tensor" and X.dtype.kind in "uifb":
        return torch.from_numpy(X)
    if kind == "PIL" and X.dtype == np.uint8 and (X.ndim == 3 or X.shape[3:] in ((3,), (4,))):
        return [Image.fromarray(image) for image in X]
    return X


@st.composite
def cases(draw):
    """X and parameters; at most one thing is wrong with them, and often nothing is."""
    spoil = draw(st.sampled_from([None] * 6 + SPOILS))
    wrong = spoil == "parameters"
    parameters = st.fixed_dictionaries(
        {"n_clusters": st.integers(-1, 0) if wrong else st.integers(1, 6)},
        optional={
            "batch_size": st.integers(2, 20),
            "image_size": st.integers(1, 24),
            "image_shape": st.tuples(SIDE, SIDE) | st.tuples(SIDE, SIDE, st.integers(1, 4)),
            "readout": st.sampled_from(["head", "kmeans"]),
            "augmented_views": st.integers(0, 2),
            "schedule": st.sampled_from(["one-cycle", "constant"]),
            "random_state": st.integers(0, 3),
        },
    )
    return draw(anything(spoil)), draw(parameters)


@pytest.fixture
def trained(monkeypatch):
    """Counts the fits whose training began."""
    begun = []
    train = engine.train
    monkeypatch.setattr(engine, "train", lambda *a, **k: begun.append(1) or train(*a, **k))
    return begun


@pytest.mark.filterwarnings("ignore")  # tiny data: empty clusters and small batches
@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_a_clean_error_or_an_estimator_that_agrees_with_itself(cls, trained, case):
    X, parameters = case
    trained.clear()
    model = cls(**{"max_epochs": 1, "device": "cpu", "random_state": 0, **parameters})
    try:
        model.fit(X)
    except (ValueError, TypeError):
        assert not trained, "the error came after training had begun"
        assert not [name for name in vars(model) if name.endswith("_")]
        event("refused")
        return
    event("fitted")
    p = model.predict_proba(X)
    assert trained == [1]
    assert p.shape == (len(X), parameters["n_clusters"])
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(p.argmax(axis=1), model.labels_)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert np.isfinite(model.transform(X)).all()
    np.testing.assert_array_equal(model.fit_predict(X), model.predict(X))
