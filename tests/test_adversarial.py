"""The generative adversarial network: turns, losses, features and principal components."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from torch import nn

from skcc import DCGANClustering
from skcc.augment import NoAugmentation, Views
from skcc.backbones import BACKBONES
from skcc.data import Store
from skcc.methods.adversarial import AdversarialObjective, discriminator_of, layer_outputs
from skcc.methods.pooling import pool_to_grid, principal_components
from skcc.objective import Epoch, Setup
from skcc.training import engine

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of .* are small"),
]
N = 12


def make(label_smoothing=0.1, **changes):
    torch.manual_seed(0)
    setup = Setup(BACKBONES["conv4"]((8, 8, 1), (8, 8)), 256, (1, 8, 8), N)
    settings = {"noise_dim": 5, "pooled_cells": 2, "n_components": 4} | changes
    objective = AdversarialObjective(setup, label_smoothing=label_smoothing, **settings)
    objective.before_epoch(Epoch(0, None, torch.Generator().manual_seed(1)))
    return objective


def images(n=N):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(2))


# -- two players ----------------------------------------------------------------------------


def test_each_player_has_its_own_parameters_and_none_is_left_out():
    objective = make()
    first, second = ({*map(id, objective.parameters_of(turn))} for turn in objective.turns)
    assert not first & second
    assert first | second == {*map(id, objective.parameters())}


def test_the_discriminators_loss_gives_the_generator_no_gradient():
    objective = make()
    sum(objective.discriminator((images(),), torch.arange(N)).values()).backward()
    assert all(p.grad is None for p in objective.generator_network.parameters())
    assert all(p.grad is not None for p in objective.parameters_of("discriminator"))


def test_the_generators_loss_reaches_it_through_the_discriminator():
    objective = make()
    objective.generator((images(),), torch.arange(N))["deceived"].backward()
    largest = [p.grad.abs().max() for p in objective.generator_network.parameters()]
    assert max(largest) > 1e-6


@pytest.mark.parametrize("turn", ["discriminator", "generator"])
def test_a_turn_changes_one_player(turn):
    objective = make()
    objective.turns = (turn,)
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    store = Store((images() * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous())
    engine.train(
        objective, store, Views(NoAugmentation(), (8, 8), 0), epochs=1, batch_size=N,
        learning_rate=1e-2, weight_decay=0.0, schedule="constant", seed=0,
    )  # fmt: skip
    changed = {n for n, p in objective.named_parameters() if not torch.equal(p, before[n])}
    of_generator = {n for n in before if n.startswith("generator_network")}
    own = of_generator if turn == "generator" else before.keys() - of_generator
    assert changed
    assert changed <= own


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_of_two_images_by_hand(smoothing):
    objective = make(smoothing).eval()
    x, index = images(2), torch.tensor([3, 0])
    with torch.no_grad():
        fake = objective.generator_network(objective.noise[index]).sigmoid()
        real, fake = (objective.critic(objective.backbone(v)).flatten() for v in (x, fake))
        terms = objective.discriminator((x,), index) | objective.generator((x,), index)
    p, q = ([1 / (1 + math.exp(-v)) for v in logits.tolist()] for logits in (real, fake))
    target = 1 - smoothing
    expected = {
        "real": -sum(target * math.log(v) + smoothing * math.log(1 - v) for v in p) / 2,
        "fake": -sum(math.log(1 - v) for v in q) / 2,
        "deceived": -sum(math.log(v) for v in q) / 2,
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_what_is_generated_is_an_image_of_its_noise():
    objective = make().eval()
    x = objective.generate(torch.arange(N))
    assert x.shape == (N, 1, 8, 8)
    assert x.min() > 0
    assert x.max() < 1
    torch.testing.assert_close(objective.generate(torch.tensor([7]))[0], x[7])
    assert (x[1:] - x[0]).abs().flatten(1).amax(dim=1).min() > 1e-4


# -- the discriminator and its features -----------------------------------------------------


@pytest.mark.parametrize("name", ["conv4", "resnet10-narrow"])
def test_backbones_follow_the_guidelines(name):
    network = discriminator_of(BACKBONES[name]((16, 16, 3), (16, 16)))
    layers = [*network.modules()]
    assert not any(isinstance(layer, nn.ReLU) for layer in layers)
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in layers) >= 4
    convolution, norm, activation = network[0]
    assert [type(m) for m in (convolution, norm, activation)] == [
        nn.Conv2d, nn.Identity, nn.LeakyReLU,
    ]  # fmt: skip
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in layers)


def test_maps_of_all_layers_are_pooled():
    objective = make().eval()
    maps = layer_outputs(objective.backbone, images())
    assert [tuple(h.shape[1:]) for h in maps] == [
        (32, 8, 8), (64, 4, 4), (128, 2, 2), (128, 2, 2), (256,),
    ]  # fmt: skip
    torch.testing.assert_close(maps[-1], objective.backbone(images()))
    pooled = pool_to_grid(maps[0], 2)
    expected = torch.stack([maps[0][:, :, i : i + 4, j : j + 4].amax(dim=(2, 3))
                            for i in (0, 4) for j in (0, 4)], dim=2).flatten(1)  # fmt: skip
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(pool_to_grid(maps[3], 4), maps[3].flatten(1))  # has fewer pixels
    whole = nn.Module()
    whole.forward = lambda x: x.flatten(1)
    assert [h.shape for h in layer_outputs(whole, images())] == [(N, 64)]


def test_the_embedding_is_scikit_learns_of_layers_of_equal_weight():
    objective = make().eval()
    with torch.no_grad():
        layers = objective._pooled_layers(images())
    blocks = []
    for rows in layers:
        centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
        blocks.append(centred / np.sqrt((centred**2).sum() / N))
    expected = PCA(4, svd_solver="full").fit_transform(np.concatenate(blocks, axis=1))
    epoch = Epoch(1, lambda function: function(images()).detach(), torch.Generator().manual_seed(0))
    objective.after_training(epoch)
    with torch.no_grad():
        found = objective.embed(images()).double().numpy()
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=2e-3)


def test_principal_components_are_those_of_scikit_learn():
    x = torch.randn(60, 20, generator=torch.Generator().manual_seed(0))
    x = x * torch.linspace(3, 0.1, 20)
    x = x - x.mean(dim=0)
    found = principal_components(x, 5, torch.Generator().manual_seed(1))
    expected = PCA(5, svd_solver="full").fit(x.numpy()).components_
    np.testing.assert_allclose(np.abs(expected @ found.numpy()), np.eye(5), atol=2e-2)
    torch.testing.assert_close(found.T @ found, torch.eye(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("x", [torch.zeros(6, 9), torch.randn(3, 9)])
def test_components_without_variance_are_zero(x):
    found = principal_components(x, 7, torch.Generator().manual_seed(1))
    rank = np.linalg.matrix_rank(x.numpy())
    assert found.shape == (9, 7)
    assert int((found.norm(dim=0) > 0.5).sum()) == rank
    assert found[:, rank:].abs().max() == 0


# -- the estimator --------------------------------------------------------------------------


def test_planted_prototypes_are_found():
    rng = np.random.default_rng(0)
    prototypes, kinds = rng.random((3, 8, 8)) > 0.5, np.arange(60) % 3
    X = 0.2 + 0.6 * prototypes[kinds] + rng.uniform(-0.2, 0.2, (60, 8, 8))
    model = DCGANClustering(3, max_epochs=4, random_state=0).fit(X)
    assert adjusted_rand_score(kinds, model.labels_) > 0.95
    assert {*model.history_[0]} == {"real", "fake", "deceived"}
    assert model.settings_["learning_rate"] == 1e-3
    assert not [name for name in model.weights_ if name.startswith(("generator", "noise"))]


@pytest.mark.parametrize(
    "X",
    [
        np.full((12, 8, 6), 0.5),
        np.random.default_rng(0).random((4, 6, 5)),
        np.random.default_rng(0).random((6, 1, 2)),
        np.ones((9, 2)),
    ],
)
def test_poor_data_gives_finite_results(X):
    model = DCGANClustering(2, max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(model.predict_proba(X)).all()
    assert np.isfinite(model.transform(X)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_dim": 0}, "noise_dim must be an int"),
        ({"pooled_cells": 0}, "pooled_cells must be an int"),
        ({"label_smoothing": 0.6}, "label_smoothing must be a number .*<= 0.5"),
    ],
)
def test_invalid_parameters(changes, message):
    with pytest.raises(ValueError, match=message):
        DCGANClustering(2, **changes).fit(np.random.default_rng(0).random((9, 6, 9)))
