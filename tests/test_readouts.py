"""Clusters read off features: against slow references, closed forms and scikit-learn."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, mutual_info_score
from sklearn.metrics import normalized_mutual_info_score as nmi
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import skcc
from skcc import ContrastiveClustering, NeighborClustering
from skcc.metrics import clustering_accuracy
from skcc.readouts import (
    FeatureClassifier,
    FeatureSpace,
    TorchClassifier,
    contingency,
    is_table,
    nearest_neighbors,
    neighbor_graph,
    read_out,
    refine,
    score,
)
from skcc.readouts.candidates import spectral
from skcc.readouts.classifier import mutual_information, teach, tune
from skcc.readouts.selection import choose, match_clusters, vote

K = 10


@pytest.fixture(scope="module")
def digits():
    """Features, neighbours, graph and classes of scikit-learn's digits."""
    X, y = load_digits(return_X_y=True)
    Z = FeatureSpace.fit(X).transform(X)
    neighbors = nearest_neighbors(Z, 20)
    return Z, neighbors, neighbor_graph(neighbors[:, :10]), y


@pytest.fixture
def random_graph():
    rng = np.random.default_rng(0)
    neighbors = np.array([rng.permutation(np.delete(np.arange(40), i))[:4] for i in range(40)])
    return neighbor_graph(neighbors), rng.integers(0, 3, 40)


def blobs_on_a_sphere(k=5, size=60, width=64, spread=0.05):
    rng = np.random.default_rng(0)
    centers = np.linalg.qr(rng.normal(size=(width, k)))[0].T
    y = np.repeat(np.arange(k), size)
    return (centers[y] + spread * rng.normal(size=(k * size, width))).astype(np.float32), y


# -- space and graph ------------------------------------------------------------------------


def test_the_space_is_unit_vectors_centred_and_projected():
    X = np.random.default_rng(0).normal(size=(300, 200)) * np.linspace(1, 3, 200)
    Z = X / np.linalg.norm(X, axis=1, keepdims=True)
    pca = PCA(128, svd_solver="full").fit(Z)
    wanted = pca.transform(Z)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = FeatureSpace.fit(X).transform(X)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-8)
    new = X[:5] * 7  # length says nothing
    np.testing.assert_allclose(FeatureSpace.fit(X).transform(new), found[:5], atol=1e-12)


def test_lengths_are_kept_where_they_are_asked_for():
    ray = np.array([[1.0, 0], [1.01, 0], [5, 0], [5.01, 0]])
    same = FeatureSpace.fit(ray).transform(ray)
    assert np.abs(same).max() < 1e-12
    Z = FeatureSpace.fit(ray, keep_lengths=True).transform(ray)
    assert Z[0] @ Z[1] > 0.99 > 0 > Z[0] @ Z[2]


def test_rows_of_zeros_and_equal_rows_are_finite():
    X = np.zeros((30, 4), np.float32)
    X[10:] = 1
    for rows in (X, X[:10], X[10:]):
        assert np.isfinite(FeatureSpace.fit(rows).transform(rows)).all()
        found = read_out(rows, 2)
        assert np.isfinite(found.classifier.predict_proba(rows)).all()


@pytest.mark.parametrize(
    ("X", "answer"),
    [
        (load_digits().data, False),
        (np.random.default_rng(0).normal(size=(50, 128)), False),
        (np.random.default_rng(0).normal(size=(50, 30)) * ([1000] + 29 * [1]), True),
        (np.random.default_rng(0).normal(size=(50, 4)), True),
        (np.ones((5, 30)), False),
        (np.random.default_rng(0).normal(size=(50, 30)) * 1e200, False),
    ],
)
def test_tables_are_told_from_pixels_and_features(X, answer):
    assert is_table(X) is answer


@pytest.mark.parametrize("block", [1, 7 * 60, 2**25])
def test_neighbours_are_those_of_scikit_learn(monkeypatch, block):
    monkeypatch.setattr("skcc.readouts.graph._BLOCK", block)
    X = np.random.default_rng(0).normal(size=(60, 5))
    Z = X / np.linalg.norm(X, axis=1, keepdims=True)
    wanted = NearestNeighbors(n_neighbors=6).fit(Z).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest_neighbors(Z, 6), wanted)


def test_the_graph_is_half_of_both_directions():
    neighbors = np.array([[1, 2], [0, 2], [1, 0], [0, 1]])
    directed = np.zeros((4, 4))
    for i, row in enumerate(neighbors):
        directed[i, row] = 1
    np.testing.assert_array_equal(neighbor_graph(neighbors).toarray(), (directed + directed.T) / 2)


