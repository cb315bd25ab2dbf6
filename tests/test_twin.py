"""Twin-Contrast Clustering: what its parts are, against formulas and loops."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skcc import TwinContrastClustering
from skcc.datasets import load_digits
from skcc.methods.twin import (
    NOISE_ROWS,
    AssignedFeatures,
    TwinContrastObjective,
    TwinContrastSettings,
)
from skcc.metrics import clustering_accuracy
from skcc.objective import Epoch, Setup
from skcc.training import engine

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PLAIN = {
    "n_heads": 2,
    "n_epochs": 4,
    "batch_size": 6,
    "projection_dim": 5,
    "conditioned": True,
    "symmetric": False,
    "instance_temperature": 0.5,
    "cluster_temperature": 1.0,
    "assignment_temperature": 0.2,
    "gumbel_temperature": 0.3,
    "gumbel_noise": 1.0,
    "momentum": 0.9,
    "instance_queue": 2,
    "cluster_queue": 3,
    "prior": "ema",
    "prior_weight": 1.0,
    "membership": "sample",
    "cluster_gradient": "all",
    "instance_weight": 1.0,
    "cluster_weight": 1.0,
    "entropy_weight": 1.0,
}
K, WIDTH = 4, 8


def make(*, epoch=0, **changes):
    """An objective on vectors of width 7, with the noise of an epoch drawn."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(7, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
    objective = TwinContrastObjective(
        Setup(backbone, WIDTH, (7,), 20), TwinContrastSettings(n_clusters=K, **PLAIN | changes)
    )
    objective.before_epoch(Epoch(epoch, None, torch.Generator().manual_seed(3)))
    return objective


