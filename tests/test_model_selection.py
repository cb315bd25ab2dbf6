"""Searches, cross-validation and pipelines, with images wherever scikit-learn takes tables."""

import numpy as np
import pytest
import sklearn
from estimators import FIRST, FULL
from joblib import parallel_config
from PIL import Image
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.metrics import clustering_accuracy

# Most fits are far too short, and folds are small.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]
RELEASE = tuple(map(int, sklearn.__version__.split(".")[:2]))
ESTIMATORS = FULL
every_estimator = pytest.mark.parametrize("cls", FIRST)


def quick(cls, **parameters):
    """Small views: nearly all of these tests ask how, not how well."""
    return cls(**{"n_clusters": 3, "max_epochs": 2, "random_state": 0, "device": "cpu",
                  "image_size": 8, "readout": "head"} | parameters)  # fmt: skip


def twice_the_contrast(X):
    return np.clip(2 * (X - 0.5) + 0.5, 0, 1)


# -- searches -------------------------------------------------------------------------------


# How X is split and sent does not depend on the method: of the second, one kind is enough.
@pytest.mark.parametrize(
    ("cls", "kind"),
    [
        (ContrastiveClustering, "NHWC uint8"),
        pytest.param(ContrastiveClustering, "NCHW tensor", marks=pytest.mark.skipif(
            RELEASE < (1, 7), reason="scikit-learn 1.6 cannot split tensors")),
        (ContrastiveClustering, "paths"),
        (ContrastiveClustering, "strings"),
        (ContrastiveClustering, "PIL"),
        (TwinContrastClustering, "paths"),
    ],
)  # fmt: skip
def test_a_search_over_the_number_of_clusters_takes_any_images(cls, kinds_of_x, kind):
    X, grid = kinds_of_x[kind], {"n_clusters": [2, 3]}
    search = GridSearchCV(quick(cls), grid, cv=2, error_score="raise").fit(X)
    assert search.best_params_["n_clusters"] in (2, 3)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == (120,)
    best = quick(cls, **search.best_params_).fit(X)
    np.testing.assert_array_equal(search.best_estimator_.labels_, best.labels_)


@pytest.mark.parametrize(
    ("cls", "kind", "backend"),
    [
        pytest.param(ContrastiveClustering, "NHWC uint8", "loky", marks=pytest.mark.processes),
        pytest.param(ContrastiveClustering, "paths", "loky", marks=pytest.mark.processes),
        pytest.param(ContrastiveClustering, "PIL", "loky", marks=pytest.mark.processes),
        (ContrastiveClustering, "PIL", "threading"),
        pytest.param(
            TwinContrastClustering, "NHWC uint8", "threading", marks=pytest.mark.processes
        ),
        pytest.param(TwinContrastClustering, "PIL", "loky", marks=pytest.mark.processes),
    ],
)
def test_two_workers_find_what_one_does(cls, kinds_of_x, shapes, kind, backend):
    X, kinds = kinds_of_x[kind], shapes[1]
    scoring = {
        "label-free": lambda model, X, y=None: model.score(X),
        "ARI": "adjusted_rand_score",
        "NMI": "normalized_mutual_info_score",
        "ACC": make_scorer(clustering_accuracy),
    }

    def search(n_jobs):
        return GridSearchCV(
            quick(cls), {"n_clusters": [2, 3]}, cv=2, scoring=scoring, refit="ARI",
            n_jobs=n_jobs, error_score="raise",
        ).fit(X, kinds)  # fmt: skip

    alone = search(1)
    with (
        parallel_config(backend=backend, inner_max_num_threads=1)
        if backend == "loky"
        else (parallel_config(backend=backend))
    ):
        together = search(2)
    for name in scoring:
        np.testing.assert_allclose(
            together.cv_results_[f"mean_test_{name}"], alone.cv_results_[f"mean_test_{name}"]
        )