# -- score and refinement -------------------------------------------------------------------


def slow_score(labels, graph, k, c):
    A, P = graph.toarray(), np.zeros((k, k))
    for i in range(len(A)):
        for j in range(len(A)):
            P[labels[i], labels[j]] += A[i, j] / A.sum()
    J = 0.0
    for row in range(k):
        a = P[row].sum()
        J -= 2 * c * (a * np.log(a) if a > 0 else 0)
        J += sum(p * np.log(p) for p in P[row] if p > 0)
    return J, P


def slow_refine(labels, graph, k, c):
    A, best = graph.toarray(), (slow_score(labels, graph, k, c)[0], labels)
    n_used = len(np.unique(labels))
    for _ in range(50):
        P = slow_score(labels, graph, k, c)[1] + 1e-6
        a, new = P.sum(axis=1), labels.copy()
        for i in range(len(A)):
            gain = [
                sum(
                    A[i, j] * (np.log(P[q, labels[j]]) - c * np.log(a[q] * a[labels[j]]))
                    for j in range(len(A))
                )
                for q in range(k)
            ]
            new[i] = int(np.argmax(gain))
        if (new == labels).all():
            break
        labels = new
        J = slow_score(labels, graph, k, c)[0]
        if best[0] < J and len(np.unique(labels)) >= n_used:
            best = (J, labels)
    return best


@pytest.mark.parametrize("c", [0.65, 0.75, 1.0])
def test_score_and_refinement_are_those_of_double_loops(random_graph, c):
    graph, labels = random_graph
    assert score(contingency(labels, graph, 3), c) == pytest.approx(
        slow_score(labels, graph, 3, c)[0], abs=1e-12
    )
    wanted_score, wanted = slow_refine(labels, graph, 3, c)
    found, found_score = refine(labels, graph, 3, c)
    np.testing.assert_array_equal(found, wanted)
    assert found_score == pytest.approx(wanted_score, abs=1e-12)


def test_refinement_in_blocks_is_the_same(monkeypatch, digits):
    _, _, graph, y = digits
    whole = refine(np.arange(len(y)) % K, graph, K, 0.65)
    monkeypatch.setattr("skcc.readouts.information._BLOCK", 1000)
    blocks = refine(np.arange(len(y)) % K, graph, K, 0.65)
    np.testing.assert_array_equal(whole[0], blocks[0])


def test_the_score_is_mutual_information_for_c_of_one(digits):
    _, neighbors, graph, y = digits
    pairs = np.repeat(y, 10), y[neighbors[:, :10]].ravel()
    both = np.concatenate(pairs), np.concatenate(pairs[::-1])  # the graph is symmetric
    assert score(contingency(y, graph, K), 1) == pytest.approx(mutual_info_score(*both))


@pytest.mark.parametrize("c", [0.65, 0.75, 1.0])
def test_the_score_of_islands_and_of_one_cluster(c):
    X, y = blobs_on_a_sphere()
    graph = neighbor_graph(nearest_neighbors(FeatureSpace.fit(X).transform(X), 10))
    assert score(contingency(y, graph, 5), c) == pytest.approx((2 * c - 1) * np.log(5))
    assert score(contingency(0 * y, graph, 5), c) == 0


def test_check_values_on_digits(digits):
    """Of a separate implementation of the same equations."""
    _, neighbors, graph, y = digits
    assert (y[neighbors[:, :10]] == y[:, None]).mean() == pytest.approx(0.9635, abs=5e-4)
    assert graph.sum() == pytest.approx(17970)
    for labels, at_1, at_65 in [(y, 2.1002, 0.4888), (np.arange(len(y)) % K, 0.0060, -1.6057)]:
        P = contingency(labels, graph, K)
        assert (score(P, 1), score(P, 0.65)) == pytest.approx((at_1, at_65), abs=2e-3)
    refined, J = refine(y, graph, K, 0.65)
    assert abs(J - 0.5165) < 2e-3
    assert clustering_accuracy(y, refined) == pytest.approx(0.9855, abs=3e-3)