def batches(steps=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        index = torch.randperm(20, generator=generator)[:6]
        yield tuple(torch.randn(6, 7, generator=generator) for _ in range(2)), index


def run(objective, steps=5):
    """Train without an optimizer: weights move by a constant, queues fill."""
    for views, index in batches(steps):
        terms = objective(views, index)
        with torch.no_grad():
            for parameter in objective.network.parameters():
                parameter.add_(0.01)
        objective.after_step()
    return terms


# -- gradients, the twin and the queues -----------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_reach_the_network_alone(symmetric):
    objective = make(symmetric=symmetric)
    run(objective, 2)
    views, index = next(batches())
    sum(objective(views, index).values()).backward()
    for name, parameter in objective.network.named_parameters():
        if name != "backbone.0.bias":  # normalised away
            assert parameter.grad.abs().max() > 1e-6, name
    assert all(p.grad is None and not p.requires_grad for p in objective.twin.parameters())
    assert not any(b.requires_grad for b in objective.buffers())


@pytest.mark.parametrize("term", ["instance", "prior", "cluster", "entropy"])
def test_every_term_teaches_the_prototypes(term):
    """Prototypes that are normalised once and for all would be constants."""
    objective = make()
    run(objective, 2)
    views, index = next(batches())
    objective(views, index)[term].backward()
    heads = objective.network.prototypes.grad.flatten(1).abs().amax(dim=1)
    assert heads.min() > 1e-6


def test_the_aggregated_features_can_be_left_alone():
    """Without gradient through assignments, nothing of the contrast of clusters is left."""
    gradients = {}
    for way in ("assignment", "all"):
        objective = make(cluster_gradient=way)
        run(objective, 2)
        views, index = next(batches())
        seen = []
        objective.network.backbone.register_forward_hook(
            lambda module, inputs, features, seen=seen: seen.append(features)
        )
        objective.network.prototypes.requires_grad_(False)
        logits = objective.network.logits
        objective.network.logits = lambda features, logits=logits: logits(features.detach())
        loss = objective(views, index)["cluster"]
        gradients[way] = loss.requires_grad and torch.autograd.grad(loss, seen[0])[0].abs().max()
    assert not gradients["assignment"]
    assert gradients["all"] > 1e-6


def test_the_twin_follows_by_the_formula():
    objective = make(momentum=0.75)
    for step, (views, index) in enumerate(batches(3)):
        before = copy.deepcopy(objective.twin)
        objective(views, index)
        with torch.no_grad():
            for parameter in objective.network.parameters():
                parameter.add_(0.1 * (step + 1))
        objective.after_step()
        trios = zip(
            objective.twin.parameters(), before.parameters(), objective.network.parameters(),
            strict=True,
        )  # fmt: skip
        for twin, old, online in trios:
            torch.testing.assert_close(twin, 0.75 * old + 0.25 * online)


@pytest.mark.parametrize("symmetric", [False, True])
def test_queues_hold_the_twins_answers_aligned(symmetric):
    """Keys lie beside the samples that they are of, and blocks beside the same heads."""
    objective = make(symmetric=symmetric, instance_queue=2, cluster_queue=2)
    per_step = 2 if symmetric else 1
    expected_keys, expected_owners, expected_past = [], [], []
    for views, index in batches(4):
        twin = copy.deepcopy(objective.twin)
        pairs = [views, views[::-1]] if symmetric else [views]
        for direction, (_, b) in enumerate(pairs):
            noise = objective.noise[2 * direction + 1][(index + objective.shifts) % NOISE_ROWS]
            features = twin.backbone(b)
            sample = F.softmax((twin.logits(features) + noise) / 0.3, dim=-1)
            expected_keys.append(F.normalize(twin.embedding(features, sample), dim=1))
            expected_owners.append(index)
            aggregate = torch.einsum("hnk,nd->hkd", sample, F.normalize(features, dim=1))
            expected_past.append(F.normalize(aggregate, dim=-1))
        objective(views, index)
        objective.after_step()
    size = 2 * per_step
    for name, rows in {
        "keys": torch.cat(expected_keys[-size:]),
        "key_indices": torch.cat(expected_owners[-size:]),
        "past": torch.stack(expected_past[-size:]),
    }.items():
        torch.testing.assert_close(getattr(objective, name).rows, rows)


def test_an_images_own_keys_are_not_its_negatives():
    """The loss of a batch of one image is that of its positive alone, whatever the queue holds."""
    objective = make()
    views, _ = next(batches())
    index = torch.full((6,), 5)
    for _ in range(4):
        assert objective(views, index)["instance"].item() == pytest.approx(0, abs=1e-6)
        objective.after_step()
    assert (objective.key_indices.rows == 5).all()
    assert objective(views, torch.arange(6))["instance"].item() > 1


def test_negatives_are_the_keys_of_the_batch_and_of_the_queue():
    objective = make(instance_queue=2)
    losses = [objective(*next(batches()))["instance"].item()]
    views, index = next(batches())
    for shift in (100, 200):
        objective(views, index + shift)
        objective.after_step()
    losses.append(objective(views, index + 300)["instance"].item())
    # The same keys three times: the sum over negatives trebles.
    with torch.no_grad():
        query = network_embedding(objective.network, views[0], index + 300, objective.noise[0])
        key = network_embedding(objective.twin, views[1], index + 300, objective.noise[1])
        similarity = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / 0.5
        assert len(objective.keys.rows) == 12
        queue = F.normalize(query, dim=1) @ objective.keys.rows.T / 0.5
        logits = torch.cat([similarity, queue], dim=1)
        expected = (logits.logsumexp(dim=1) - similarity.diagonal()).mean()
    assert losses[1] == pytest.approx(expected.item(), abs=1e-5)
    assert losses[1] > losses[0] + 0.5


def network_embedding(network, view, index, noise):
    features = network.backbone(view)
    shifts = torch.arange(PLAIN["n_heads"])[:, None] * (NOISE_ROWS // PLAIN["n_heads"])
    sample = F.softmax((network.logits(features) + noise[(index + shifts) % NOISE_ROWS]) / 0.3, -1)
    return network.embedding(features, sample)


# -- the bound ------------------------------------------------------------------------------


def test_evidence_minus_bound_is_the_divergence_from_the_posterior():
    """On random tables; hence the bound is one."""
    generator = torch.Generator().manual_seed(0)

    def table(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    for _ in range(50):
        likelihood = table(6, K)  # p(i | x_i, k)
        prior = F.softmax(3 * table(6, K), dim=1)
        q = F.softmax(3 * table(6, K), dim=1)
        divergence = F.kl_div(prior.log(), q.log(), reduction="none", log_target=True).sum(dim=1)
        bound = (q * likelihood.log()).sum(dim=1) - divergence
        evidence = (likelihood * prior).sum(dim=1).log()
        posterior = likelihood * prior / (likelihood * prior).sum(dim=1, keepdim=True)
        gap = (q * (q / posterior).log()).sum(dim=1)
        torch.testing.assert_close(evidence - bound, gap)
        assert (bound <= evidence).all()


@pytest.mark.parametrize("prior", ["ema", "uniform"])
def test_the_prior_term_is_the_divergence(prior):
    objective = make(prior=prior, prior_weight=0.3)
    run(objective, 2)
    views, index = next(batches())
    q = F.softmax(objective.network.logits(objective.network.backbone(views[0])), dim=-1)
    if prior == "ema":
        p = F.softmax(objective.twin.logits(objective.twin.backbone(views[1])), dim=-1)
    else:
        p = torch.full_like(q, 1 / K)
    by_hand = sum(
        q[h, i, k] * torch.log(q[h, i, k] / p[h, i, k])
        for h in range(2)
        for i in range(6)
        for k in range(K)
    )
    term = objective(views, index)["prior"]
    assert term.item() == pytest.approx(0.3 * by_hand.item() / (2 * 6), abs=1e-5)


def test_uniform_prior_is_log_k_minus_entropy():
    objective = make(prior="uniform")
    views, index = next(batches())
    q = F.softmax(objective.network.logits(objective.network.backbone(views[0])), dim=-1)
    entropy = -(q * q.log()).sum(dim=-1).mean()
    term = objective(views, index)["prior"].item()
    assert term == pytest.approx(math.log(K) - entropy.item(), abs=1e-5)


def test_terms_that_are_switched_off_are_not_there():
    views, index = next(batches())
    assert set(make()(views, index)) == {"instance", "prior", "cluster", "entropy"}
    assert set(make(prior=None)(views, index)) == {"instance", "cluster", "entropy"}
    assert set(make(cluster_weight=0.0)(views, index)) == {"instance", "prior"}
    assert set(make(instance_weight=0.0)(views, index)) == {"prior", "cluster", "entropy"}


# -- samples and embedding ------------------------------------------------------------------


def test_samples_follow_the_assignments():
    """Arg max of logits and noise is distributed as the softmax of the logits.

    The case is ten prototypes on a simplex at temperature 1, where the largest is .252.
    """
    noise = torch.cat([make(epoch=0).noise[0]] + [other_noise(seed) for seed in range(20)])
    logits = torch.full((K,), -1 / 9)
    logits[0] = 1.0
    frequency = torch.bincount((logits + noise).argmax(dim=1), minlength=K) / len(noise)
    expected = F.softmax(logits, dim=0)
    spread = (expected * (1 - expected) / len(noise)).sqrt()
    assert ((frequency - expected).abs() < 4.5 * spread).all()
    ten = torch.full((10,), -1 / 9)
    ten[0] = 1.0
    assert F.softmax(ten, dim=0)[0].item() == pytest.approx(0.252, abs=5e-4)


def other_noise(seed):
    objective = make()
    objective.before_epoch(Epoch(0, None, torch.Generator().manual_seed(100 + seed)))
    return objective.noise[0]


def test_noise_is_gumbels_and_fades_to_nothing():
    first = make(epoch=0).noise
    assert first.mean().item() == pytest.approx(np.euler_gamma, abs=0.02)
    assert first.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert first.isfinite().all()
    spread = [make(epoch=e).noise.std().item() for e in range(4)]
    assert spread == pytest.approx([spread[0] * share for share in (1, 0.75, 0.5, 0.25)], rel=1e-5)
    assert make(epoch=4).noise.abs().max() == 0
    assert make(gumbel_noise=0.0).noise.abs().max() == 0


def test_noise_of_views_heads_and_samples_differs_and_belongs_to_the_sample():
    objective = make()
    rows = objective.noise[:, (torch.arange(6) + objective.shifts) % NOISE_ROWS]
    assert rows.shape == (2, 2, 6, K)
    assert len(rows.flatten(0, 2).unique(dim=0)) == 24
    views, index = next(batches())
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    objective.train()
    shuffled = objective(tuple(v[order] for v in views), index[order])
    for name, term in objective(views, index).items():
        torch.testing.assert_close(shuffled[name], term, msg=name)


def test_the_embedding_is_an_affine_map_of_features_and_sample():
    network = make().network
    features, sample = torch.randn(6, WIDTH), torch.rand(2, 6, K)
    weight, bias = network.projection.weight, network.projection.bias
    w, u = weight[:, :WIDTH], weight[:, WIDTH:].view(5, 2, K)
    expected = features @ w.T + torch.einsum("hnk,phk->np", sample, u) + bias
    torch.testing.assert_close(network.embedding(features, sample), expected)
    free = make(conditioned=False).network
    assert torch.equal(free.embedding(features, sample), free.embedding(features, 2 * sample))


def test_assignments_are_scaled_cosines_and_can_be_confident():
    network = AssignedFeatures(
        nn.Identity(), K, K, n_heads=1, projection_dim=3, assignment_temperature=0.05,
        conditioned=True,
    )  # fmt: skip
    with torch.no_grad():
        network.prototypes.copy_(7 * torch.eye(K))
    p = F.softmax(network.logits(3 * torch.eye(K)), dim=-1)[0]
    assert (p.diagonal() > 0.999).all()
    torch.testing.assert_close(network.logits(torch.eye(K) * 5), network.logits(torch.eye(K)))


def test_clusters_may_be_renamed():
    """Nothing knows the number of a cluster."""
    order = torch.tensor([2, 0, 3, 1])
    one = make()
    other = make()
    with torch.no_grad():
        for network in (other.network, other.twin):
            network.prototypes.copy_(network.prototypes[:, order])
            u = network.projection.weight[:, WIDTH:].view(5, 2, K)[:, :, order]
            network.projection.weight[:, WIDTH:] = u.flatten(1)
        other.noise.copy_(other.noise[..., order])
    for views, index in batches():
        terms, renamed = one(views, index), other(views, index)
        for name, term in terms.items():
            torch.testing.assert_close(renamed[name], term, msg=name)
        one.after_step()
        other.after_step()
    torch.testing.assert_close(other.past.rows, one.past.rows[:, :, order])


def test_symmetric_is_the_mean_of_both_directions():
    both = make(symmetric=True, instance_queue=0, cluster_queue=0, gumbel_noise=0.0)
    one = make(instance_queue=0, cluster_queue=0, gumbel_noise=0.0)
    views, index = next(batches())
    terms = both(views, index)
    halves = [one(views, index), one(views[::-1], index)]
    for name in ("prior", "cluster", "entropy"):
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(terms[name], mean, msg=name)
    assert terms["instance"] > (halves[0]["instance"] + halves[1]["instance"]) / 2  # more keys


# -- the estimator --------------------------------------------------------------------------


def quick(**parameters):
    return TwinContrastClustering(
        **{
            "n_clusters": 3,
            "readout": "head",
            "max_epochs": 4,
            "batch_size": 40,
            "image_size": 8,
            "random_state": 0,
            **parameters,
        }
    )


def test_what_training_alone_needs_is_not_kept(shapes, tmp_path):
    model = quick(instance_queue=3).fit(shapes[0])
    names = {name.split(".")[0] for name in model.weights_}
    assert names == {"network", "head_loss"}
    model.save(tmp_path / "model")
    again = TwinContrastClustering.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(shapes[0]), model.predict_proba(shapes[0]))


def test_a_checkpoint_holds_the_twin_and_the_queues(shapes, tmp_path):
    """Resumed after an epoch, training ends as it would have."""
    how = {"instance_queue": 2, "symmetric": True}
    whole = quick(**how).fit(shapes[0])
    stopped = quick(**how, checkpoint_dir=tmp_path)
    train = engine.train

    def interrupted(*arguments, report, **keywords):
        return train(
            *arguments,
            **keywords,
            report=lambda history, s: report(history, s) or len(history) == 2,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "train", interrupted)
        assert stopped.fit(shapes[0]).n_iter_ == 2
    resumed = stopped.fit(shapes[0])
    assert resumed.history_ == whole.history_
    for name, weight in whole.weights_.items():
        np.testing.assert_array_equal(resumed.weights_[name], weight)


def test_labels_come_from_plain_images_without_noise(shapes):
    """Neither noise nor batch statistics nor k-means: the arg max of the cosines."""
    model = quick().fit(shapes[0])
    objective = model._objective()
    assert not objective.training
    h = torch.tensor(model.transform(shapes[0]))
    weight = torch.tensor(model.weights_["network.prototypes"])
    head = int(model.weights_["head_loss"].argmin())
    cosines = F.normalize(h, dim=1) @ F.normalize(weight[head], dim=1).T
    proba = F.softmax(cosines / 0.05, dim=1).numpy()[:, model._order]
    np.testing.assert_allclose(model.predict_proba(shapes[0]), proba, atol=1e-5)
    np.testing.assert_array_equal(model.labels_, proba.argmax(axis=1))


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("prior", "flat", "prior must be one of 'ema', 'uniform', None"),
        ("momentum", 1.5, "momentum must be a number >= 0 and <= 1; got 1.5"),
        ("membership", "both", "membership must be one of 'sample', 'probability'"),
        ("cluster_gradient", None, "cluster_gradient must be one of 'assignment', 'all'"),
        ("cluster_queue", -1, "cluster_queue must be an int >= 0"),
        ("instance_queue", 2.0, "instance_queue must be an int >= 0"),
        ("gumbel_temperature", 0, "gumbel_temperature must be a number > 0"),
        ("assignment_temperature", -1, "assignment_temperature must be a number > 0"),
        ("prior_weight", -0.1, "prior_weight must be a number >= 0"),
        ("symmetric", "yes", "symmetric must be one of False, True"),
        ("conditioned", 2, "conditioned must be one of False, True"),
    ],
)
def test_bad_parameters(shapes, parameter, value, message):
    with pytest.raises(ValueError, match=message):
        quick(**{parameter: value}).fit(shapes[0])


@pytest.mark.parametrize(
    "parameters",
    [
        {"symmetric": True, "instance_queue": 1},
        {"prior": None, "conditioned": False},
        {"prior": "uniform", "membership": "probability"},
        {"cluster_weight": 0, "readout": "kmeans", "prior": None, "conditioned": False},
        {"instance_weight": 0, "cluster_gradient": "all"},
        {"cluster_queue": 0, "n_heads": 1, "gumbel_noise": 0},
    ],
    ids=lambda p: ",".join(p),
)
def test_all_settings_train_and_predict(shapes, parameters):
    model = quick(**parameters).fit(shapes[0])
    assert np.isfinite([list(terms.values()) for terms in model.history_]).all()
    np.testing.assert_array_equal(model.predict(shapes[0]), model.labels_)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_digits_are_found(seed):
    digits = load_digits()
    labels = TwinContrastClustering(10, random_state=seed).fit_predict(digits.images)
    assert clustering_accuracy(digits.target, labels) > 0.95
    assert len(np.unique(labels)) == 10
