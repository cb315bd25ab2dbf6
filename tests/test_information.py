"""IIC and PICA: which heads learn when, and from what."""

import numpy as np
import pytest
import torch
from torch import nn

from skcc import IIC, PICA
from skcc.experiments.recipes import RECIPES, make_estimator
from skcc.losses import negative_entropy, negative_mutual_information, partition_confidence
from skcc.methods.information import IICObjective, PICAObjective
from skcc.objective import Epoch, Setup

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
OPTIONS = {"n_clusters": 3, "n_overclusters": 7, "n_epochs": 8, "n_heads": 2, "repeats": 2,
           "warm_up": 0.5, "alternate": None}  # fmt: skip
both = pytest.mark.parametrize(
    ("cls", "weight"), [(IICObjective, "marginal_weight"), (PICAObjective, "balance_weight")]
)


def make(cls, weight, epoch=4, **changes):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
    objective = cls(Setup(backbone, 8, (6,), 20), **OPTIONS | {weight: 1.7} | changes)
    begin(objective, epoch)
    return objective


def begin(objective, epoch):
    objective.before_epoch(Epoch(epoch, None, torch.Generator().manual_seed(0)))


def views(objective, n=9):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 6, generator=generator) for _ in range(objective.n_views))


def learning(objective):
    """Which groups of heads get a gradient."""
    objective.zero_grad()
    sum(objective(views(objective), torch.arange(9)).values()).backward()
    groups = objective.cluster_heads, objective.overcluster_heads
    return tuple(any(p.grad.abs().max() > 0 for p in heads.parameters()) for heads in groups)


@both
def test_the_clusters_begin_after_the_warm_up(cls, weight):
    objective = make(cls, weight, 0)
    seen = []
    for epoch in range(8):
        begin(objective, epoch)
        seen.append(learning(objective))
    assert seen == [(False, True)] * 4 + [(True, True)] * 4


def test_groups_take_turns_as_in_the_papers():
    objective = make(IICObjective, "marginal_weight", 0, warm_up=0.0, alternate=(1, 2))
    seen = []
    for epoch in range(6):
        begin(objective, epoch)
        seen.append(learning(objective))
    assert seen == [(False, True), (True, False), (True, False)] * 2


@pytest.mark.parametrize("warm_up", [0.9, 1.0])
def test_there_is_an_epoch_of_the_clusters(warm_up):
    objective = make(IICObjective, "marginal_weight", 0, n_epochs=1, warm_up=warm_up)
    assert learning(objective) == (True, True)


@both
def test_the_terms_are_the_losses_of_all_heads(cls, weight):
    """Written out for each head and repeat; the plain view comes last."""
    objective = make(cls, weight).eval()
    batch = views(objective)
    with torch.no_grad():
        terms = objective(batch, torch.arange(9))
        groups = {"cluster": objective.cluster_heads, "overcluster": objective.overcluster_heads}
        for name, heads in groups.items():
            losses = []
            for head in heads:
                first, second, plain = (head(objective.backbone(x)).softmax(1) for x in batch)
                p, q = torch.cat([plain, plain]), torch.cat([first, second])
                if cls is IICObjective:
                    losses.append(negative_mutual_information(p, q, marginal_weight=1.7))
                else:
                    losses.append(partition_confidence(p, q) + 1.7 * negative_entropy(plain))
            expected = torch.stack(losses)
            torch.testing.assert_close(terms[name], expected.mean())
            torch.testing.assert_close(heads.running_loss, 0.02 * expected, rtol=1e-4, atol=1e-6)


def test_the_head_of_least_running_loss_assigns():
    objective = make(IICObjective, "marginal_weight").eval()
    images = views(objective)[0]
    for best in (0, 1):
        objective.cluster_heads.running_loss.fill_(1.0)[best] = 0.5
        logits = objective.cluster_heads[best](objective.embed(images))
        torch.testing.assert_close(objective.assign(images), logits.softmax(1))


def test_what_only_training_needs_is_dropped():
    objective = make(PICAObjective, "balance_weight")
    objective.release()
    assert {name.split(".")[0] for name in objective.state_dict()} == {
        "backbone", "cluster_heads", "trained",
    }  # fmt: skip


@pytest.mark.parametrize("cls", [IIC, PICA])
def test_the_cluster_of_an_image_does_not_depend_on_its_batch(cls, shapes):
    model = cls(3, max_epochs=2, batch_size=60, image_size=8, random_state=0).fit(shapes[0])
    few, all_of_them = model.predict_proba(shapes[0][:7]), model.predict_proba(shapes[0])
    np.testing.assert_array_equal(few, all_of_them[:7])


@pytest.mark.parametrize("cls", [IIC, PICA])
@pytest.mark.parametrize(
    ("name", "value"),
    [("n_overclusters", 0), ("repeats", 0), ("warm_up", 1.5), ("alternate", 2), ("alternate", (1,)),
     ("alternate", (0, 1))],
)  # fmt: skip
def test_wrong_parameters_are_named(cls, name, value, shapes):
    with pytest.raises(ValueError, match=name):
        cls(3, **{name: value}).fit(shapes[0])


def test_the_recipes_are_the_papers():
    for key in [key for key in RECIPES if key[0] in ("iic", "pica")]:
        model = make_estimator(key[0], RECIPES[key])
        assert model.warm_up == 0
        assert (model.learning_rate, model.schedule) == (1e-4, "constant")
        assert model.n_overclusters == 7 * model.n_clusters
        cycle = sum(model.alternate)
        assert model.max_epochs == cycle * {"iic": 2000, "pica": 200}[key[0]]
        assert (model.n_heads, model.alternate) == {"iic": (5, (1, 2)), "pica": (1, (1, 1))}[key[0]]
    assert make_estimator("iic", RECIPES["iic", "cifar10"]).marginal_weight == 1
    assert make_estimator("pica", RECIPES["pica", "cifar10"]).balance_weight == 2
