"""DeepCluster: where its labels come from, what learns them, and what is forgotten."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize
from torch import nn
from torch.nn import functional as F

from skcc import DeepCluster
from skcc.experiments.recipes import RECIPES, make_estimator
from skcc.methods.deepcluster import PseudoLabelObjective
from skcc.objective import Epoch, Setup


def samples(n=40):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


def make(**changes):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5))
    options = {"n_pseudolabels": 7, "n_whitened": 3, "reassign_epochs": 2} | changes
    return PseudoLabelObjective(Setup(backbone, 5, (6,), 40), **options)


def epoch(objective, number=0, optimizers=()):
    def sweep(function):
        objective.eval()
        with torch.no_grad():
            rows = function(samples())
        objective.train()
        return rows

    return Epoch(number, sweep, torch.Generator().manual_seed(5 + number), optimizers)


def features(objective):
    with torch.no_grad():
        return objective.eval().backbone(samples()).numpy()


def test_labels_are_k_means_of_whitened_components_of_unit_length():
    objective = make()
    objective.before_epoch(epoch(objective))
    Z = normalize(PCA(3, whiten=True).fit_transform(features(objective)))
    seed = int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(5)))
    expected = KMeans(7, n_init=1, random_state=seed).fit_predict(Z)
    assert adjusted_rand_score(objective.labels.numpy(), expected) == 1
    with torch.no_grad():
        ours = objective.embed(samples()).numpy()
    np.testing.assert_allclose(ours @ ours.T, Z @ Z.T, atol=1e-4)  # up to rotation
    assert objective.n_embedding == 3


def test_labels_are_kept_for_some_epochs_and_then_found_anew():
    objective = make()
    objective.before_epoch(epoch(objective))
    before, weight = objective.labels.clone(), objective.classifier.weight.clone()
    with torch.no_grad():
        objective.backbone[3].weight.mul_(torch.tensor([[9.0], [1], [1], [1], [0.1]]))
    objective.before_epoch(epoch(objective, 1))
    assert torch.equal(objective.labels, before)
    assert torch.equal(objective.classifier.weight, weight)
    objective.before_epoch(epoch(objective, 2))
    assert adjusted_rand_score(objective.labels, before) < 1
    assert not torch.equal(objective.classifier.weight, weight)


def test_a_new_classifier_is_small_and_the_optimizer_forgets_the_old_one():
    objective = make(n_pseudolabels=30)
    optimizer = torch.optim.AdamW(objective.parameters())
    objective.before_epoch(epoch(objective, 0, [optimizer]))
    loss = objective((samples(),), torch.arange(40))["classification"]
    loss.backward()
    optimizer.step()
    kept = optimizer.state[objective.backbone[0].weight]["exp_avg"].clone()
    assert kept.abs().max() > 0
    objective.before_epoch(epoch(objective, 2, [optimizer]))
    for parameter in objective.classifier.parameters():
        assert all(not value.any() for value in optimizer.state[parameter].values())
    assert torch.equal(optimizer.state[objective.backbone[0].weight]["exp_avg"], kept)
    assert objective.classifier.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not objective.classifier.bias.any()


def test_all_clusters_are_drawn_equally_often():
    objective = make()
    objective.before_epoch(epoch(objective))
    weights, labels = objective.sample_weights(), objective.labels
    sizes = labels.bincount(minlength=7)
    assert sizes.max() > sizes.min()
    for k in labels.unique():
        assert weights[labels == k].sum().item() == pytest.approx(1)


def test_the_loss_is_the_cross_entropy_of_the_labels():
    objective = make()
    objective.before_epoch(epoch(objective))
    objective.eval()
    index = torch.tensor([3, 17, 3, 29])
    loss = objective((samples()[index],), index)["classification"].item()
    with torch.no_grad():
        p = F.softmax(objective.classifier(objective.backbone(samples())), dim=1)
    expected = -np.mean([np.log(p[i, objective.labels[i]].item()) for i in index])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_what_predicts_is_the_features_of_the_trained_network_alone():
    objective = make()
    objective.before_epoch(epoch(objective))
    with torch.no_grad():
        objective.backbone[3].weight.mul_(torch.tensor([[9.0], [1], [1], [1], [0.1]]))
    objective.after_training(epoch(objective, 2))
    objective.release()
    Z = normalize(PCA(3, whiten=True).fit_transform(features(objective)))
    with torch.no_grad():
        ours = objective.embed(samples()).numpy()
    np.testing.assert_allclose(ours @ ours.T, Z @ Z.T, atol=1e-4)
    names = {name.split(".")[0] for name in objective.state_dict()}
    assert names == {"backbone", "whitening"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("batch_size", "epochs"), [(120, 32), (40, 11), (3, 1)])
def test_labels_are_kept_for_32_steps_or_one_epoch(batch_size, epochs):
    model = DeepCluster(3, batch_size=batch_size)
    model.settings_ = {"batch_size": batch_size}
    (phase,) = model._phases(Setup(nn.Linear(6, 5), 5, (6,), 120))
    assert phase.objective.reassign_epochs == epochs
    assert phase.objective.n_pseudolabels == 15
    assert phase.objective.n_embedding == 3


@pytest.mark.parametrize(
    ("name", "value"), [("n_pseudolabels", 0), ("n_whitened", "many"), ("reassign_epochs", 0)]
)
def test_wrong_parameters_are_named(name, value, shapes):
    with pytest.raises(ValueError, match=name):
        DeepCluster(3, **{name: value}).fit(shapes[0])
    with pytest.raises(ValueError, match="n_pseudolabels=121 should be <= n_samples=120"):
        DeepCluster(3, n_pseudolabels=121).fit(shapes[0])
    with pytest.raises(ValueError, match="readout='head' needs"):
        DeepCluster(3, readout="head").fit(shapes[0])


def test_the_recipe_is_the_authors():
    model = make_estimator("deepcluster", RECIPES["deepcluster", "cifar10"])
    assert (model.n_whitened, model.reassign_epochs, model.max_epochs) == (256, 1, 200)
    assert (model.batch_size, model.weight_decay) == (256, 1e-5)
