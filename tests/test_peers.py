"""Runs of other packages, which need not be installed: scikit-learn's stands for them."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.utils import Bunch

from skcc.cli import main
from skcc.experiments import peers, records
from skcc.experiments.classical import pixels
from skcc.metrics import clustering_scores

pytestmark = pytest.mark.experiments


@pytest.fixture
def bunch(shapes):
    images, kinds = shapes
    return Bunch(name="shapes", images=images, target=kinds)


def test_each_run_is_a_record_and_is_not_repeated(bunch, tmp_path):
    found = list(peers.compare(bunch, ["k-means"], seeds=2, out=tmp_path))
    X = pixels(bunch.images)
    for seed, record in enumerate(found):
        labels = KMeans(3, n_init=10, random_state=seed).fit_predict(X)
        expected = clustering_scores(bunch.target, labels)
        assert {name: record[name] for name in expected} == expected
        assert record["parameters"] == {"n_clusters": 3, "random_state": seed}
        assert 0 < record["seconds"] < 60
        assert record["versions"]["scikit-learn"] == record["versions"]["sklearn"]
    assert records.read(tmp_path) == found
    assert list(peers.compare(bunch, ["k-means"], seeds=2, out=tmp_path)) == []
    ((title, (row,)),) = records.tables(found)
    assert (title, row["row"], row["seeds"]) == ("shapes, peers (120 images)", "k-means", "2")


def test_vectors_are_clustered_as_they_are(tmp_path, capsys):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = (rng.normal(size=(60, 3)) + 1000 * y[:, None]).astype(np.float16)
    np.savez(tmp_path / "vectors.npz", X=X, y=y)
    options = [
        "--dataset",
        "arrays",
        "--root",
        str(tmp_path / "vectors.npz"),
        "--out",
        str(tmp_path),
    ]
    assert main(["reproduce", "peers", *options, "--methods", "k-means"]) == 0
    (record,) = records.read(tmp_path / "peers.jsonl")
    assert (record["dataset"], record["acc"], record["clusters"]) == ("vectors", 1.0, 2)


def test_a_run_that_fails_or_takes_too_long_says_so(bunch, tmp_path, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "absent", peers.PEERS["hdbscan"])
    (late,) = peers.compare(bunch, ["k-means"], seeds=1, out=tmp_path, limit=0.01)
    assert (late["acc"], late["failed"]) == (None, "not finished within 0.01 seconds")
    (failed,) = peers.compare(bunch, ["absent"], seeds=1, out=tmp_path)
    assert (failed["acc"], failed["failed"]) == (None, "KeyError: 'absent'")
    with pytest.raises(ValueError, match="no method leiden; there are absent, clustpy-dcn"):
        next(peers.compare(bunch, ["leiden"], seeds=1, out=tmp_path))
    with pytest.raises(ValueError, match="shapes has no classes"):
        next(peers.compare(Bunch(name="shapes", target=None), ["k-means"], seeds=1, out=tmp_path))


def test_noise_is_an_error_and_no_cluster():
    target, labels = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, -1, -1, -1, 2, 2])
    scores = peers._scores(target, labels)
    assert scores["acc"] == pytest.approx(5 / 8)
    assert scores["nmi"] == clustering_scores(target, labels)["nmi"]
    assert peers._scores(target, np.full(8, -1))["acc"] == 0
