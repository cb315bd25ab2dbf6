"""ADC: when the centroids begin, where, and what each term is."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skcc import ADC
from skcc.experiments.recipes import RECIPES, make_estimator
from skcc.losses import association
from skcc.methods.association import AssociationObjective, AssociationSettings
from skcc.objective import Epoch, Setup

SETTINGS = {"n_clusters": 3, "n_epochs": 8, "association_dim": 5, "copies": 2, "repeats": 2,
            "walker_weight": 1.1, "visit_weight": 0.6, "view_walker_weight": 1.2,
            "view_visit_weight": 0.9, "logit_weight": 0.5, "consistency_weight": 0.0,
            "norm_weight": 2e-4, "sparsity_weight": 3e-4, "warm_up": 0.5,
            "view_decay": 0.2}  # fmt: skip
OF_CENTROIDS = {"walker", "visit", "logit"}


def make(**changes):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
    settings = AssociationSettings(**SETTINGS | changes)
    return AssociationObjective(Setup(backbone, 8, (6,), 30), settings).eval()


SAMPLES = 3 * torch.eye(6)[:3].repeat(10, 1) + 0.01 * torch.randn(
    30, 6, generator=torch.Generator().manual_seed(2)
)


def begin(objective, number):
    def sweep(function):
        with torch.no_grad():
            return function(SAMPLES)

    objective.before_epoch(Epoch(number, sweep, torch.Generator().manual_seed(number)))


def views(n=7):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 6, generator=generator) for _ in range(3))


def test_centroids_begin_at_those_of_k_means():
    objective = make()
    random = objective.centroids.detach().clone()
    for number in range(4):
        begin(objective, number)
        terms = objective(views(), torch.arange(7))
        assert all((terms[name] == 0) == (name in OF_CENTROIDS) for name in terms)
        assert torch.equal(objective.centroids, random)
    begin(objective, 4)
    embeddings = objective.embed(SAMPLES).detach()
    means = torch.stack([embeddings[kind::3].mean(dim=0) for kind in range(3)])
    centroids = objective.centroids.detach()
    distance = torch.cdist(centroids.mean(dim=1), means)
    assert distance.amin(dim=1).max() < 0.02
    assert len(set(distance.argmin(dim=1).tolist())) == 3
    assert (centroids[:, 0] - centroids[:, 1]).abs().max() <= 0.02
    nearest = torch.cdist(embeddings, centroids.mean(dim=1)).argmin(dim=1)
    assert torch.equal(objective.assign(SAMPLES).argmax(dim=1), nearest)
    moved = objective.centroids.data.add_(1.0).clone()
    begin(objective, 5)
    assert torch.equal(objective.centroids, moved)  # once only


def test_views_count_less_once_the_centroids_have_begun():
    objective, seen = make(), []
    for number in range(8):
        begin(objective, number)
        seen.append(objective(views(), torch.arange(7))["view walker"].item())
    assert seen[:4] == pytest.approx([seen[0]] * 4)
    assert seen[4:] == pytest.approx([0.2 * seen[0]] * 4)


def test_without_warm_up_centroids_are_random_and_all_terms_count():
    objective = make(warm_up=0.0)
    begin(objective, 0)
    assert torch.equal(objective.weights, torch.ones(2))
    assert all(term > 0 for term in objective(views(), torch.arange(7)).values())


def test_the_terms_are_those_of_the_formulas():
    objective = make(warm_up=0.0, consistency_weight=0.7)
    begin(objective, 0)
    terms = {k: v.item() for k, v in objective(views(), torch.arange(7)).items()}
    with torch.no_grad():
        first, second, plain = map(objective.embed, views())
        centroids = objective.centroids.detach().reshape(6, 5)
        kinds = torch.tensor([0, 0, 1, 1, 2, 2])
        walker, visit = association(centroids, plain, kinds)
        of_views = association(torch.cat([first, second]), plain, torch.arange(14) % 7)
        rows = [*plain, *first, *second, *centroids]
        consistency = -(
            objective.assign(views()[2]) * objective.assign(views()[0]).log()
        ).sum(1).mean()  # fmt: skip
    expected = {
        "walker": 1.1 * walker, "visit": 0.6 * visit,
        "view walker": 1.2 * of_views[0], "view visit": 0.9 * of_views[1],
        "logit": 0.5 * F.cross_entropy(objective.classifier(centroids), kinds).detach(),
        "norm": 400 * 2e-4 * sum((float(r.norm()) - 1) ** 2 for r in rows) / len(rows),
        "sparsity": 400 * 3e-4 * sum(float(r.abs().sum()) for r in rows) / len(rows),
        "consistency": 0.7 * consistency,
    }  # fmt: skip
    assert terms == pytest.approx({name: float(term) for name, term in expected.items()}, rel=1e-4)
    assert terms["walker"] >= 1.1 * math.log(2)
    assert terms["visit"] >= 0.6 * math.log(7)


def test_gradients_reach_all_parameters():
    objective = make(warm_up=0.0).train()
    begin(objective, 0)
    sum(objective(views(), torch.arange(7)).values()).backward()
    for name, parameter in objective.named_parameters():
        if name != "backbone.0.bias":  # normalised away
            assert parameter.grad.abs().max() > 1e-7, name


def test_what_only_training_needs_is_dropped():
    objective = make()
    objective.release()
    assert {name.split(".")[0] for name in objective.state_dict()} == {
        "backbone", "embedding", "classifier", "weights",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_cluster_of_an_image_does_not_depend_on_its_batch(shapes):
    model = ADC(3, max_epochs=2, batch_size=60, image_size=8, random_state=0).fit(shapes[0])
    few, all_of_them = model.predict_proba(shapes[0][:7]), model.predict_proba(shapes[0])
    np.testing.assert_array_equal(few, all_of_them[:7])
    assert model.transform(shapes[0]).shape == (120, 128)


@pytest.mark.parametrize(
    ("name", "value"), [("copies", 0), ("repeats", 0), ("warm_up", 2), ("visit_weight", -1)]
)
def test_wrong_parameters_are_named(name, value, shapes):
    with pytest.raises(ValueError, match=name):
        ADC(3, **{name: value}).fit(shapes[0])


def test_defaults_and_recipes_are_the_authors():
    for key in [key for key in RECIPES if key[0] == "adc"]:
        model = make_estimator("adc", RECIPES[key])
        assert (model.copies, model.association_dim, model.repeats) == (4, 128, 3)
        assert (model.walker_weight, model.visit_weight, model.logit_weight) == (1.0, 0.5, 0.5)
        assert (model.view_walker_weight, model.view_visit_weight) == (1.0, 1.0)
        assert (model.norm_weight, model.sparsity_weight, model.view_decay) == (2e-4, 2e-4, 0.2)
        assert (model.batch_size, model.learning_rate, model.warm_up) == (100, 2e-4, 0)
