"""Criteria of the number of clusters, against slow references and closed forms."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import kneighbors_graph

from skcc import ContrastiveClustering, suggest_n_clusters
from skcc.cli import main
from skcc.readouts import FeatureSpace

K = 4


@pytest.fixture(scope="module")
def blobs():
    """Four clusters that do not touch, of 30 unit vectors each, in 16 dimensions."""
    rng = np.random.default_rng(0)
    centers = np.linalg.qr(rng.normal(size=(16, K)))[0].T
    return np.repeat(centers, 30, axis=0) + 0.05 * rng.normal(size=(30 * K, 16))


@pytest.fixture(scope="module")
def numbers(blobs):
    return suggest_n_clusters(blobs, range(2, 8))


@pytest.mark.parametrize("name", ["eigengap", "silhouette", "stability", "information"])
def test_clusters_that_do_not_touch_are_counted(numbers, name):
    assert numbers.suggestions[name][0] == K
    assert numbers.n_components == K
    assert numbers.n_samples == 30 * K


def test_at_the_right_number_criteria_are_closed_forms(numbers):
    row = {name: values[K - 2] for name, values in numbers.table.items()}
    assert row["n_clusters"] == K
    assert row["stability"] == 1
    assert row["stability_error"] == 0
    assert row["information"] == pytest.approx(0.2 * np.log(K))


def test_noise_has_no_information_and_is_not_stable():
    noise = np.random.default_rng(0).normal(size=(150, 20))
    numbers = suggest_n_clusters(noise, [2, 3, 5])
    assert np.isnan(numbers.table["information"]).all()
    assert numbers.suggestions["information"] == []
    assert numbers.table["stability"].max() < 0.5
    assert "says nothing here" in str(numbers)


def test_eigengaps_are_those_of_the_dense_matrix():
    X = np.random.default_rng(0).normal(size=(90, 20)).astype(np.float32)
    Z = FeatureSpace.fit(X / np.sqrt((X.astype(float) ** 2).mean())).transform(X)
    A = kneighbors_graph(Z, 15, metric="cosine").toarray()
    A = (A + A.T) / 2
    D = np.diag(A.sum(axis=1) ** -0.5)
    values = np.sort(np.linalg.eigvalsh(D @ A @ D))[::-1]
    gaps = suggest_n_clusters(X, [2, 5, 9]).table["eigengap"]
    np.testing.assert_allclose(gaps, [values[k - 1] - values[k] for k in (2, 5, 9)], atol=1e-6)
    # of few samples all eigenvalues are found at once
    few = suggest_n_clusters(X[:30], [2, 20]).table["eigengap"]
    assert np.isfinite(few).all()


def test_the_silhouette_is_a_mean_over_clusters(blobs):
    X = np.concatenate([blobs[:60], blobs[60:65]])  # the third is small
    Z = FeatureSpace.fit((X / np.sqrt((X**2).mean())).astype(np.float32)).transform(
        (X / np.sqrt((X**2).mean())).astype(np.float32)
    )
    labels = KMeans(3, n_init=5, random_state=0).fit_predict(Z)
    values = silhouette_samples(Z, labels)
    expected = sum(values[labels == k].mean() for k in range(3)) / 3
    found = suggest_n_clusters(X, [3]).table["silhouette"]
    np.testing.assert_allclose(found, [expected], atol=1e-5)
    assert abs(expected - values.mean()) > 1e-3


def test_it_repeats_and_looks_at_some_of_many(blobs):
    one, two = (suggest_n_clusters(blobs, [3, 4], max_samples=100) for _ in range(2))
    assert one.n_samples == 100
    np.testing.assert_equal(one.table, two.table)


def test_images_are_compared_by_pixels(shapes, tmp_path):
    images = shapes[0][:48]
    numbers = suggest_n_clusters(images, [2, 3])
    as_rows = suggest_n_clusters(images.reshape(48, -1) / 255, [2, 3])
    np.testing.assert_allclose(numbers.table["eigengap"], as_rows.table["eigengap"], atol=1e-3)
    large = suggest_n_clusters(images.repeat(4, axis=1).repeat(4, axis=2), [2, 3])  # 64 x 64
    np.testing.assert_allclose(large.table["silhouette"], numbers.table["silhouette"], atol=0.02)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::skcc.exceptions.ImageReadWarning")
def test_the_command(shapes, tmp_path, capsys):
    for i, image in enumerate(shapes[0][:40]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"")
    command = ["suggest", str(tmp_path), "--range", "2", "4", "--jobs", "1", "--on-error", "warn"]
    figure = tmp_path.parent / f"{tmp_path.name}.png"
    assert main([*command, "--json", "-o", str(figure)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["table"]["n_clusters"] == [2, 3, 4]
    assert record["n_samples"] == 40
    with Image.open(figure) as image:
        assert image.size > (100, 100)
    model = tmp_path / "out"
    model.mkdir()
    fitted = ContrastiveClustering(3, max_epochs=1, random_state=0, readout="head")
    fitted.fit(shapes[0][:40]).save(model / "model.safetensors")
    assert main([*command, "--json", "--model", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["n_samples"] == 40
    assert main(["suggest", str(tmp_path), "--range", "4", "2"]) == 1
    assert "--range 4 2; wanted two numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_clusters": 5}, TypeError, "wanted several numbers"),
        ({"n_clusters": []}, ValueError, "n_clusters is empty"),
        ({"n_clusters": [1, 2]}, ValueError, "each of n_clusters"),
        ({"n_clusters": [2.5]}, ValueError, "each of n_clusters"),
        ({"n_clusters": [30]}, ValueError, "n_clusters holds 30; wanted less than the 20 samples"),
        ({"max_samples": 0}, ValueError, "max_samples"),
        ({"device": "nowhere"}, ValueError, "nowhere"),
        ({"on_error": "ignore"}, ValueError, "on_error"),
    ],
)
def test_bad_input(parameters, error, message):
    with pytest.raises(error, match=message):
        suggest_n_clusters(np.eye(20), **{"n_clusters": [2]} | parameters)
