"""The short contract of every estimator, and the whole battery for one method per family.

scikit-learn's own checks run with real training and without an exemption.
"""

import importlib

import numpy as np
import pytest
import sklearn
from estimators import EACH, EVERY, FIRST, FULL, QUICK
from sklearn.base import clone
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

# Tiny data: empty clusters and small batches are expected.
pytestmark = pytest.mark.filterwarnings("ignore")
every_estimator = pytest.mark.parametrize("cls", EVERY, ids=lambda c: c.__name__)
NUMBER = {"1.6": 50, "1.9": 51}  # checks, by release
EXTRA = [  # public, but not among the checks of check_estimator
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]


def run_check(estimator, check):
    if "check_clustering" in str(check):  # which wants blobs to be found
        estimator.set_params(max_epochs=5)
    check(estimator)


@parametrize_with_checks([cls(max_epochs=2, **QUICK.get(cls, {})) for cls in FULL[:1]])
def test_scikit_learns_own_checks(estimator, check):
    run_check(estimator, check)


@pytest.mark.methods
@parametrize_with_checks(
    [cls(max_epochs=2, **QUICK.get(cls, {})) for cls in EVERY if cls is not FULL[0]]
)
def test_scikit_learns_own_checks_of_the_others(estimator, check):
    run_check(estimator, check)


@every_estimator
def test_none_of_the_checks_is_passed_over(cls):
    """A tag such as ``two_d_array=False`` would leave one check."""
    checks = list(estimator_checks_generator(cls(max_epochs=5), legacy=True))
    release = ".".join(sklearn.__version__.split(".")[:2])
    assert len(checks) >= NUMBER.get(release, 50)
    tags = get_tags(cls())
    assert tags.input_tags.two_d_array
    assert not any([tags.non_deterministic, tags.no_validation, tags._skip_test])
    assert tags.transformer_tags.preserves_dtype == ["float32"]


@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("cls", FIRST)
def test_scikit_learns_extra_checks(cls, name):
    if name.endswith(("pandas", "polars")):
        importlib.import_module(name.rsplit("_", 1)[1])
    getattr(estimator_checks, name)(cls.__name__, clone(cls(max_epochs=2)))


@pytest.mark.filterwarnings("ignore:max_seconds=")
@pytest.mark.parametrize("cls", EACH)
def test_what_is_fitted_predicts_is_saved_and_resumes(cls, shapes, tmp_path):
    X = shapes[0][:80]

    def new(**changes):
        settings = {"max_epochs": 4, "batch_size": 40, "image_size": 8, "random_state": 0}
        return cls(3, **settings | QUICK.get(cls, {}) | changes)

    model = new().fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    p, features = model.predict_proba(X), model.transform(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert features.shape == (len(X), len(model.get_feature_names_out()))

    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), p)
    np.testing.assert_array_equal(loaded.transform(X), features)

    interrupted = new(checkpoint_dir=tmp_path / "run", max_seconds=1e-9)
    assert interrupted.fit(X).n_iter_ < model.n_iter_
    resumed = interrupted.set_params(max_seconds=None).fit(X)
    assert resumed.history_ == model.history_
    np.testing.assert_equal(resumed.weights_, model.weights_)
