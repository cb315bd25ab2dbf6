"""What every estimator promises, on images of all kinds and on vectors."""

import copy
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
from estimators import FIRST, FULL
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import normalize
from torch import nn

from skcc.exceptions import DivergenceWarning
from skcc.fitting import tell_outcome
from skcc.methods.contrastive import ContrastiveClustering

# Most tests stop long before all clusters are found.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ESTIMATORS = FULL
every_estimator = pytest.mark.parametrize("cls", FIRST)


def quick(cls, **parameters):
    return cls(
        **{
            "n_clusters": 3,
            "readout": "head",
            "max_epochs": 2,
            "batch_size": 40,
            "image_size": 8,
            "random_state": 0,
            **parameters,
        }
    )


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda c: c.__name__)
def fitted(request, shapes):
    return quick(request.param, max_epochs=6).fit(shapes[0])


KINDS = (
    *("gray uint8", "gray float", "NHWC uint8", "NCHW float", "NCHW tensor", "two channels"),
    *("four channels", "nine channels", "paths", "strings", "PIL", "PIL of many sizes", "vectors"),
)


# Reading is the same for all methods, so the further ones see a few kinds only.
ON_KINDS = [(ESTIMATORS[0], kind) for kind in KINDS]
ON_KINDS += [(cls, kind) for cls in ESTIMATORS[1:] for kind in ("NHWC uint8", "paths", "vectors")]


@pytest.mark.parametrize(("cls", "kind"), ON_KINDS)
def test_all_methods_on_all_kinds_of_images(cls, kinds_of_x, kind):
    X = kinds_of_x[kind]
    model = quick(cls)
    np.testing.assert_array_equal(model.fit_predict(X, y=None), model.labels_)
    n, p, features = 120, model.predict_proba(X), model.transform(X)
    assert model.labels_.shape == (n,)
    assert model.labels_.dtype.kind == "i"
    assert set(model.labels_) == set(range(model.labels_.max() + 1))
    assert (np.diff(np.bincount(model.labels_)) <= 0).all(), "clusters are numbered by size"
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(p.argmax(axis=1), model.labels_)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert p.shape == (n, 3)
    assert p.dtype == features.dtype == np.float32
    assert features.shape == (n, len(model.get_feature_names_out()))
    assert np.isfinite(features).all()
    assert np.isfinite(model.score(X))
    assert len(model.history_) == model.n_iter_ == 2
    if kind in ("paths", "strings", "PIL", "PIL of many sizes"):
        assert model.n_features_in_ == 1
    else:
        assert model.n_features_in_ == np.prod(X.shape[1:])
    again = quick(cls)
    np.testing.assert_array_equal(again.fit_transform(X), features)
    np.testing.assert_array_equal(again.labels_, model.labels_)


# 135 steps are few: in each, all views carry a gradient.
BOTH_VIEWS = {"TwinContrastClustering": {"symmetric": True}}


