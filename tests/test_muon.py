"""The optimizer Muon against singular value decompositions, AdamW and torch's own Muon."""

import pytest
import torch
from torch import nn

from skcc.training.muon import _POLYNOMIALS, MOMENTUM, RMS, Muon, orthogonalize

SHAPES = [(8, 20), (20, 8), (12, 12), (6, 3, 3, 3), (1, 9), (16, 1, 3, 3)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nearest_orthogonal(matrix):
    """By a singular value decomposition in double precision."""
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u @ vt).float()


def cosine(value, reference):
    return float(torch.cosine_similarity(value.flatten(), reference.flatten(), dim=0))


def relative_error(value, reference):
    return float((value - reference).norm() / reference.norm())


@pytest.mark.parametrize("shape", [(4, 8, 20), (1, 30, 40), (2, 1, 5)])
def test_singular_values_become_one(shape):
    matrices = random(*shape)
    result = orthogonalize(matrices)
    for matrix, one in zip(matrices, result, strict=True):
        assert cosine(one, nearest_orthogonal(matrix)) > 0.97
        values = torch.linalg.svdvals(one)
        assert values.min() > 0.7
        assert values.max() < 1.3
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(orthogonalize(matrices * scale), result, rtol=1e-3, atol=1e-4)


def test_singular_values_from_a_hundredth_become_one():
    basis = torch.linalg.qr(random(6, 6)).Q
    values = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.02, 0.012])
    matrix = basis * values @ basis.T
    result = torch.linalg.svdvals(orthogonalize(matrix[None])[0])
    assert result.min() > 0.7
    assert result.max() < 1.3
    tiny = torch.linalg.svdvals(orthogonalize((basis * values**3 @ basis.T)[None])[0])
    assert tiny.min() < 1e-2, "what is nearly 0 is noise, and stays small"


def test_only_singular_values_change():
    matrix = random(7, 11).double()
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm() / 1.01
    for a, b, c in _POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    torch.testing.assert_close(orthogonalize(matrix[None])[0], u * values @ vt)


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_bfloat16_is_exact_enough():
    matrices = random(3, 16, 40)
    low = orthogonalize(matrices.bfloat16()).float()
    assert relative_error(low, orthogonalize(matrices)) < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_a_slow_reference(shape):
    parameter = nn.Parameter(random(*shape))
    expected, momentum = parameter.detach().flatten(1).clone(), torch.zeros(shape).flatten(1)
    optimizer = Muon([parameter], lr=0.01, weight_decay=0.1)
    for step in range(3):
        gradient = random(*shape, seed=step + 1)
        parameter.grad = gradient.clone()
        before = parameter.detach().flatten(1).clone()
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.flatten(1)
        nesterov = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.flatten(1)
        update = nearest_orthogonal(nesterov) * RMS * max(nesterov.shape) ** 0.5
        expected = before * (1 - 0.01 * 0.1) - 0.01 * update
        change = parameter.detach().flatten(1) - before
        assert cosine(change, expected - before) > 0.94
        assert 0.8 < change.norm() / (expected - before).norm() < 1.25


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is of torch 2.9")
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (12, 12)])
def test_steps_are_nearly_those_of_torch(shape):
    ours, theirs = (nn.Parameter(random(*shape)) for _ in range(2))
    optimizer = Muon([ours], lr=0.01, weight_decay=0.0)
    other = torch.optim.Muon(
        [theirs], lr=0.01 * RMS / 0.2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        for parameter, stepper in ((ours, optimizer), (theirs, other)):
            parameter.grad = random(*shape, seed=step)
            stepper.step()
    changes = [(p.detach() - random(*shape)).flatten() for p in (ours, theirs)]
    assert torch.cosine_similarity(*changes, dim=0) > 0.97
    assert 0.8 < changes[0].norm() / changes[1].norm() < 1.3  # theirs has values of .7 to 1.2


def test_vectors_are_left_to_adamw():
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    twin = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    twin.load_state_dict(network.state_dict())
    options = {"lr": 0.01, "weight_decay": 0.1}
    optimizers = (
        Muon(network.parameters(), **options),
        torch.optim.AdamW(twin.parameters(), **options),
    )
    for step in range(3):
        for model, optimizer in zip((network, twin), optimizers, strict=True):
            for place, parameter in enumerate(model.parameters()):
                parameter.grad = random(*parameter.shape, seed=10 * step + place)
            optimizer.step()
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs) == (ours.ndim == 1)


def test_matrices_of_one_shape_do_not_mix():
    alone, first, second = (nn.Parameter(random(6, 9)) for _ in range(3))
    gradients = random(6, 9, seed=1), random(6, 9, seed=2)
    alone.grad, first.grad, second.grad = gradients[0].clone(), *(g.clone() for g in gradients)
    Muon([alone], lr=0.01).step()
    Muon([first, second], lr=0.01).step()
    torch.testing.assert_close(first, alone)
    assert not torch.allclose(second, alone)


def test_without_a_gradient_nothing_changes():
    moved, still, bias = (
        nn.Parameter(random(3, 4)),
        nn.Parameter(random(3, 4)),
        nn.Parameter(random(3)),
    )
    before = still.detach().clone(), bias.detach().clone()
    optimizer = Muon([moved, still, bias], lr=0.01, weight_decay=0.1)
    moved.grad = random(3, 4, seed=1)
    optimizer.step()
    assert torch.equal(still, before[0])
    assert torch.equal(bias, before[1])
    assert still not in optimizer.state


def test_state_is_saved_and_loaded():
    def steps(parameters, optimizer, numbers):
        for number in numbers:
            for parameter in parameters:
                parameter.grad = random(*parameter.shape, seed=number)
            optimizer.step()

    whole, half = ([nn.Parameter(random(4, 6)), nn.Parameter(random(4))] for _ in range(2))
    steps(whole, Muon(whole, lr=0.01), range(6))
    first = Muon(half, lr=0.01)
    steps(half, first, range(3))
    second = Muon(half, lr=0.5)
    second.load_state_dict(first.state_dict())
    steps(half, second, range(3, 6))
    for a, b in zip(whole, half, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("parameters", [[nn.Parameter(random(3, 4))], [nn.Parameter(random(3))]])
def test_either_kind_may_be_missing(parameters):
    before = parameters[0].detach().clone()
    parameters[0].grad = torch.ones_like(before)
    Muon(parameters, lr=0.01, weight_decay=0.0).step()
    assert (parameters[0] < before).all()