def test_clusters_are_matched_and_vote():
    reference = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    renamed = np.array([2, 2, 2, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(match_clusters(renamed, reference, 3), reference)
    off = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    labels = vote(reference, [off, off[::1]], 3)
    np.testing.assert_array_equal(labels, off)  # two votes against one and a half
    emptied = np.array([0, 0, 0, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(vote(reference, [emptied] * 2, 3), reference)


def test_the_head_wins_ties_and_noise_keeps_its_clusters():
    X, y = blobs_on_a_sphere()
    found = read_out(X, 5, head=y)
    assert found.name == "head"
    assert found.agreement == 1
    noise = np.random.default_rng(0).normal(size=(400, 40)).astype(np.float32)
    labels = read_out(noise, 4).classifier.predict_proba(noise).argmax(axis=1)
    assert len(np.unique(labels)) == 4


@pytest.mark.parametrize(("overlapping", "winner"), [(False, "head"), (True, "other")])
def test_the_head_wins_near_ties_only_where_clusters_hardly_touch(overlapping, winner):
    """Three clusters of four groups: the pair that "other" joins is a little closer."""
    rng, size, k = np.random.default_rng(0), 2000, 10
    group = np.repeat(np.arange(4), size)
    visited = np.repeat(group[:, None], k, axis=1)
    for pair, share in (((0, 1), 0.014), ((2, 3), 0.012)):
        for here, there in (pair, pair[::-1]):
            visited[(group == here)[:, None] & (rng.random(visited.shape) < share)] = there
    if overlapping:
        visited[:, 9] = (group + 1) % 4
    neighbors = visited * size + rng.integers(0, size, visited.shape)
    head, other = np.array([0, 1, 2, 2])[group], np.array([0, 0, 1, 2])[group]
    choice = choose({"head": head, "other": other}, neighbors, 3)
    assert choice.is_separate != overlapping
    lead, c = choice.scores["other"] - choice.scores["head"], choice.c
    assert 0 < lead < 0.02 * (2 * c - 1) * np.log(3)
    assert choice.name == winner


# -- the classifier -------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("keep_lengths", [False, True])
def test_the_classifier_of_torch_is_that_of_numpy(width, keep_lengths):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, width)).astype(np.float32)
    space = FeatureSpace.fit(X, keep_lengths=keep_lengths)
    weights = rng.normal(size=(4, space.transform(X).shape[1])).astype(np.float32)
    classifier = FeatureClassifier(space, weights, np.float32([0, 0, -1e4, 0]))
    p = classifier.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    assert p[:, 2].max() == 0
    arrays = classifier.state()
    on_device = TorchClassifier(arrays, torch.device("cpu"))
    np.testing.assert_allclose(on_device(torch.from_numpy(X)).numpy(), p, atol=1e-5)
    again = FeatureClassifier.from_state(arrays).predict_proba(X)
    np.testing.assert_array_equal(again, p)
    broken = arrays | {"weights": weights[:, :-1]}
    with pytest.raises(ValueError, match="do not fit each other"):
        TorchClassifier(broken, torch.device("cpu"))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_what_is_taught_is_repeated_and_empty_clusters_are_never_predicted(k):
    X, y = blobs_on_a_sphere(k)
    Z = FeatureSpace.fit(X).transform(X)
    weights, bias = teach(Z, 2 * y, 2 * k, smooth=False)
    np.testing.assert_array_equal((Z @ weights.T + bias).argmax(axis=1), 2 * y)


def test_the_mutual_information_of_pairs_and_its_gradient():
    """Against the definition of both, the second by autograd."""
    rng = np.random.default_rng(0)
    z, partners, parameters = (rng.normal(size=shape) for shape in [(30, 6), (30, 6), (4, 7)])
    bias = np.array([0, 0.3, -1e4, 0])
    value, gradient = mutual_information(z, partners, parameters, bias)
    free = torch.from_numpy(parameters).requires_grad_()
    weights = torch.nn.functional.normalize(free[:, :6], dim=1) * free[:, 6:] / 0.1
    p, q = (
        torch.softmax(torch.from_numpy(rows) @ weights.T + torch.from_numpy(bias), dim=1)
        for rows in (z, partners)
    )
    joint = torch.einsum("ij,ik->jk", p, q) / 30
    joint = ((joint + joint.T) / 2)[[0, 1, 3]][:, [0, 1, 3]]
    independent = torch.outer(joint.sum(dim=1), joint.sum(dim=0))
    expected = (joint * (joint / independent).log()).sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, free.grad, atol=1e-7)


def test_tuning_makes_neighbours_agree_and_repeats():
    X, y = blobs_on_a_sphere(4, spread=0.3)
    Z = FeatureSpace.fit(X).transform(X)
    neighbors = nearest_neighbors(Z, 5)
    weights, bias = teach(Z, np.where(np.arange(len(y)) % 5, y, 0), 4, smooth=True)

    def information(weights):
        length = np.linalg.norm(weights, axis=1, keepdims=True)
        parameters = np.concatenate([weights / length, 0.1 * length], axis=1)
        pairs = Z[np.repeat(np.arange(len(Z)), 5)], Z[neighbors.ravel()]
        return mutual_information(*pairs, parameters, bias)[0]

    tuned = tune(Z, neighbors, weights, bias)
    assert information(tuned) > information(weights) + 0.1
    np.testing.assert_array_equal(tune(Z, neighbors, weights, bias), tuned)


def test_many_rows_are_sampled_without_losing_a_cluster(monkeypatch):
    monkeypatch.setattr("skcc.readouts.classifier._ROWS", 50)
    X, y = blobs_on_a_sphere(2, 100)
    y[-1] = 2
    weights, bias = teach(FeatureSpace.fit(X).transform(X), y, 3, smooth=False)
    assert bias.tolist() == [0, 0, 0]
    assert np.abs(weights).sum(axis=1).min() > 0


# -- estimators -----------------------------------------------------------------------------


@parametrize_with_checks([NeighborClustering(n_clusters=2, random_state=0)])
def test_scikit_learn_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_digits_as_a_table_of_pixels():
    X, y = load_digits(return_X_y=True)
    model = NeighborClustering(10, random_state=0, device="cpu").fit(X)
    assert clustering_accuracy(y, model.labels_) > 0.86
    assert nmi(y, model.labels_) > 0.87
    k_means = KMeans(10, n_init=10, random_state=0).fit_predict(X)
    assert clustering_accuracy(y, k_means) < 0.82
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert (np.diff(np.bincount(model.labels_)) <= 0).all()
    assert model.readout_ == max(model.readout_scores_, key=model.readout_scores_.get)
    deep = ContrastiveClustering(10, random_state=0, device="cpu").fit(X)
    assert adjusted_rand_score(deep.labels_, model.labels_) > 0.97
    assert deep.history_ == []
    assert deep.settings_["backbone"] == "identity"


def test_new_vectors_pipelines_and_copies():
    X, y = make_blobs(300, 20, centers=4, random_state=0)
    model = make_pipeline(PCA(16), NeighborClustering(4, random_state=0, device="cpu"))
    model.fit(X[:200])
    assert adjusted_rand_score(y[200:], model.predict(X[200:])) == 1
    p = model.predict_proba(X)
    again = pickle.loads(pickle.dumps(model)).predict_proba(X)
    np.testing.assert_array_equal(p, again)
    same = clone(model).fit(X[:200]).predict_proba(X)
    np.testing.assert_array_equal(p, same)


@pytest.mark.parametrize(
    ("X", "parameters", "message"),
    [
        (np.eye(5), {"n_clusters": 0}, "n_clusters"),
        (np.eye(5), {"n_clusters": 6}, "n_samples=5 should be >= n_clusters=6"),
        (np.eye(5), {"device": "nowhere"}, "device='nowhere'"),
        (np.eye(20) * 1e300, {}, "too large"),
        (np.full((5, 3), np.nan), {}, "NaN"),
    ],
)
def test_bad_input(X, parameters, message):
    with pytest.raises(ValueError, match=message):
        NeighborClustering(**{"n_clusters": 2} | parameters).fit(X)


@pytest.mark.parametrize("n", [2, 3, 4, 9, 11])
@pytest.mark.parametrize("k", [1, 2])
def test_any_number_of_vectors_and_clusters(n, k):
    X = np.random.default_rng(n).normal(size=(n, 30))
    for clusters in {k, n}:
        model = NeighborClustering(clusters, random_state=0, device="cpu").fit(X)
        np.testing.assert_array_equal(model.predict(X), model.labels_)
        assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("readout", ["auto", "spectral"])
@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_the_readout_of_a_trained_network(shapes, tmp_path, readout, kind):
    images, kinds = shapes
    X = images if kind == "images" else images.reshape(len(images), -1)
    parameters = {"max_epochs": 20, "batch_size": 40, "random_state": 0, "device": "cpu"}
    if kind == "images":
        parameters["image_size"] = 8
    model = skcc.ContrastiveClustering(3, readout=readout, **parameters).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.predict_proba(X).argmax(axis=1), model.labels_)
    np.testing.assert_array_equal(model.predict(X[::-1]), model.labels_[::-1])
    if kind == "images" and readout == "auto":
        assert adjusted_rand_score(kinds, model.labels_) > 0.9
    if readout == "auto":
        assert model.settings_["readout"] in model.readout_scores_
        assert 0 < model.agreement_ <= 1
    else:
        assert not hasattr(model, "readout_scores_")
    model.save(tmp_path / "model.safetensors")
    loaded = skcc.ContrastiveClustering.load(tmp_path / "model.safetensors", device="cpu")
    for one in (loaded, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(one.predict_proba(X), model.predict_proba(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of two epochs
def test_nothing_of_an_earlier_fit_is_left(shapes):
    X = shapes[0][:60]
    parameters = {"max_epochs": 1, "batch_size": 30, "random_state": 0, "device": "cpu"}
    parameters["image_size"] = 8
    model = skcc.ContrastiveClustering(3, **parameters)
    for readout in ("auto", "auto", "head", "kmeans", "auto"):
        again = model.set_params(readout=readout).fit(X)
        fresh = skcc.ContrastiveClustering(3, readout=readout, **parameters).fit(X)
        np.testing.assert_array_equal(again.predict_proba(X), fresh.predict_proba(X))
        scores = getattr(again, "readout_scores_", None)
        assert scores == getattr(fresh, "readout_scores_", None)


def test_what_has_no_effect_on_vectors_is_said():
    X = blobs_on_a_sphere(3)[0]
    how = {"random_state": 0, "device": "cpu"}
    with pytest.warns(UserWarning, match="without training, so learning_rate, n_heads had no eff"):
        skcc.ContrastiveClustering(3, learning_rate=0.1, n_heads=1, **how).fit(X)
    with pytest.raises(ValueError, match=r"unlabeled is of use to a network.*set max_epochs"):
        skcc.ContrastiveClustering(3, **how).fit(X, unlabeled=X)
    trained = skcc.ContrastiveClustering(3, augment="vector", batch_size=90, **how)
    with pytest.warns(ConvergenceWarning, match="ended training after 1 of"):
        trained.set_params(max_seconds=1e-9).fit(X)


def test_disagreement_of_partitions_is_told():
    noise = np.random.default_rng(0).normal(size=(400, 30))
    with pytest.warns(
        ConvergenceWarning, match=r"agree on \d+% of the samples only.*suggest_n_clusters"
    ):
        model = skcc.ContrastiveClustering(12, random_state=0, device="cpu").fit(noise)
    assert model.agreement_ < 0.6


def test_few_samples_are_not_refined():
    X, y = blobs_on_a_sphere(4, 4)
    worse = np.where(np.arange(16) < 2, 1, y)
    found = read_out(X, 4, head=worse)
    assert found.name == "kmeans"
    assert set(found.scores) == {"head", "kmeans"}
    assert read_out(X, 4, head=y).name == "head"
    labels = found.classifier.predict_proba(X).argmax(axis=1)
    assert adjusted_rand_score(y, labels) == 1


@pytest.mark.filterwarnings("ignore:partitions of the features agree")  # of a short training
def test_without_a_head_the_others_stay_candidates(shapes):
    model = skcc.ContrastiveClustering(
        3, max_epochs=2, cluster_weight=0, random_state=0, device="cpu"
    )
    assert "head" not in model.fit(shapes[0]).readout_scores_


def test_spectral_clustering_may_not_be_possible(shapes, monkeypatch):
    assert spectral(np.array([[1], [0], [1]]), 3) is None
    monkeypatch.setattr("skcc.readouts.neighbors.spectral", lambda *args: None)
    model = skcc.ContrastiveClustering(
        3, max_epochs=1, readout="spectral", random_state=0, device="cpu"
    )
    with pytest.raises(ValueError, match="found no 3 eigenvectors of the graph of 120 samples"):
        model.fit(shapes[0])
    assert not hasattr(model, "labels_")


def test_choices_ask_fewer_neighbours_where_clusters_hardly_touch(digits):
    _, neighbors, _, y = digits
    choice = choose({"head": y}, neighbors[:, :10], K)
    assert choice.is_separate
    narrow = neighbor_graph(neighbors[:, :5])
    np.testing.assert_array_equal(choice.labels, refine(y, narrow, K, 0.65)[0])
    assert isinstance(narrow, sparse.csr_array)