@pytest.mark.parametrize("cls", FIRST)
def test_kinds_of_pictures_are_found(cls, shapes):
    """By the head, and by k-means of the features."""
    X, kinds = shapes
    model = quick(cls, max_epochs=45, image_size=None, **BOTH_VIEWS.get(cls.__name__, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # clean input, no warning
        assert adjusted_rand_score(kinds, model.fit_predict(X)) > 0.9
    np.testing.assert_array_equal(model.predict_proba(X).argmax(axis=1), model.labels_)
    assert adjusted_rand_score(kinds, by_k_means(model.transform(X))) > 0.7


def by_k_means(features):
    """Clusters of features by their directions."""
    return KMeans(3, n_init=10, random_state=0).fit_predict(normalize(features))


@every_estimator
def test_the_readout_by_k_means_is_that_of_scikit_learn(cls, shapes):
    X = shapes[0]
    model = quick(cls, readout="kmeans").fit(X)
    assert adjusted_rand_score(by_k_means(model.transform(X)), model.labels_) == 1
    np.testing.assert_array_equal(model.predict_proba(X).argmax(axis=1), model.labels_)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


@every_estimator
def test_blobs_of_vectors_are_found(cls):
    X, y = make_blobs(200, 6, centers=3, random_state=0)
    X = X * [1, 100, 1, 0.01, 1, 1] + 50
    assert adjusted_rand_score(y, quick(cls, max_epochs=30).fit_predict(X)) > 0.8


# -- reproducibility and manners ------------------------------------------------------------


@every_estimator
def test_a_seed_decides_everything(cls, shapes):
    X = shapes[0]
    first, again, other = (quick(cls, random_state=s).fit(X) for s in (0, 0, 1))
    for name, weight in first.weights_.items():
        np.testing.assert_array_equal(weight, again.weights_[name])
    assert first.history_ == again.history_ != other.history_
    free = [quick(cls, random_state=None, max_epochs=1).fit(X).history_ for _ in range(2)]
    assert free[0] != free[1]


@every_estimator
@pytest.mark.parametrize("own_rng", [False, True])
def test_global_random_states_and_x_are_left_alone_and_nothing_is_printed(
    cls, shapes, capfd, own_rng
):
    X = shapes[0].copy()
    parameters = {"augment": lambda x: x + 0.1 * torch.randn_like(x)} if own_rng else {}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = quick(cls, **parameters).fit(X)
    model.predict(X)
    model.score(X)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(X, shapes[0])
    assert capfd.readouterr() == ("", "")


def test_functions_of_the_user_are_seeded(shapes):
    def noisy(images):
        return images + 0.1 * torch.randn_like(images)

    first, again = (quick(ContrastiveClustering, augment=noisy).fit(shapes[0]) for _ in range(2))
    assert first.history_ == again.history_
    assert first.score(shapes[0]) == first.score(shapes[0])


def test_answers_do_not_change_the_estimator_or_depend_on_company(fitted, shapes):
    X = shapes[0]
    before = copy.copy(vars(fitted))
    whole = fitted.predict_proba(X)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_array_equal(fitted.predict_proba(X[order]), whole[order])
    np.testing.assert_array_equal(fitted.predict_proba(X[7:8]), whole[7:8])
    np.testing.assert_array_equal(fitted.transform(X[:5]), fitted.transform(X)[:5])
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())


def test_pickles_and_copies_answer_alike(fitted, shapes):
    X = shapes[0]
    packed = pickle.dumps(fitted)
    assert b"torch" not in packed, "weights are NumPy arrays"
    for other in (pickle.loads(packed), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.predict_proba(X), fitted.predict_proba(X))
        np.testing.assert_array_equal(other.labels_, fitted.labels_)
        assert other.score(X) == fitted.score(X)
    assert not hasattr(clone(fitted), "weights_")
    assert pickle.loads(pickle.dumps(clone(fitted))).get_params() == fitted.get_params()


def test_parameters_changed_after_fit_do_not_break_the_fitted_model(fitted, shapes):
    expected = fitted.predict_proba(shapes[0])
    other = pickle.loads(pickle.dumps(fitted)).set_params(n_clusters=7, backbone="resnet10-narrow")
    np.testing.assert_array_equal(other.predict_proba(shapes[0]), expected)


# -- parameters from NumPy ------------------------------------------------------------------

FROM_NUMPY = {
    "n_clusters": np.int64(3),
    "max_epochs": np.array(2),
    "batch_size": np.uint8(40),
    "learning_rate": np.array(1e-3),
    "weight_decay": np.float64(0),
    "max_seconds": np.array(1000),
    "backbone": np.str_("conv4"),
    "augment": np.array("gray"),
    "image_size": np.int32(16),
    "image_shape": np.array([16, 16, 1]),
    "schedule": np.array("constant"),
    "device": np.str_("cpu"),
    "precision": np.array("fp32"),
    "cuda_graphs": np.False_,
    "compile_step": np.False_,
    "sync_batchnorm": np.True_,
    "n_jobs": np.array(2),
    "on_error": np.str_("warn"),
    "random_state": np.array(0),
    "verbose": np.int64(0),
    "readout": np.array(["head", "kmeans"])[1],
    "augmented_views": np.int64(2),
    "n_heads": np.int8(2),
    "instance_weight": np.float32(1),
}


@every_estimator
def test_values_from_numpy_are_as_good_as_pythons(cls, shapes):
    model = cls(**FROM_NUMPY).fit(shapes[0])
    for name, value in FROM_NUMPY.items():
        assert getattr(model, name) is value, "parameters are kept as they were given"
    plain = {name: value.tolist() for name, value in FROM_NUMPY.items()}
    expected = cls(**plain | {"image_shape": (16, 16, 1)}).fit(shapes[0])
    np.testing.assert_array_equal(model.predict_proba(shapes[0]), expected.predict_proba(shapes[0]))
    assert model.score(shapes[0]) == expected.score(shapes[0])
    assert model.settings_ == expected.settings_
    assert all(type(value) is not np.ndarray for value in model._fitted_with.values())
    clone(model).fit(shapes[0])


@pytest.mark.parametrize("shape", [np.array([16, 16]), [16, 16], (np.int64(16), 16), [16, 16, 1]])
def test_image_shapes_of_every_type(shapes, shape):
    rows = shapes[0].reshape(120, -1)
    model = quick(ContrastiveClustering, max_epochs=1, image_shape=shape).fit(rows)
    assert model.image_shape_ == (16, 16, 1)
    assert model.predict(rows).shape == (120,)


def test_parameters_are_restored_after_an_error(shapes):
    value = np.array(["head"])[0]
    model = quick(ContrastiveClustering, readout=value, augment=np.array("no such"))
    with pytest.raises(ValueError, match="augment must be"):
        model.fit(shapes[0])
    with pytest.raises(ValueError, match="n_samples=2"):
        model.set_params(augment=np.array("gray")).fit(shapes[0][:2])
    assert model.readout is value
    assert type(model.augment) is np.ndarray


def test_grid_search_over_arrays(shapes):
    grid = {"readout": np.array(["head", "kmeans"]), "augmented_views": np.array([1, 2])}
    search = GridSearchCV(quick(ContrastiveClustering), grid, cv=2, error_score="raise")
    search.fit(shapes[0][:40])
    assert search.best_params_.keys() == grid.keys()


# -- the score ------------------------------------------------------------------------------


def test_the_score_is_one_where_views_agree_and_zero_where_they_are_noise(shapes):
    X = shapes[0]
    same = quick(ContrastiveClustering, augment="none", max_epochs=20).fit(X)
    assert len(np.unique(same.labels_)) == 3
    assert same.score(X) == 1
    assert same.score(X[same.labels_ == 1]) == 0, "one cluster"
    noise = quick(ContrastiveClustering, augment=torch.rand_like).fit(X)
    assert abs(noise.score(X)) < 0.1


def test_the_score_is_that_of_scikit_learn_on_the_clusters_of_two_views(shapes):
    X = shapes[0]
    model = quick(ContrastiveClustering, n_clusters=6, max_epochs=6).fit(X)  # of three kinds
    views, n = model._fitted_model().views, len(X)
    tables = views.draw(n, (16, 16, 1), torch.Generator().manual_seed(0), torch.device("cpu"))
    both = views(torch.from_numpy(X[..., None]), tables, torch.arange(n))
    with torch.inference_mode():
        a, b = (model._objective().assign(view).argmax(dim=1).numpy() for view in both)
    assert (a != b).any()
    assert model.score(X) == pytest.approx(adjusted_mutual_info_score(a, b))


@pytest.mark.long
def test_the_score_prefers_ten_clusters_of_digits():
    from skcc.datasets import load_digits

    X = load_digits().images
    scores = {k: ContrastiveClustering(k, random_state=1).fit(X).score(X) for k in (5, 8, 10, 14)}
    assert max(scores, key=scores.get) == 10


# -- backbones, augmentations, sizes --------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 11), nn.Dropout(0.1))

    def forward(self, x):
        return self.layers(x)


def test_a_module_of_the_users_is_copied_and_seeded(shapes):
    module = Tiny()
    before = copy.deepcopy(module.state_dict())
    model = quick(ContrastiveClustering, backbone=module, image_size=None).fit(shapes[0])
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name])
    assert model.transform(shapes[0]).shape == (120, 11)
    again = quick(ContrastiveClustering, backbone=module, image_size=None).fit(shapes[0])
    assert again.history_ == model.history_
    packed = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(packed.predict(shapes[0]), model.labels_)


