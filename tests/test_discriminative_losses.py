"""Losses of the discriminative baselines: loops over pairs, closed forms, symmetries, gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from skcc.losses import (
    association,
    jensen_shannon,
    negative_entropy,
    negative_mutual_information,
    pair_cross_entropy,
    pair_squared_error,
    partition_confidence,
)

K, N = 4, 10


def rows(n, d, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, dtype=torch.float64, generator=generator)


def assignments(n, k, seed=0, sharpness=2.0):
    return F.softmax(rows(n, k, seed, sharpness), dim=1)


def balanced(k, copies=3):
    return torch.eye(k, dtype=torch.float64).repeat(copies, 1)


def collapsed(k, n=12):
    return F.one_hot(torch.zeros(n, dtype=torch.long), k).double()


# -- mutual information ---------------------------------------------------------------------


def slow_information(p, q, weight):
    """Equation 3 of the paper over all pairs of clusters, by a loop over the images."""
    n, k = p.shape
    joint = [[0.0] * k for _ in range(k)]
    for c in range(k):
        for d in range(k):
            for i in range(n):
                joint[c][d] += float(p[i, c] * q[i, d] + p[i, d] * q[i, c]) / (2 * n)
    total = 0.0
    for c in range(k):
        for d in range(k):
            first, second = sum(joint[c]), sum(row[d] for row in joint)
            total -= joint[c][d] * math.log(joint[c][d] / (first**weight * second**weight))
    return total


@pytest.mark.parametrize("weight", [1.0, 1.5])
def test_mutual_information_equals_the_loop(weight):
    p, q = assignments(N, K, 0), assignments(N, K, 1)
    loss = negative_mutual_information(p, q, marginal_weight=weight).item()
    assert loss == pytest.approx(slow_information(p, q, weight), abs=1e-6)


def test_mutual_information_is_that_of_scikit_learn():
    from sklearn.metrics import mutual_info_score

    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(K, (2, 40), generator=generator)
    both = torch.cat([first, second]), torch.cat([second, first])  # the loss is symmetric
    expected = -mutual_info_score(*(labels.numpy() for labels in both))
    one_hot = [F.one_hot(labels, K).double() for labels in (first, second)]
    assert negative_mutual_information(*one_hot).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [2, 10])
def test_mutual_information_closed_forms(k):
    assert negative_mutual_information(balanced(k), balanced(k)).item() == pytest.approx(
        -math.log(k), abs=1e-6
    )
    for useless in (torch.full((12, k), 1 / k).double(), collapsed(k)):
        assert negative_mutual_information(useless, useless).item() == pytest.approx(0, abs=1e-5)


def test_mutual_information_stays_within_its_bounds():
    for seed in range(20):
        p, q = assignments(9, 5, seed, 8.0), assignments(9, 5, seed + 50, 8.0)
        assert -math.log(5) <= negative_mutual_information(p, q).item() <= 1e-6


# -- partition confidence -------------------------------------------------------------------


def slow_confidence(p, q):
    k, total = p.shape[1], 0.0
    for j in range(k):
        cosines = [float(p[:, j] @ q[:, c] / (p[:, j].norm() * q[:, c].norm())) for c in range(k)]
        total += math.log(sum(map(math.exp, cosines))) - cosines[j]
    return total / k


def test_partition_confidence_equals_the_loop():
    p, q = assignments(N, K, 0), assignments(N, K, 1)
    assert partition_confidence(p, q).item() == pytest.approx(slow_confidence(p, q), abs=1e-12)


@pytest.mark.parametrize(("k", "floor"), [(2, 0.313), (10, 1.461), (70, 3.273)])
def test_partition_confidence_closed_forms(k, floor):
    least = partition_confidence(balanced(k), balanced(k)).item()
    assert least == pytest.approx(math.log(math.e + k - 1) - 1, abs=1e-12)
    assert least == pytest.approx(floor, abs=6e-4)
    for alike in (torch.full((12, k), 1 / k).double(), collapsed(k)):
        expected = math.log(k) if alike[0, 0] < 1 else (least + (k - 1) * math.log(k)) / k
        assert partition_confidence(alike, alike).item() == pytest.approx(expected, abs=1e-9)


def test_collapse_costs_twice_the_entropy_in_pica():
    total = partition_confidence(collapsed(10), collapsed(10)) + 2 * negative_entropy(collapsed(10))
    assert total.item() > math.log(10) + 2 * math.log(10) - 0.1


# -- random walks ---------------------------------------------------------------------------


def slow_association(a, b, groups):
    n, m = len(a), len(b)
    there = [[math.exp(float(a[i] @ b[j])) for j in range(m)] for i in range(n)]
    back = [[there[i][j] / sum(there[x][j] for x in range(n)) for i in range(n)] for j in range(m)]
    there = [[value / sum(row) for value in row] for row in there]
    walker = 0.0
    for i in range(n):
        members = [j for j in range(n) if groups[j] == groups[i]]
        for j in members:
            end = sum(there[i][x] * back[x][j] for x in range(m))
            walker -= math.log(end) / len(members) / n
    shares = [sum(there[i][j] for i in range(n)) / n for j in range(m)]
    return walker, -sum(map(math.log, shares)) / m


def test_association_equals_the_loop():
    a, b, groups = rows(6, 3, 0), rows(8, 3, 1), torch.tensor([0, 0, 1, 1, 1, 2])
    losses = association(a, b, groups)
    for loss, expected in zip(losses, slow_association(a, b, groups.tolist()), strict=True):
        assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("copies", [1, 4])
def test_association_has_floors_and_comes_to_them(copies):
    groups = torch.arange(5).repeat_interleave(copies)
    for seed in range(5):
        walker, visit = association(rows(5 * copies, 3, seed), rows(9, 3, seed + 9), groups)
        assert walker >= math.log(copies) - 1e-6
        assert visit >= math.log(9) - 1e-6
    apart = 30 * torch.eye(5, dtype=torch.float64)
    walker, visit = association(apart.repeat_interleave(copies, dim=0), apart, groups)
    assert walker.item() == pytest.approx(math.log(copies), abs=1e-6)
    assert visit.item() == pytest.approx(math.log(5), abs=1e-6)


def test_rows_that_are_never_visited_cost_much():
    apart = 30 * torch.eye(5, dtype=torch.float64)
    _, visit = association(apart[:2], apart, torch.arange(2))
    assert visit > 2 * math.log(5)


# -- pairs ----------------------------------------------------------------------------------


def test_losses_of_pairs_equal_the_loop():
    similarity = torch.sigmoid(rows(7, 7))
    similar, weight = (rows(7, 7, 1) > 0).double(), rows(7, 7, 2).clamp_min(0)
    entropy = error = total = 0.0
    for i in range(7):
        for j in range(7):
            s, w = float(similarity[i, j]), float(weight[i, j])
            entropy -= w * math.log(s if similar[i, j] else 1 - s)
            error += w * (s - float(similar[i, j])) ** 2
            total += w
    assert 0 < (weight == 0).sum() < 49
    loss = pair_cross_entropy(similarity, similar, weight)
    assert loss.item() == pytest.approx(entropy / total, abs=1e-6)
    loss = pair_squared_error(similarity, similar, weight)
    assert loss.item() == pytest.approx(error / total, abs=1e-12)


def test_without_pairs_there_is_no_loss():
    similarity = torch.sigmoid(rows(5, 5)).requires_grad_()
    zeros = torch.zeros(5, 5, dtype=torch.float64)
    for loss in (pair_cross_entropy, pair_squared_error):
        value = loss(similarity, zeros, zeros)
        value.backward()
        assert value.item() == 0
        assert torch.equal(similarity.grad, zeros)


def test_one_cluster_for_all_is_a_zero_of_the_pairwise_loss():
    """The hazard that the batch normalisation of the heads, or a constraint, has to avert."""
    features = F.normalize(collapsed(K), dim=1)
    ones = torch.ones(12, 12, dtype=torch.float64)
    assert pair_cross_entropy(features @ features.T, ones, ones).item() < 1e-5
    assert pair_squared_error(features @ features.T, ones, ones).item() == 0


def test_jensen_shannon_is_the_cross_entropy_of_telling_pairs_apart():
    positive, negative = rows(9, 3, 0), rows(9, 3, 1)
    expected = sum(
        F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))
        for scores, label in ((positive, 1.0), (negative, 0.0))
    )
    assert jensen_shannon(positive, negative).item() == pytest.approx(expected.item(), abs=1e-12)
    zeros = torch.zeros(5)
    assert jensen_shannon(zeros, zeros).item() == pytest.approx(2 * math.log(2), abs=1e-6)


# -- all ------------------------------------------------------------------------------------

OF_TWO_VIEWS = [negative_mutual_information, partition_confidence]


@pytest.mark.parametrize("loss", OF_TWO_VIEWS)
def test_names_of_clusters_and_order_of_images_do_not_count(loss):
    p, q = assignments(N, K, 0), assignments(N, K, 1)
    clusters, images = torch.tensor([2, 0, 3, 1]), torch.randperm(N)
    value = loss(p, q).item()
    assert loss(p[:, clusters], q[:, clusters]).item() == pytest.approx(value, abs=1e-12)
    assert loss(p[images], q[images]).item() == pytest.approx(value, abs=1e-12)
    assert loss(p[:, clusters], q).item() != pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("loss", [*OF_TWO_VIEWS, lambda p, q: negative_entropy(p)])
def test_heads_are_independent(loss):
    p = torch.stack([assignments(N, K, seed) for seed in range(3)])
    q = torch.stack([assignments(N, K, seed + 9) for seed in range(3)])
    together = loss(p, q)
    assert together.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(together[i], loss(p[i], q[i]))


def test_gradients_are_right():
    p, q = (assignments(5, 3, seed).requires_grad_() for seed in (0, 1))
    for loss in OF_TWO_VIEWS:
        assert torch.autograd.gradcheck(loss, (p, q))
    a, b = (rows(4, 3, seed).requires_grad_() for seed in (0, 1))
    groups = torch.tensor([0, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda a, b: association(a, b, groups), (a, b))
    similarity = torch.sigmoid(rows(4, 4)).requires_grad_()
    similar, weight = (rows(4, 4, 1) > 0).double(), (rows(4, 4, 2) > -1).double()
    for loss in (pair_cross_entropy, pair_squared_error):
        assert torch.autograd.gradcheck(lambda s, f=loss: f(s, similar, weight), similarity)
    assert torch.autograd.gradcheck(jensen_shannon, (a, b))


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_saturated_assignments_have_finite_losses_and_gradients(scale):
    logits = rows(8, 4, scale=scale).float().requires_grad_()
    p = F.softmax(logits, dim=1)
    features = F.normalize(p, dim=1)
    similar = (features @ features.T > 0.9).float().detach()
    loss = negative_mutual_information(p, p.roll(1, 0)) + partition_confidence(p, p.roll(1, 0))
    loss = loss + pair_cross_entropy(features @ features.T, 1 - similar, torch.ones(8, 8))
    loss = loss + sum(association(logits, logits.roll(1, 0), torch.arange(8)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_losses_stay_in_full_precision_under_autocast():
    p, q = assignments(32, K, 0).float(), assignments(32, K, 1).float()
    calls = [
        lambda: negative_mutual_information(p, q),
        lambda: partition_confidence(p, q),
        lambda: association(p, q, torch.arange(32))[0],
        lambda: pair_cross_entropy(p, q.round(), torch.ones(32, K)),
        lambda: pair_squared_error(p, q.round(), torch.ones(32, K)),
        lambda: jensen_shannon(p, q),
    ]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            assert call().dtype == torch.float32
            assert call().item() == expected.item()
