"""Losses against double loops, closed forms and symmetries."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from skcc.losses import (
    cluster_contrast,
    info_nce,
    negative_entropy,
    nt_xent,
    set_contrast,
    set_representation,
)


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


# -- contrast with keys, and of sets --------------------------------------------------------


def cosine(u, v):
    return float(u @ v / (u.norm() * v.norm()))


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_info_nce_equals_the_double_loop(temperature):
    query, key, negatives = rows(5, 4, 0), rows(5, 4, 1), rows(7, 4, 2)
    mask = rows(5, 7, 3) > 0
    total = 0.0
    for i in range(5):
        own = math.exp(cosine(query[i], key[i]) / temperature)
        others = sum(
            math.exp(cosine(query[i], negatives[j]) / temperature) for j in range(7) if mask[i, j]
        )
        total -= math.log(own / (own + others)) / 5
    loss = info_nce(query, key, negatives, mask=mask, temperature=temperature)
    assert loss.item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(
    ("m", "equal", "perfect"),
    [(12000, 9.3927, 8.3929), (12800, 9.4573, 8.4574), (16384, 9.7041, 8.7042)],
)
def test_info_nce_closed_forms(m, equal, perfect):
    ones = torch.ones(2, 3)
    assert info_nce(ones, ones, torch.ones(m, 3)).item() == pytest.approx(equal, abs=1e-4)
    first, second = torch.eye(3)[:1], torch.eye(3)[1:2]
    loss = info_nce(first, first, second.expand(m, 3))
    assert loss.item() == pytest.approx(perfect, abs=1e-4)
    assert loss.item() == pytest.approx(math.log(1 + m / math.e), abs=1e-4)


def test_info_nce_without_negatives_is_zero_with_a_finite_gradient():
    query = rows(3, 4).requires_grad_()
    none = torch.zeros(3, 6, dtype=torch.bool)
    loss = info_nce(query, rows(3, 4, 1), rows(6, 4, 2), mask=none)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(query.grad, torch.zeros_like(query))


def slow_set_contrast(r, s, past, temperature):
    """Every candidate of every cluster, written out."""
    k, total = len(r), 0.0
    for j in range(k):
        candidates = [cosine(r[j], s[i]) for i in range(k)]
        candidates += [cosine(r[j], r[i]) for i in range(k) if i != j]
        candidates += [cosine(r[j], block[i]) for block in past for i in range(k) if i != j]
        total += math.log(sum(math.exp(c / temperature) for c in candidates))
        total -= cosine(r[j], s[j]) / temperature
    return total / k


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize(("k", "q"), [(1, 0), (1, 3), (4, 0), (4, 3)])
def test_set_contrast_equals_the_loop_over_candidates(k, q, temperature):
    r, s, past = rows(k, 5, 0), rows(k, 5, 1), rows(q * k, 5, 2).view(q, k, 5)
    loss = set_contrast(r, s, past, temperature=temperature)
    expected = slow_set_contrast(r, s, past, temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def simplex(k):
    """Rows of norm one whose cosines are all -1 / (k - 1)."""
    centred = torch.eye(k, dtype=torch.float64) - 1 / k
    return centred / centred.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("k", "ideal", "collapsed"),
    [(10, 4.1924, 5.2933), (15, 4.6681, 5.7333), (20, 4.9897, 6.0379)],
)
def test_set_contrast_closed_forms(k, ideal, collapsed):
    r = simplex(k)
    assert set_contrast(r, r, r.expand(20, k, k)).item() == pytest.approx(ideal, abs=1e-4)
    formula = math.log(1 + 22 * (k - 1) * math.exp(-1 - 1 / (k - 1)))
    assert set_contrast(r, r, r.expand(20, k, k)).item() == pytest.approx(formula, abs=1e-9)
    ones = torch.ones(k, 3)
    assert set_contrast(ones, ones, ones.expand(20, k, 3)).item() == pytest.approx(
        collapsed, abs=1e-4
    )


def test_set_contrast_never_meets_a_clusters_own_past():
    """The past of cluster l is pulled on by every representation but that of l."""
    r = torch.eye(4, 5, dtype=torch.float64)
    past = torch.eye(5, dtype=torch.float64)[4].expand(3, 4, 5).clone().requires_grad_()
    set_contrast(r, r, past).backward()
    pull = past.grad[..., :4]
    assert torch.equal(pull == 0, torch.eye(4, dtype=torch.bool).expand(3, 4, 4))


def test_set_contrast_without_a_past_bounds_the_queue_free_sibling():
    """ProtoCL (ProPos) has the same positive, and only the negatives of one's own view."""
    r, s = rows(6, 5, 0), rows(6, 5, 1)
    sibling = 0.0
    for j in range(6):
        positive = math.exp(cosine(r[j], s[j]))
        others = sum(math.exp(cosine(r[j], r[i])) for i in range(6) if i != j)
        sibling -= math.log(positive / (positive + others)) / 6
    far = torch.zeros(6, 5, dtype=torch.float64)
    both = set_contrast(r, s, far[None][:0]).item()
    assert both > sibling
    excess = 0.0
    for j in range(6):
        positive = math.exp(cosine(r[j], s[j]))
        own = sum(math.exp(cosine(r[j], r[i])) for i in range(6) if i != j)
        other = sum(math.exp(cosine(r[j], s[i])) for i in range(6) if i != j)
        excess += math.log((positive + own + other) / (positive + own)) / 6
    assert both - sibling == pytest.approx(excess, abs=1e-12)


def test_set_representation_is_the_weighted_sum_and_knows_no_sizes():
    features, weights = rows(9, 4), assignments(9, 3, 1)
    r = set_representation(features, weights)
    for k in range(3):
        total = sum(weights[i, k] * features[i] for i in range(9))
        torch.testing.assert_close(r[k], total / total.norm())
    scaled = weights * torch.tensor([0.01, 1.0, 70.0], dtype=torch.float64)
    torch.testing.assert_close(set_representation(features, scaled), r)
    mean = set_representation(features, weights / weights.sum(dim=0))
    torch.testing.assert_close(mean, r)


def test_equal_assignments_make_all_sets_one():
    r = set_representation(rows(9, 4), torch.full((9, 3), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(r, r[:1].expand(3, 4))
    torch.testing.assert_close(set_representation(rows(9, 4), torch.zeros(9, 3).double()), 0 * r)


def test_heads_are_represented_one_by_one():
    features, weights = rows(9, 4), torch.stack([assignments(9, 3, i) for i in range(2)])
    both = set_representation(features, weights)
    assert both.shape == (2, 3, 4)
    for one, w in zip(both, weights, strict=True):
        torch.testing.assert_close(one, set_representation(features, w))


def test_clusters_may_be_renamed():
    order = torch.tensor([2, 0, 3, 1])
    r, s, past = rows(4, 5, 0), rows(4, 5, 1), rows(12, 5, 2).view(3, 4, 5)
    torch.testing.assert_close(
        set_contrast(r[order], s[order], past[:, order]), set_contrast(r, s, past)
    )
