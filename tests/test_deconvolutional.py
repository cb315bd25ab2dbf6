"""Deconvolutional networks: inference and learning of filters, against slow references."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d, correlate2d
from sklearn.metrics import adjusted_rand_score

from skcc import DeconvolutionalClustering
from skcc.methods.deconvolutional import (
    DeconvolutionalLayer,
    DeconvolutionalObjective,
    correlate,
    gain,
    infer_maps,
    synthesise,
)
from skcc.objective import Epoch

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of .* are small"),
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def unit(filters):
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None]


# -- convolution ----------------------------------------------------------------------------


def test_synthesis_is_the_sum_of_convolutions():
    filters, maps = random(3, 2, 3, 4), random(2, 3, 8, 9, seed=1)
    x = synthesise(maps, filters)
    for i in range(2):
        for c in range(2):
            expected = sum(
                convolve2d(maps[i, k].numpy(), filters[k, c].numpy(), mode="valid")
                for k in range(3)
            )
            np.testing.assert_allclose(x[i, c], expected, atol=1e-12)


def test_correlation_is_that_of_scipy_and_the_adjoint():
    filters, x = random(3, 2, 3, 4), random(2, 2, 6, 6, seed=1)
    maps = correlate(x, filters)
    for i in range(2):
        for k in range(3):
            expected = sum(
                correlate2d(x[i, c].numpy(), filters[k, c].numpy(), mode="full") for c in range(2)
            )
            np.testing.assert_allclose(maps[i, k], expected, atol=1e-12)
    other = random(2, 3, 8, 9, seed=2)
    inner = [(synthesise(other, filters) * x).sum(), (other * maps).sum()]
    torch.testing.assert_close(*inner)


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (2, 3, 5, 4), (6, 2, 1, 1)])
def test_the_gain_bounds_the_curvature_and_is_close_to_it(shape):
    filters = random(*shape)
    c = shape[1]
    basis = torch.eye(c * 12 * 12).double().reshape(-1, c, 12, 12)
    matrix = correlate(basis, filters).flatten(1)
    largest = torch.linalg.matrix_norm(matrix, 2).item() ** 2
    assert largest <= gain(filters).item() <= 1.25 * largest


# -- inference ------------------------------------------------------------------------------


def cost(maps, x, filters, sparsity):
    error = sum(convolve2d(m, f[0], mode="valid") for m, f in zip(maps, filters, strict=True)) - x
    return 0.5 * (error**2).sum() + sparsity * maps.sum()


def slow_ista(x, filters, sparsity, n_steps):
    """Plain proximal gradient with a small step, one image of one channel."""
    maps = np.zeros((len(filters), x.shape[0] + 2, x.shape[1] + 2))
    step = 1 / sum(np.abs(f).sum() ** 2 for f in filters)
    for _ in range(n_steps):
        error = sum(
            convolve2d(m, f[0], mode="valid") for m, f in zip(maps, filters, strict=True)
        ) - x  # fmt: skip
        for k, f in enumerate(filters):
            maps[k] = np.maximum(maps[k] - step * (correlate2d(error, f[0]) + sparsity), 0)
    return maps


def test_inference_reaches_what_slow_proximal_steps_reach():
    filters, x = unit(random(2, 1, 3, 3)), random(1, 1, 5, 5, seed=1)
    maps = infer_maps(x, filters, sparsity=0.3, n_steps=300)[0].numpy()
    slow = slow_ista(x[0, 0].numpy(), filters.numpy(), 0.3, 4000)
    arguments = x[0, 0].numpy(), filters.numpy(), 0.3
    assert cost(maps, *arguments) == pytest.approx(cost(slow, *arguments), rel=1e-3)
    few = [cost(infer_maps(x, filters, sparsity=0.3, n_steps=n)[0].numpy(), *arguments)
           for n in (0, 3, 10, 300)]  # fmt: skip
    assert few == sorted(few, reverse=True)


def test_the_maps_are_optimal():
    """Where a map is positive the gradient is zero, elsewhere it does not ask for more."""
    filters, x = unit(random(3, 2, 3, 3)), random(2, 2, 6, 5, seed=1)
    maps = infer_maps(x, filters, sparsity=0.3, n_steps=2000)
    gradient = correlate(synthesise(maps, filters) - x, filters) + 0.3
    assert (maps >= 0).all()
    assert 0 < (maps > 0).double().mean() < 0.5
    assert gradient[maps > 0].abs().max() < 1e-3
    assert gradient.min() > -1e-3


def test_maps_by_hand():
    """One filter of one pixel: soft thresholding."""
    x = torch.tensor([[[[2.0, 0.1], [-1.0, 0.6]]]])
    maps = infer_maps(x, torch.ones(1, 1, 1, 1), sparsity=0.5, n_steps=100)
    torch.testing.assert_close(maps, torch.tensor([[[[1.5, 0.0], [0.0, 0.1]]]]), atol=1e-4, rtol=0)


def test_a_large_weight_leaves_nothing():
    filters, x = unit(random(3, 1, 3, 3)), random(2, 1, 6, 6, seed=1)
    largest = correlate(x, filters).max().item()
    assert infer_maps(x, filters, sparsity=largest + 0.01, n_steps=20).abs().max() == 0
    assert infer_maps(x, filters, sparsity=largest - 0.01, n_steps=20).abs().max() > 0


# -- learning -------------------------------------------------------------------------------


def objective_of(n_layers=1, view_shape=(1, 6, 6)):
    torch.manual_seed(0)
    layers, channels = [], view_shape[0]
    for _ in range(n_layers):
        layers.append(DeconvolutionalLayer(channels, 4, (3, 3), sparsity=0.2, n_steps=15))
        channels = 4
    return DeconvolutionalObjective(layers, view_shape, grid_size=2)


def test_the_loss_of_two_images_by_hand():
    objective = objective_of()
    x = torch.rand(2, 1, 6, 6)
    objective.layers[0].scale.fill_(0.5)
    terms = objective((x,), torch.arange(2))
    filters = objective.layers[0].filters.detach()
    error = size = 0
    for image in x:
        scaled = (image - image.mean())[None] / 0.5
        maps = infer_maps(scaled, filters, sparsity=0.2, n_steps=15)
        error += 0.5 * (synthesise(maps, filters) - scaled).square().sum().item() / 2
        size += 0.2 * maps.sum().item() / 2
    assert terms["reconstruction"].item() == pytest.approx(error, rel=1e-4)
    assert terms["sparsity"].item() == pytest.approx(size, rel=1e-4)


def test_filters_get_the_gradient_of_fixed_maps_and_keep_their_length():
    objective = objective_of()
    layer, x = objective.layers[0], torch.rand(3, 1, 6, 6)
    sum(objective((x,), torch.arange(3)).values()).backward()
    centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
    maps = layer.maps(centred)
    filters = layer.filters.detach().requires_grad_()
    (0.5 * (synthesise(maps, filters) - centred).square().sum() / 3).backward()
    torch.testing.assert_close(layer.filters.grad, filters.grad, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        layer.filters.add_(1)
    objective.after_step()
    torch.testing.assert_close(layer.filters.flatten(1).norm(dim=1), torch.ones(4))


def test_the_scale_is_that_of_the_whole_set():
    objective, x = objective_of(), torch.rand(20, 1, 6, 6)
    epoch = Epoch(0, lambda function: function(x), torch.Generator().manual_seed(0))
    objective.before_epoch(epoch)
    expected = np.sqrt(np.mean([np.var(image.numpy()) for image in x]))
    assert objective.layers[0].scale.item() == pytest.approx(expected, rel=1e-5)


def test_a_second_layer_explains_the_maps_of_the_first_which_stays():
    objective, x = objective_of(2), torch.rand(3, 1, 6, 6)
    first, second = objective.layers
    assert not first.filters.requires_grad
    assert [*objective.parameters_of("forward")] == [second.filters]
    maps = first.maps(x - x.mean(dim=(1, 2, 3), keepdim=True))  # of 8 x 8
    pooled = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    error = synthesise(second.maps(pooled), second.filters) - pooled
    terms = objective((x,), torch.arange(3))
    expected = 0.5 * error.square().sum().item() / 3
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-4)


def test_the_features_are_the_largest_values_in_the_cells_of_each_layer():
    objective, x = objective_of(2), torch.rand(2, 1, 6, 6)
    features = objective.embed(x)
    assert features.shape == (2, objective.n_embedding) == (2, 2 * 4 * 4)
    maps = objective.layers[0].maps(x - x.mean(dim=(1, 2, 3), keepdim=True))
    cells = torch.stack([maps[:, :, i : i + 4, j : j + 4].amax(dim=(2, 3))
                         for i in (0, 4) for j in (0, 4)], dim=2).flatten(1)  # fmt: skip
    torch.testing.assert_close(features[:, :16], cells / cells.norm(dim=1, keepdim=True))


def test_planted_filters_are_learned():
    """Images are sums of few copies of three bars, which come back from noisy ones."""
    generator = torch.Generator().manual_seed(0)
    bars = [torch.eye(3), torch.eye(3)[[1, 1, 1]].T, torch.eye(3)[[1, 1, 1]]]
    truth = unit(torch.stack(bars)[:, None])
    maps = torch.rand(150, 3, 12, 12, generator=generator) < 0.02
    x = synthesise(maps.float(), truth)
    layer = DeconvolutionalLayer(1, 3, (3, 3), sparsity=0.1, n_steps=30)
    noise = torch.randn(truth.shape, generator=generator)
    layer.filters.data.copy_(truth + 0.25 * noise)
    layer.normalise()
    before = (layer.filters * truth).flatten(1).sum(dim=1)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for step in range(40):
        batch = x[step % 3 * 50 :][:50]
        loss = (synthesise(layer.maps(batch), layer.filters) - batch).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.normalise()
    assert before.max() < 0.95
    assert (layer.filters * truth).flatten(1).sum(dim=1).min() > 0.99


# -- the estimator --------------------------------------------------------------------------


def test_layers_share_the_epochs():
    X = np.random.default_rng(0).random((30, 6, 6))
    model = DeconvolutionalClustering(2, n_maps=(2, 3, 2), filter_size=3, max_epochs=5)
    model.fit(X)
    assert model.n_iter_ == model._planned_epochs() == 5
    assert model._epochs() == [2, 2, 1]
    assert DeconvolutionalClustering(2, n_maps=(2, 2), max_epochs=1).fit(X).n_iter_ == 2


def test_planted_prototypes_are_found():
    rng = np.random.default_rng(0)
    prototypes, kinds = rng.random((3, 8, 8)) > 0.5, np.arange(60) % 3
    X = 0.2 + 0.6 * prototypes[kinds] + rng.uniform(-0.2, 0.2, (60, 8, 8))
    model = DeconvolutionalClustering(
        3, n_maps=(6, 6), n_inference_steps=8, max_epochs=4, random_state=0
    ).fit(X)
    assert adjusted_rand_score(kinds, model.labels_) > 0.95


@pytest.mark.parametrize("X", [np.full((12, 8, 6), 0.5), np.random.default_rng(0).random((4, 6, 5)),
                               np.ones((9, 2))])  # fmt: skip
def test_poor_data_gives_finite_results(X):
    model = DeconvolutionalClustering(2, n_maps=(4, 4), max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(model.predict_proba(X)).all()
    assert np.isfinite(model.transform(X)).all()
    assert all(np.isfinite([*terms.values()]).all() for terms in model.history_)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_maps": ()}, "n_maps must be a tuple"),
        ({"n_maps": (3, 0)}, "each entry of n_maps must be"),
        ({"n_maps": 4}, "n_maps must be a tuple"),
        ({"sparsity": 0}, "sparsity must be a number > 0"),
        ({"filter_size": 7}, "filter_size=7 does not fit into views of 6 x 9 pixels.*image_size"),
        ({"backbone": "conv4"}, "wanted backbone='auto', got 'conv4'"),
    ],
)
def test_invalid_parameters(changes, message):
    X = np.random.default_rng(0).random((9, 6, 9))
    with pytest.raises(ValueError, match=message):
        DeconvolutionalClustering(2, max_epochs=1, **changes).fit(X)


def test_a_new_layer_is_where_those_below_are():
    """On a device, those are there already when the next one is made."""
    options = {"sparsity": 0.5, "n_steps": 2}
    layers = [DeconvolutionalLayer(1, 3, (3, 3), **options).to("meta")]
    layers.append(DeconvolutionalLayer(3, 4, (3, 3), **options))
    objective = DeconvolutionalObjective(layers, (1, 8, 8), grid_size=2)
    assert {p.device.type for p in objective.parameters()} == {"meta"}
    assert objective.n_embedding == 4 * (3 + 4)