def test_a_module_may_have_lazy_layers(shapes):
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(9))
    model = quick(ContrastiveClustering, backbone=lazy).fit(shapes[0])
    assert model.transform(shapes[0]).shape == (120, 9)
    np.testing.assert_array_equal(model.predict(shapes[0]), model.labels_)


def test_a_module_without_features_is_refused(shapes):
    with pytest.raises(ValueError, match=r"cannot take a batch of shape \(n, 1, 8, 8\): .*chan"):
        quick(ContrastiveClustering, backbone=nn.Conv2d(3, 8, 3)).fit(shapes[0])
    with pytest.raises(ValueError, match=r"backbone must map.*\(n, 1, 8, 8\).*\(2, 1, 8, 8\)"):
        quick(ContrastiveClustering, backbone=nn.Identity()).fit(shapes[0])


def test_one_image_is_not_taken_for_a_table(shapes):
    model = quick(ContrastiveClustering).fit(shapes[0])
    with pytest.raises(ValueError, match=r"shape of one image, \(16, 16\).*X\[None\]"):
        model.predict(shapes[0][0])
    assert model.predict(shapes[0][0][None]).shape == (1,)


@pytest.mark.parametrize("augmented_views", [0, 1])
def test_ablation_of_augmentation(shapes, augmented_views):
    model = quick(ContrastiveClustering, augmented_views=augmented_views).fit(shapes[0])
    if augmented_views == 0:
        # Both views are one: only the draw of batches is left to the epochs.
        same = quick(ContrastiveClustering, augment="none").fit(shapes[0])
        np.testing.assert_allclose(
            [e["instance"] for e in model.history_],
            [e["instance"] for e in same.history_],
            rtol=0.05,
        )
    assert np.isfinite(model.history_[-1]["instance"])


