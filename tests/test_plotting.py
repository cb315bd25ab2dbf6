"""Displays."""

import matplotlib
import matplotlib.pyplot

matplotlib.use("Agg")

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from skcc import ClusterNumbers, ContrastiveClustering
from skcc.plotting import (
    ClusterConfusionDisplay,
    ClusterGridDisplay,
    ClusterNumberDisplay,
    ClusterSizeDisplay,
    EmbeddingDisplay,
    TrainingCurveDisplay,
    densest,
    embed_in_plane,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def _close():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def model(shapes):
    return ContrastiveClustering(3, max_epochs=4, batch_size=40, random_state=0).fit(shapes[0])


def test_the_most_confident_images_come_first(model, shapes):
    display = ClusterGridDisplay.from_estimator(model, shapes[0], n_images=5)
    p = model.predict_proba(shapes[0])
    for cluster in range(3):
        members = np.flatnonzero(model.labels_ == cluster)
        best = members[np.argsort(-p[members, cluster], kind="stable")][:5]
        np.testing.assert_array_equal(display.images[cluster][..., 0], shapes[0][best])
    assert display.sizes == np.bincount(model.labels_, minlength=3).tolist()
    labels = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert labels == [f"cluster {j}  ({n})" for j, n in enumerate(display.sizes)]


def test_it_draws_into_given_axes(model, shapes):
    _, ax = matplotlib.pyplot.subplots()
    display = ClusterGridDisplay.from_estimator(model, shapes[0], ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    canvas = ax.images[0].get_array()
    first = display.images[0][0]
    np.testing.assert_array_equal(canvas[:16, :16], np.repeat(first, 3, axis=2))


def test_an_empty_cluster_is_an_empty_row():
    image = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    ClusterGridDisplay(images=[image, image[:0]], sizes=[1, 0]).plot()


def test_vectors_cannot_be_shown(shapes):
    X = shapes[0].reshape(120, -1) / 9
    model = ContrastiveClustering(3, max_epochs=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="vectors"):
        ClusterGridDisplay.from_estimator(model, X)


# -- the map --------------------------------------------------------------------------------


def distances(rows):
    return np.linalg.norm(rows[:, None] - rows[None], axis=2)


def test_the_map_is_the_plane_of_largest_variance():
    """Against the eigenvectors of the covariance of directions."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)) * [9, 4, 1, 1, 1, 1] * rng.uniform(1, 5, (50, 1))
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    centred = directions - directions.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, :-3:-1]
    got = embed_in_plane(features)
    np.testing.assert_allclose(distances(got), distances(expected), atol=1e-10)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (3, 1), (5, 1), (5, 2), (6, 60)])
def test_few_samples_have_a_map_too(method, shape):
    features = np.random.default_rng(0).normal(size=shape)
    positions = embed_in_plane(features, method=method, random_state=0)
    assert positions.shape == (shape[0], 2)
    assert np.isfinite(positions).all()


def test_tsne_keeps_neighbours_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 25)
    features = np.eye(20)[groups] + 0.05 * rng.normal(size=(100, 20))
    positions = embed_in_plane(features, method="tsne", random_state=0)
    d = distances(positions)
    np.fill_diagonal(d, np.inf)
    assert (groups[d.argmin(axis=1)] == groups).all()
    again = embed_in_plane(features, method="tsne", random_state=0)
    np.testing.assert_array_equal(positions, again)


def test_the_map_shows_a_bounded_part_and_leaves_out_what_could_not_be_read():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(500, 4)), rng.integers(0, 3, 500)
    features[::5], labels[::5] = np.nan, -1
    how = {"n_samples": 100, "random_state": 1}
    display = EmbeddingDisplay.from_predictions(features, labels, **how)
    assert len(display.positions) == len(set(display.indices)) == 100
    assert (display.indices % 5 != 0).all()
    np.testing.assert_array_equal(display.labels, labels[display.indices])
    again = EmbeddingDisplay.from_predictions(features, labels, **how)
    np.testing.assert_array_equal(again.indices, display.indices)
    drawn = np.concatenate([c.get_offsets() for c in display.ax_.collections])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(display.positions, axis=0))
    assert [c.get_label() for c in display.ax_.collections] == [f"cluster {j}" for j in range(3)]
    assert [t.get_text() for t in display.ax_.texts] == ["0", "1", "2"]


def test_a_group_in_parts_is_named_where_its_members_are():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(30, 2)), rng.normal(size=(50, 2)) / 3 + [20, 0]]
    apart = np.concatenate(parts)
    assert 30 <= densest(apart) < 80  # the denser part
    assert np.linalg.norm(apart[densest(apart)] - [20, 0]) < 0.3
    for n in (1, 2, 3):
        assert 0 <= densest(apart[:n]) < n


def test_a_map_from_an_estimator(model, shapes):
    _, ax = matplotlib.pyplot.subplots()
    display = EmbeddingDisplay.from_estimator(model, shapes[0], ax=ax)
    assert (display.ax_, display.figure_) == (ax, ax.figure)
    np.testing.assert_array_equal(display.labels, model.labels_)
    np.testing.assert_array_equal(display.positions, embed_in_plane(model.transform(shapes[0])))


@pytest.mark.parametrize("n", [1, 10, 20, 45])
def test_every_cluster_has_a_colour_of_its_own(n):
    rng = np.random.default_rng(0)
    display = EmbeddingDisplay.from_predictions(rng.normal(size=(2 * n, 3)), np.arange(2 * n) % n)
    colours = {tuple(c.get_facecolor()[0]) for c in display.ax_.collections}
    assert len(colours) == n


@pytest.mark.parametrize(
    ("features", "labels", "how", "message"),
    [
        (np.eye(3), [0, 1], {}, "inconsistent numbers of samples"),
        (np.eye(3), [0, 1, 2], {"method": "umap"}, "method must be one of 'pca', 'tsne'"),
        (np.eye(3), [0, 1, 2], {"n_samples": 0}, "n_samples must be an int >= 1"),
        (np.full((3, 2), np.nan), [-1, -1, -1], {}, "0 sample"),
    ],
)
def test_what_cannot_be_mapped(features, labels, how, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_predictions(features, labels, **how)


# -- curves, sizes, classes -----------------------------------------------------------------


def test_curves_show_every_term_of_every_epoch(model):
    display = TrainingCurveDisplay.from_estimator(model)
    names = list(model.history_[0])
    assert [ax.get_ylabel() for ax in display.ax_] == names
    for ax, name in zip(display.ax_, names, strict=True):
        epochs, values = ax.lines[0].get_data()
        assert epochs.tolist() == [1, 2, 3, 4]
        assert values.tolist() == [terms[name] for terms in model.history_]


def test_curves_of_two_phases_in_one_place():
    _, ax = matplotlib.pyplot.subplots()
    history = [{"a": 3.0}, {"a": 2.0}, {"b": 1.0}]
    display = TrainingCurveDisplay.from_predictions(history, ax=ax)
    assert display.figure_ is ax.figure
    drawn = {line.get_label(): np.transpose(line.get_data()).tolist() for line in ax.lines}
    assert drawn == {"a": [[1, 3], [2, 2]], "b": [[3, 1]]}
    with pytest.raises(ValueError, match="no epochs"):
        TrainingCurveDisplay.from_predictions([])
    _, three = matplotlib.pyplot.subplots(3)
    with pytest.raises(ValueError, match="ax must be one Axes, or 2 for a, b; got 3"):
        TrainingCurveDisplay.from_predictions(history, ax=three)


def test_criteria_of_the_number_of_clusters_are_marked():
    table = {"n_clusters": np.arange(2, 5), "eigengap": np.array([0.1, 0.3, 0.2])}
    table |= {"stability": np.array([0.5, 0.7, 0.6]), "stability_error": np.full(3, 0.1)}
    table |= {"information": np.full(3, np.nan)}
    suggestions = {"eigengap": [3, 4], "stability": [3], "information": []}
    numbers = ClusterNumbers(table, suggestions, n_components=1, n_samples=9)
    display = ClusterNumberDisplay.from_predictions(numbers)
    assert [axis.get_ylabel() for axis in display.ax_] == ["eigengap", "stability", "information"]
    texts = [[text.get_text() for text in axis.texts] for axis in display.ax_]
    assert texts == [["3", "4"], ["3"], ["clusters touch: says nothing"]]
    for axis, name in zip(display.ax_[:2], ("eigengap", "stability"), strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), [2, 3, 4])
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), table[name])
    _, two = matplotlib.pyplot.subplots(2)
    with pytest.raises(ValueError, match="ax must be 3 axes for eigengap, stability, information"):
        ClusterNumberDisplay(table=table).plot(ax=two)


def test_sizes_are_counted(model, shapes):
    sizes = [int((model.labels_ == j).sum()) for j in range(3)]
    for X in (None, shapes[0]):
        display = ClusterSizeDisplay.from_estimator(model, X)
        assert [bar.get_width() for bar in display.ax_.patches] == sizes
    display = ClusterSizeDisplay.from_predictions([0, 2, 2, -1], n_clusters=4)
    assert [bar.get_width() for bar in display.ax_.patches] == [1, 0, 2, 0]
    assert [text.get_text() for text in display.ax_.texts] == ["1", "0", "2", "0"]


def test_classes_are_counted_against_clusters(model, shapes):
    X, kinds = shapes
    display = ClusterConfusionDisplay.from_estimator(model, X, kinds)
    for row, kind in enumerate(display.classes):
        for column, cluster in enumerate(display.clusters):
            both = sum(
                k == kind and c == cluster for k, c in zip(kinds, model.labels_, strict=True)
            )
            assert display.table[row, column] == both
    assert [t.get_text() for t in display.ax_.texts] == [str(n) for n in display.table.ravel()]
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == [str(k) for k in range(3)]


@pytest.mark.parametrize("display", [TrainingCurveDisplay, ClusterSizeDisplay])
def test_displays_want_a_fitted_estimator(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(ContrastiveClustering())
