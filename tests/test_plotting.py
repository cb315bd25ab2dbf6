"""The grid of clusters."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest

from skcc import ContrastiveClustering
from skcc.plotting import ClusterGridDisplay

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