def test_ablation_of_heads(shapes):
    X = shapes[0]
    instance = quick(ContrastiveClustering, cluster_weight=0, readout="kmeans").fit(X)
    assert set(instance.history_[0]) == {"instance"}
    cluster = quick(ContrastiveClustering, instance_weight=0).fit(X)
    assert set(cluster.history_[0]) == {"cluster", "entropy"}
    with pytest.raises(ValueError, match="readout='kmeans'"):
        quick(ContrastiveClustering, cluster_weight=0).fit(X)
    with pytest.raises(ValueError, match="nothing to train"):
        quick(
            ContrastiveClustering, cluster_weight=0, instance_weight=0, readout="kmeans"
        ).fit(X)  # fmt: skip


@pytest.mark.parametrize("n", [3, 5, 127, 129])
@pytest.mark.filterwarnings("ignore")
def test_any_number_of_images(n):
    X = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    model = quick(ContrastiveClustering, batch_size=64).fit(X)
    assert model.labels_.shape == (n,)
    assert len(model.history_) == 2


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 40), (64, 64), (129, 97)])
def test_any_size_of_images(shape):
    X = np.random.default_rng(0).integers(0, 256, (24, *shape, 3), dtype=np.uint8)
    # Of the axes (2, 3, 3) two are equal, so without a word the first one would be the channels.
    said = {"image_shape": shape} if shape == (2, 3) else {}
    model = quick(ContrastiveClustering, max_epochs=1, **said).fit(X)
    assert model.image_shape_ == (*shape, 3)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_one_cluster(shapes):
    model = quick(ContrastiveClustering, n_clusters=1).fit(shapes[0])
    assert (model.labels_ == 0).all()
    assert model.score(shapes[0]) == pytest.approx(0, abs=1e-6)


# -- warnings -------------------------------------------------------------------------------


def test_empty_clusters_are_reported(shapes):
    model = quick(ContrastiveClustering)
    with pytest.warns(ConvergenceWarning, match="2 of 3 clusters are empty"):
        tell_outcome(model, np.array([0, 0, 9]))
    blank = np.zeros((40, 8, 8), dtype=np.uint8)
    with pytest.warns(ConvergenceWarning, match="2 of 3 clusters are empty"):
        model.fit(blank)


