"""DAC, DDC and DCCM: which pairs they call similar, what learns from them, and when."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skcc import DAC, DCCM, DDC
from skcc.experiments.recipes import RECIPES, make_estimator
from skcc.losses import jensen_shannon
from skcc.methods.pairwise import (
    AdaptiveObjective,
    CorrelationObjective,
    DiscriminativeObjective,
    LabelHead,
    partners,
)
from skcc.objective import Epoch, Setup

OPTIONS = {"n_clusters": 3, "n_subclusters": 7, "n_epochs": 9, "n_heads": 2, "warm_up": 0.5}
OWN = {
    AdaptiveObjective: {"upper": 0.95, "lower": 0.455, "final": 0.5, "pair_loss": "squared"},
    DiscriminativeObjective: {"local_weight": 0.3},
    CorrelationObjective: {"threshold": 0.9, "confidence": 0.5, "label_weight": 5.0,
                           "information_weight": 0.05, "discriminator_width": 4},
}  # fmt: skip
every_objective = pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)


def make(cls, epoch=8, **changes):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5))
    objective = cls(Setup(backbone, 5, (6,), 20), **OPTIONS | OWN[cls] | changes)
    begin(objective, epoch)
    return objective


def begin(objective, epoch):
    objective.before_epoch(Epoch(epoch, None, torch.Generator().manual_seed(0)))


def views(n=12):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 6, generator=generator) for _ in range(3))


def assignments(n=12, k=3, heads=2, sharpness=3.0):
    generator = torch.Generator().manual_seed(3)
    return F.softmax(sharpness * torch.randn(heads, n, k, generator=generator), dim=-1)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


# -- which pairs are similar ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "middle"), [((0.95, 0.45, 0.5), (0.725, 0.475)), ((0.9, 0.9, 0.5), (0.7, 0.7))]
)
def test_thresholds_close_over_the_training(ends, middle):
    objective = make(AdaptiveObjective, **dict(zip(("upper", "lower", "final"), ends, strict=True)))
    for epoch, expected in ((0, ends[:2]), (4, middle), (8, (0.5, 0.5))):
        begin(objective, epoch)
        assert objective.thresholds.tolist() == pytest.approx(expected)
        upper, lower = objective.thresholds.tolist()
        p = assignments()
        similar, used = objective.judge(p)
        for head in range(2):
            for i in range(12):
                for j in range(12):
                    c = cosine(p[head, i], p[head, j])
                    if min(abs(c - upper), abs(c - lower)) > 1e-5:
                        assert similar[head, i, j] == (c >= upper)
                        assert used[head, i, j] == (c >= upper or c < lower)
    assert used.all()  # at the end none is in doubt
    fine = assignments(k=7)
    assert torch.equal(
        objective.judge(fine)[0],
        make(
            AdaptiveObjective, 0, **dict(zip(("upper", "lower", "final"), ends, strict=True))
        ).judge(fine)[0],
    )  # those of the auxiliary heads stay


def test_relations_are_those_of_a_partition_into_equal_parts():
    similar, used = make(DiscriminativeObjective).judge(assignments(sharpness=1.0))
    assert used.all()
    assert torch.equal(similar, similar.mT)
    assert similar.diagonal(dim1=-2, dim2=-1).all()
    assert torch.equal((similar @ similar > 0).float(), similar)  # transitive
    assert (similar.sum(dim=-1) - 4).abs().max() <= 2  # 12 images, 3 parts


def test_the_global_constraint_divides_one_cluster_for_all():
    p = torch.tensor([0.9, 0.06, 0.04]).expand(1, 12, 3) + 0.01 * assignments(heads=1)
    similar, _ = make(DiscriminativeObjective).judge(p / p.sum(dim=-1, keepdim=True))
    assert similar.mean() < 0.7


def test_correlations_are_those_above_the_threshold():
    p = assignments()
    similar, used = make(CorrelationObjective).judge(p)
    assert used.all()
    for i in range(12):
        for j in range(12):
            assert similar[0, i, j] == (cosine(p[0, i], p[0, j]) > 0.9)


def test_partners_are_of_the_same_cluster_and_strangers_are_not():
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(6, 6, generator=generator) * 0.05
    similar = (labels[:, None] == labels).float() * 0.94 + (noise + noise.T) / 2
    partner, stranger = partners(similar, 0.9)
    assert partner[5] == 5  # alone
    for i in range(5):
        others = [j for j in range(6) if j != i and labels[j] == labels[i]]
        assert partner[i] == max(others, key=lambda j, i=i: similar[i, j])
    assert stranger.tolist() == [2, 2, 5, 5, 5, 0]


# -- what is learned from them --------------------------------------------------------------


@every_objective
def test_clusters_begin_after_the_warm_up_and_leave_the_backbone_alone(cls):
    for epoch in (3, 8):
        objective = make(cls, epoch)
        for name, term in objective(views(), torch.arange(12)).items():
            objective.zero_grad()
            term.backward(retain_graph=True)
            of_clusters = name in ("pairs", "local", "label")
            learns = any(
                p.grad is not None and p.grad.abs().max() > 0
                for p in objective.cluster_heads.parameters()
            )
            assert learns == (of_clusters and epoch == 8), name
            reached = objective.backbone[0].weight.grad
            assert (reached is not None and reached.abs().max() > 0) != of_clusters, name


@every_objective
def test_without_auxiliary_heads_the_clusters_train_the_backbone(cls):
    objective = make(cls, 0, n_subclusters=None)
    terms = objective(views(), torch.arange(12))
    assert "subclusters" not in terms
    for name in terms.keys() & {"pairs", "local", "label"}:
        objective.zero_grad()
        terms[name].backward(retain_graph=True)
        assert objective.backbone[0].weight.grad.abs().max() > 0, name


@every_objective
def test_the_loss_is_the_mean_over_pairs(cls):
    """Written out for all heads; for the auxiliary ones both kinds of pairs count equally."""
    objective = make(cls)
    with torch.no_grad():
        objective(views(), torch.arange(12))  # so that batch statistics are not their initial ones
        objective.eval().double()  # cosines near 1 lose digits otherwise
        features = [objective.backbone(view.double()) for view in views()]
        for heads in (objective.cluster_heads, objective.subcluster_heads):
            p, q, target = (heads(h).transpose(0, 1) for h in features)
            similar, used = objective.judge(target)
            squared = isinstance(objective, AdaptiveObjective)
            even = heads is objective.subcluster_heads
            for head, loss in enumerate(objective.pairs(p, q, target, even=even)):
                means, counts = [], []
                for kind in (1, 0):
                    errors = [
                        _error(cosine(p[head, i], q[head, j]), kind, squared)
                        for i in range(12) for j in range(12)
                        if used[head, i, j] and similar[head, i, j] == kind
                    ]  # fmt: skip
                    if errors:
                        means.append(sum(errors) / len(errors))
                        counts.append(1 if even else len(errors))
                expected = np.average(means, weights=counts)
                assert loss.item() == pytest.approx(expected, rel=1e-4)


def _error(s, kind, squared):
    s = min(max(s, 1e-6), 1 - 1e-6)
    return (s - kind) ** 2 if squared else -np.log(s if kind else 1 - s)


def test_the_local_constraint_is_zero_for_one_entry_and_at_most_that_of_equal_ones():
    objective = make(DiscriminativeObjective)
    one_hot = F.one_hot(torch.arange(12) % 3, 3).float().expand(2, 12, 3)
    assert objective.label_terms(one_hot, one_hot, one_hot)["local"] == 0
    equal = torch.full((2, 12, 3), 1 / 3)
    most = objective.label_terms(equal, equal, equal)["local"].item()
    assert most == pytest.approx(0.3 * (3**0.5 - 1), rel=1e-5)


def test_only_confident_images_are_labelled():
    objective, p, q = make(CorrelationObjective), assignments(), assignments(sharpness=1.0)
    target = assignments(sharpness=0.7)
    total = 0.0
    for head in range(2):
        for i in range(12):
            if target[head, i].max() > 0.5:
                one_hot = F.one_hot(target[head, i].argmax(), 3).float()
                for x in (p, q):
                    total += F.binary_cross_entropy(x[head, i], one_hot).item()
    assert 0 < (target.amax(dim=-1) > 0.5).sum() < 24
    term = objective.label_terms(p, q, target)["label"].item()
    assert term == pytest.approx(5.0 * total / 2 / 24, rel=1e-4)


def test_information_is_between_the_middle_layer_and_the_assignments():
    objective = make(CorrelationObjective)
    batch = views()
    term = objective(batch, torch.arange(12))["information"]
    objective.eval()
    with torch.no_grad():
        maps = objective.backbone[0](batch[0])[:, None]  # of two linear layers, the first
    torch.testing.assert_close(objective.shallow.maps[0], maps)
    assert len(objective.shallow.maps) == 3
    assert objective.shallow.channels == 8
    objective.train()
    with torch.no_grad():
        p = objective.subcluster_heads(objective.backbone(batch[0])).flatten(1)
        target = objective.subcluster_heads(objective.backbone(batch[2])).transpose(0, 1)
        unit = F.normalize(target, dim=-1)
        partner, stranger = partners((unit @ unit.mT).mean(dim=0), 0.9)
        scores = [objective.discriminator(maps[i], p) for i in (partner, stranger)]
    torch.testing.assert_close(term.detach(), 0.05 * jensen_shannon(*scores), rtol=1e-4, atol=0)
    assert "information" not in make(CorrelationObjective, information_weight=0.0)(
        batch, torch.arange(12)
    )


def test_the_feature_map_is_that_of_the_middle_convolution():
    from skcc.backbones import BACKBONES

    backbone = BACKBONES["conv4"]((8, 8, 1), (8, 8)).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    setup = Setup(backbone, 256, (1, 8, 8), 20)
    objective = CorrelationObjective(setup, **OPTIONS | OWN[CorrelationObjective])
    assert backbone.training
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    backbone(torch.rand(3, 1, 8, 8))
    assert objective.shallow.maps[0].shape == (3, 16, 64)  # 4 x 4 positions, 64 channels
    objective.release()
    backbone(torch.rand(3, 1, 8, 8))
    assert not any(module._forward_hooks for module in backbone.modules())


def test_no_head_can_have_the_same_logits_for_all_images():
    head = LabelHead(5, 3)
    with torch.no_grad():
        head[0].bias[:] = torch.tensor([100.0, 0.0, 0.0])  # all images into one cluster
    logits = head(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)))
    assert logits.argmax(dim=1).bincount(minlength=3).max() < 30
    assert torch.equal(head[3].weight, torch.eye(3))


def test_collapse_is_a_zero_of_the_loss_that_a_constraint_averts():
    one = F.one_hot(torch.zeros(12, dtype=torch.long), 3).float().expand(2, 12, 3)
    assert make(AdaptiveObjective).pairs(one, one, one).max() < 1e-5
    assert make(CorrelationObjective).pairs(one, one, one).max() < 1e-5
    target = 0.97 * one + 0.01 + 0.001 * assignments()
    assert make(DiscriminativeObjective).pairs(one, one, target).min() > 1


@every_objective
def test_what_only_training_needs_is_dropped(cls):
    objective = make(cls)
    objective.release()
    names = {name.split(".")[0] for name in objective.state_dict()} - {"thresholds"}
    assert names == {"backbone", "cluster_heads", "begun"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("cls", [DAC, DDC, DCCM])
def test_the_cluster_of_an_image_does_not_depend_on_its_batch(cls, shapes):
    model = cls(3, max_epochs=2, batch_size=60, image_size=8, random_state=0).fit(shapes[0])
    few, all_of_them = model.predict_proba(shapes[0][:7]), model.predict_proba(shapes[0])
    np.testing.assert_array_equal(few, all_of_them[:7])


def test_a_network_without_layers_is_named(shapes):
    class Columns(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * x.flatten(1)[:, :5]

    with pytest.raises(ValueError, match="wants a backbone with a convolution or linear layer"):
        DCCM(3, backbone=Columns(), max_epochs=1).fit(shapes[0])


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(DAC, "upper", 1.5), (DAC, "pair_loss", "hinge"), (DAC, "n_subclusters", 0),
     (DDC, "local_weight", -1), (DDC, "warm_up", 2), (DCCM, "confidence", 2),
     (DCCM, "discriminator_width", 0)],
)  # fmt: skip
def test_wrong_parameters_are_named(cls, name, value, shapes):
    with pytest.raises(ValueError, match=name):
        cls(3, **{name: value}).fit(shapes[0])


def test_recipes_and_defaults_are_the_authors():
    dccm = make_estimator("dccm", RECIPES["dccm", "cifar10"])
    assert (dccm.threshold, dccm.confidence, dccm.label_weight) == (0.95, 0.9, 5.0)
    assert (dccm.information_weight, dccm.discriminator_width) == (0.05, 512)
    dac = make_estimator("dac", RECIPES["dac", "cifar10"])
    assert (dac.upper, dac.lower, dac.final, dac.pair_loss) == (0.99, 0.99, 0.75, "cross-entropy")
    assert (DAC().upper, DAC().lower) == (0.95, 0.455)  # the paper's
    for key in [key for key in RECIPES if key[0] in ("dac", "ddc", "dccm")]:
        assert RECIPES[key]["batch_size"] == 32