@pytest.mark.long
@every_estimator
def test_the_search_finds_the_three_kinds_of_pictures(cls, shapes):
    X, kinds = shapes
    grid = {"n_clusters": [2, 3, 5]}
    slow = {
        "TwinContrastClustering": 200
    }  # one view of two carries a gradient, and samples are noisy
    model = quick(cls, max_epochs=slow.get(cls.__name__, 60), batch_size=40)
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X)
    assert search.best_params_ == {"n_clusters": 3}
    assert adjusted_rand_score(kinds, search.predict(X)) > 0.8


@every_estimator
def test_halving_by_epochs(cls, shapes):
    search = HalvingGridSearchCV(
        quick(cls), {"n_clusters": [2, 3, 4]}, resource="max_epochs", max_resources=8,
        min_resources=2, factor=2, cv=2, random_state=0, error_score="raise",
    ).fit(shapes[0])  # fmt: skip
    assert search.n_resources_ == [2, 4]
    assert search.best_estimator_.n_iter_ == 4


@every_estimator
def test_cross_validated_probabilities_and_scores(cls, kinds_of_x, shapes):
    X = kinds_of_x["PIL"]
    p = cross_val_predict(quick(cls), X, method="predict_proba", cv=3)
    assert p.shape == (120, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    labels = cross_val_predict(quick(cls), X, shapes[1], cv=3)
    assert set(labels) <= {0, 1, 2}
    scores = cross_val_score(quick(cls), X, shapes[1], cv=3, scoring="v_measure_score")
    assert ((scores >= 0) & (scores <= 1)).all()


# -- pipelines ------------------------------------------------------------------------------


@every_estimator
def test_a_function_before(cls, kinds_of_x):
    X = kinds_of_x["NCHW float"]
    pipeline = make_pipeline(FunctionTransformer(twice_the_contrast), quick(cls))
    labels = pipeline.fit_predict(X)
    np.testing.assert_array_equal(labels, quick(cls).fit_predict(twice_the_contrast(X)))
    np.testing.assert_array_equal(pipeline.predict(X), labels)
    assert pipeline.predict_proba(X).shape == (120, 3)
    assert np.isfinite(pipeline.score(X))


@every_estimator
def test_a_scaler_before_and_rows_as_images(cls, kinds_of_x):
    rows = kinds_of_x["NHWC uint8"].reshape(120, -1).astype(float)
    pipeline = make_pipeline(StandardScaler(), quick(cls, image_shape=(16, 16, 3)))
    labels = pipeline.fit_predict(rows)
    np.testing.assert_array_equal(pipeline.predict(rows), labels)
    assert pipeline[-1].image_shape_ == (16, 16, 3)
    first = clone(pipeline).fit(rows[:100])
    assert first.predict(rows).shape == (120,), "some values are beyond those of fit"
    with pytest.raises(ValueError, match=r"was fitted on numbers from .* Scale X as"):
        pipeline.predict(10 * rows)


@pytest.mark.parametrize("cls", FIRST)
def test_features_for_what_comes_after(cls, shapes):
    X, kinds = shapes
    features = quick(cls, max_epochs=30, batch_size=40, image_size=None)
    classify = make_pipeline(features, StandardScaler(), LogisticRegression())
    assert classify.fit(X[:80], kinds[:80]).score(X[80:], kinds[80:]) > 0.9
    cluster = make_pipeline(FrozenEstimator(classify[0]), KMeans(3, n_init=5, random_state=0))
    assert adjusted_rand_score(kinds, cluster.fit_predict(X)) > 0.5
    names = classify[:-1].get_feature_names_out()
    assert names[0] == f"{cls.__name__.lower()}0"
    assert len(names) == classify[-1].n_features_in_


@pytest.mark.parametrize(
    "library",
    [
        "pandas",
        pytest.param("polars", marks=pytest.mark.skipif(
            RELEASE < (1, 7), reason="scikit-learn 1.6 cannot read the columns of polars")),
    ],
)  # fmt: skip
@every_estimator
def test_a_column_of_image_paths_beside_others(cls, kinds_of_x, library):
    frames = pytest.importorskip(library)
    table = frames.DataFrame(
        {"picture": [str(p) for p in kinds_of_x["paths"]], "shop": ["a", "b", "c"] * 40}
    )
    transformer = make_column_transformer(
        (quick(cls), ["picture"]), (OneHotEncoder(sparse_output=False), ["shop"])
    ).set_output(transform=library)
    out = transformer.fit_transform(table)
    model = quick(cls).fit(kinds_of_x["paths"])
    np.testing.assert_array_equal(
        np.asarray(out)[:, :-3].astype(np.float32), model.transform(kinds_of_x["paths"])
    )
    prefix = cls.__name__.lower()
    assert next(iter(out.columns)) == f"{prefix}__{prefix}0"
    assert transformer.transform(table[:5]).shape == out[:5].shape
    by_name = ColumnTransformer([("features", quick(cls), "picture")])
    np.testing.assert_array_equal(
        by_name.fit_transform(table), model.transform(kinds_of_x["paths"])
    )


@every_estimator
def test_set_output_and_default_output(cls, shapes):
    pd = pytest.importorskip("pandas")
    features = quick(cls).set_output(transform="pandas").fit_transform(shapes[0])
    assert isinstance(features, pd.DataFrame)
    assert (features.dtypes == np.float32).all()


@every_estimator
def test_frozen(cls, shapes):
    X, kinds = shapes
    model = quick(cls).fit(X)
    before = model.predict_proba(X)
    frozen = FrozenEstimator(model)
    pipeline = make_pipeline(frozen, LogisticRegression()).fit(X[:60], kinds[:60])
    np.testing.assert_array_equal(frozen.predict_proba(X), before)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert clone(pipeline)[0].estimator is model


@every_estimator
def test_clones(cls, shapes):
    model = quick(cls, image_shape=(16, 16), augment="gray").fit(shapes[0])
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not [name for name in vars(copy) if name.endswith("_") or name.startswith("_")]


@every_estimator
def test_with_metadata_routing(cls, shapes):
    X, kinds = shapes
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = Pipeline([("f", FunctionTransformer()), ("c", quick(cls))])
        search = GridSearchCV(
            pipeline, {"c__n_clusters": [2, 3]}, cv=2, scoring="adjusted_rand_score",
            error_score="raise",
        ).fit(X, kinds)  # fmt: skip
        assert search.predict(X).shape == (120,)
        # Not through Pipeline.score, which then fails for any last step whose score takes no
        # sample_weight, PCA's among them.
        label_free = GridSearchCV(quick(cls), {"n_clusters": [2, 3]}, cv=2, error_score="raise")
        assert np.isfinite(label_free.fit(X).best_score_)


@every_estimator
def test_the_html_of_a_fitted_estimator_stays_small(cls, shapes):
    X = shapes[0]
    reference = len(KMeans(3, n_init=1).fit(X.reshape(120, -1))._repr_html_())
    model = quick(cls).fit(X)
    small = len(model._repr_html_())
    large = len(quick(cls, max_epochs=1, backbone="resnet18-small").fit(X)
                ._repr_html_())  # fmt: skip
    assert small < 1.4 * reference
    assert large < small + 2000, "it does not grow with the network"
    assert len(repr(model)) < 200


class LazyImages:
    """An array-like that reads pictures when they are needed."""

    ndim = 4

    def __init__(self, paths):
        self.paths = np.asarray(paths)

    shape = property(lambda self: (len(self.paths), 16, 16, 3))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        return LazyImages(self.paths[key[0] if isinstance(key, tuple) else key])

    def __array__(self, dtype=None, copy=None):
        return np.stack([np.asarray(Image.open(p)) for p in self.paths]).astype(dtype or np.uint8)


@every_estimator
def test_lazy_array_likes(cls, kinds_of_x):
    lazy = LazyImages(kinds_of_x["paths"])
    search = GridSearchCV(quick(cls), {"n_clusters": [2, 3]}, cv=2, error_score="raise").fit(lazy)
    np.testing.assert_array_equal(search.predict(lazy), search.predict(kinds_of_x["NHWC uint8"]))