def test_a_cluster_that_swallows_nearly_all_is_reported(shapes):
    model = quick(ContrastiveClustering)
    with pytest.warns(ConvergenceWarning, match="one of 3 clusters holds 96%"):
        tell_outcome(model, np.array([96, 3, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_outcome(model, np.array([80, 10, 10]))


def test_small_batches_are_reported(shapes):
    with pytest.warns(UserWarning, match="batches of 40 samples are small for n_clusters=12"):
        quick(ContrastiveClustering, n_clusters=12, batch_size=47).fit(shapes[0])


def test_ctrl_c_keeps_what_was_learned(shapes):
    calls = []

    def interrupted(images):
        calls.append(1)
        if len(calls) == 20:  # two calls a step, three steps an epoch
            raise KeyboardInterrupt
        return images + 0.1 * torch.randn_like(images)

    model = quick(ContrastiveClustering, augment=interrupted, max_epochs=50)
    with pytest.warns(UserWarning, match="interrupted in epoch 4 of 50"):
        model.fit(shapes[0])
    assert model.n_iter_ == len(model.history_) == 3
    np.testing.assert_array_equal(model.predict(shapes[0]), model.labels_)


def test_a_loss_that_is_not_finite_stops_training(shapes):
    with (
        pytest.warns(DivergenceWarning, match=r"'instance' term.*epoch 1"),
        pytest.raises(FloatingPointError, match=r"'instance' term.*epoch 1"),
    ):
        quick(ContrastiveClustering, augment=lambda images: images * torch.nan).fit(shapes[0])


def test_signatures_have_no_tunnels():
    for cls in ESTIMATORS:
        assert "**" not in str(inspect.signature(cls.__init__))


@pytest.mark.parametrize("source", ESTIMATORS)
def test_fit_can_start_from_features_of_another_estimator(source, shapes, tmp_path):
    first = quick(source, backbone="conv4", n_clusters=4).fit(shapes[0])
    first = source.load(saved(first, tmp_path / "first.safetensors"))
    # At a step size of next to nothing the network stays what it was.
    how = {"backbone": "conv4", "n_clusters": 3, "max_epochs": 1, "learning_rate": 1e-12}
    model = quick(ContrastiveClustering, **how).start_from(first)
    model.fit(shapes[0])
    afresh = quick(ContrastiveClustering, **how).fit(shapes[0])
    for name, weights in model.weights_.items():
        if name.startswith("backbone.") and name.endswith("weight"):
            old = first.weights_.get(name, first.weights_.get(f"network.{name}"))
            np.testing.assert_allclose(weights, old, atol=1e-6)
    assert not hasattr(model, "_initial_backbone")
    assert any(np.abs(afresh.weights_[name] - w).max() > 1e-3 for name, w in model.weights_.items())
    model.fit(shapes[0])  # from scratch again
    np.testing.assert_equal(model.weights_, afresh.weights_)


def saved(model, path):
    model.save(path)
    return path


def test_a_network_that_does_not_fit_is_refused(shapes, colours):
    first = quick(ContrastiveClustering).fit(shapes[0])
    model = quick(ContrastiveClustering).start_from(first)
    with pytest.raises(ValueError, match=r"does not fit .* for these images: .*size mismatch"):
        model.fit(colours)
    with pytest.raises(NotFittedError):
        quick(ContrastiveClustering).start_from(ContrastiveClustering())


def test_a_checkpoint_knows_what_training_started_from(shapes, tmp_path):
    first = quick(ContrastiveClustering).fit(shapes[0])
    how = {"checkpoint_dir": tmp_path, "random_state": 0}
    quick(ContrastiveClustering, **how).start_from(first).fit(shapes[0])
    other = quick(ContrastiveClustering, random_state=7).fit(shapes[0])
    with pytest.raises(ValueError, match="the network it starts from was"):
        quick(ContrastiveClustering, **how).start_from(other).fit(shapes[0])
