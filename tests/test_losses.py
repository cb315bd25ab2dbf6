"""Losses against double loops, closed forms and symmetries."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from skcc.losses import cluster_contrast, negative_entropy, nt_xent


def rows(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assignments(n, k, seed=0, sharpness=3.0):
    return F.softmax(sharpness * rows(n, k, seed), dim=1)


def slow_nt_xent(a, b, temperature):
    """Equations 1 to 3 of the paper, literally, without the similarity of a row to itself."""
    z = [*a, *b]
    n, total = len(a), 0.0
    for i in range(2 * n):
        sims = [float(z[i] @ z[j] / (z[i].norm() * z[j].norm())) for j in range(2 * n)]
        positive = math.exp(sims[(i + n) % (2 * n)] / temperature)
        others = sum(math.exp(sims[j] / temperature) for j in range(2 * n) if j != i)
        total += -math.log(positive / others)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 2), (9, 5)])
def test_nt_xent_equals_the_double_loop(n, d, temperature):
    a, b = rows(n, d, 0), rows(n, d, 1)
    expected = slow_nt_xent(a, b, temperature)
    assert nt_xent(a, b, temperature=temperature).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_cluster_contrast_equals_the_double_loop_over_columns(k):
    p, q = assignments(11, k, 0), assignments(11, k, 1)
    assert cluster_contrast(p, q).item() == pytest.approx(slow_nt_xent(p.T, q.T, 1.0), abs=1e-6)


@pytest.mark.parametrize("n", [64, 128, 256, 512])
def test_nt_xent_closed_forms(n):
    equal = torch.ones(n, 4)
    assert nt_xent(equal, equal).item() == pytest.approx(math.log(2 * n - 1), abs=1e-4)
    apart = torch.eye(n)
    floor = math.log(1 + (2 * n - 2) * math.exp(-2))
    assert nt_xent(apart, apart).item() == pytest.approx(floor, abs=1e-4)


@pytest.mark.parametrize(
    ("k", "equal", "floor"),
    [(2, 1.10, 0.55), (4, 1.95, 1.17), (10, 2.94, 2.03), (20, 3.66, 2.71), (200, 5.99, 4.99)],
)
def test_cluster_contrast_closed_forms(k, equal, floor):
    flat = torch.full((2 * k, k), 1 / k)
    assert cluster_contrast(flat, flat).item() == pytest.approx(equal, abs=0.006)
    certain = torch.eye(k).repeat(2, 1)
    assert cluster_contrast(certain, certain).item() == pytest.approx(floor, abs=0.006)


def test_negative_entropy_closed_forms():
    for k in (1, 2, 10):
        collapsed = F.one_hot(torch.zeros(6, dtype=torch.long), k).float()
        assert negative_entropy(torch.full((6, k), 1 / k)).item() == pytest.approx(0, abs=1e-6)
        assert negative_entropy(collapsed).item() == pytest.approx(math.log(k), abs=1e-6)
    p = assignments(8, 3)
    share = [float(p[:, j].sum() / p.sum()) for j in range(3)]
    expected = math.log(3) + sum(s * math.log(s) for s in share)
    assert negative_entropy(p).item() == pytest.approx(expected, abs=1e-12)


def test_losses_are_symmetric_and_do_not_see_the_order_of_clusters_or_images():
    p, q = assignments(12, 5, 0), assignments(12, 5, 1)
    clusters = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    images = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for loss in (cluster_contrast, nt_xent):
        value = loss(p, q).item()
        assert loss(q, p).item() == pytest.approx(value, abs=1e-12)
        assert loss(p[:, clusters], q[:, clusters]).item() == pytest.approx(value, abs=1e-12)
        assert loss(p[images], q[images]).item() == pytest.approx(value, abs=1e-12)
    value = negative_entropy(p).item()
    assert negative_entropy(p[images][:, clusters]).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", [cluster_contrast, lambda p, q: negative_entropy(p)])
def test_one_hot_and_empty_clusters_have_finite_losses_and_gradients(loss, dtype):
    p = F.one_hot(torch.tensor([0, 0, 1, 1, 1]), 4).to(dtype).requires_grad_()
    value = loss(p, p.detach())
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("scale", [30.0, 200.0])
def test_gradients_through_a_saturated_softmax_are_finite(scale):
    logits = (scale * rows(8, 4).float()).requires_grad_()
    p = F.softmax(logits, dim=1)
    (cluster_contrast(p, p.roll(1, 0)) + negative_entropy(p)).backward()
    assert torch.isfinite(logits.grad).all()


def test_gradient_check():
    p, q = assignments(5, 3, 0).requires_grad_(), assignments(5, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: cluster_contrast(p, q), (p, q))
    assert torch.autograd.gradcheck(lambda p, q: nt_xent(p, q), (p, q))
    assert torch.autograd.gradcheck(negative_entropy, (p,))


def test_losses_are_never_negative():
    for seed in range(20):
        p, q = assignments(6, 4, seed, 20.0).float(), assignments(6, 4, seed + 50, 20.0).float()
        assert min(cluster_contrast(p, q), nt_xent(p, q), negative_entropy(p)) >= 0
    assert negative_entropy(torch.full((7, 3), 1 / 3)) >= 0


def test_losses_stay_in_full_precision_under_autocast():
    a, b = rows(32, 8, 0).float(), rows(32, 8, 1).float()
    expected = nt_xent(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(a, b)
        from_half = nt_xent(a.bfloat16(), b.bfloat16())
    assert inside.dtype == from_half.dtype == torch.float32
    assert inside.item() == expected.item()


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_cluster_contrast_needs_no_tensor_of_all_pairs_of_clusters_by_all_images():
    n, k = 256, 100
    p = assignments(n, k).float().requires_grad_()
    with LargestTensor() as largest:
        cluster_contrast(p, p.detach().roll(1, 0)).backward()
    assert largest.numel <= max((2 * k) ** 2, 2 * k * n)
