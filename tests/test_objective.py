"""The parts that methods share."""

import copy

import pytest
import torch
from torch import nn

from skcc.methods.contrastive import ContrastiveObjective
from skcc.objective import Queue, Setup, momentum_update


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_a_queue_holds_the_newest_rows(size):
    queue = Queue(size, (2,), fill=-1.0)
    pushed = torch.full((size, 2), -1.0)
    for step in range(9):
        rows = 10.0 * step + torch.arange(2 * (1 + step % 4)).view(-1, 2)
        queue.push(rows)
        pushed = torch.cat([pushed, rows])
        held = sorted(map(tuple, queue.rows.tolist()))
        assert held == sorted(map(tuple, pushed[-size:].tolist()))


def test_two_queues_of_one_length_stay_aligned():
    rows, names = Queue(7, (3,)), Queue(7, dtype=torch.long, fill=-1)
    for start in range(0, 50, 5):
        index = torch.arange(start, start + 5)
        rows.push(index[:, None].expand(5, 3).float())
        names.push(index)
        assert torch.equal(rows.rows[:, 0].long() * (names.rows >= 0), names.rows.clamp_min(0))


def test_an_empty_queue_stays_empty():
    queue = Queue(0, (2,))
    queue.push(torch.ones(3, 2))
    assert queue.rows.shape == (0, 2)


def test_a_queue_keeps_no_graph_and_is_a_state():
    queue, rows = Queue(4, (2,)), torch.ones(3, 2, requires_grad=True)
    queue.push(rows * 2)
    assert not queue.rows.requires_grad
    other = Queue(4, (2,))
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.push(torch.zeros(2, 2))
    assert torch.equal(queue.rows, other.rows)
    assert queue.rows.tolist() == [[0, 0], [2, 2], [2, 2], [0, 0]]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_moving_average_is_the_formula_and_leaves_buffers(momentum):
    leader = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    follower = copy.deepcopy(leader).requires_grad_(False)
    with torch.no_grad():
        for parameter in leader.parameters():
            parameter.add_(torch.randn_like(parameter))
    leader(torch.randn(8, 3))  # its statistics move
    before = copy.deepcopy(follower)
    momentum_update(follower, leader, momentum)
    trios = zip(follower.parameters(), before.parameters(), leader.parameters(), strict=True)
    for new, old, led in trios:
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * led)
        assert not new.requires_grad
    for new, old in zip(follower.buffers(), before.buffers(), strict=True):
        assert torch.equal(new, old)


@pytest.mark.parametrize(("n_heads", "n_hidden"), [(1, 6), (2, 3), (5, 3)])
def test_one_cluster_head_is_that_of_the_paper_and_several_are_narrower(n_heads, n_hidden):
    objective = ContrastiveObjective(
        Setup(nn.Identity(), 6, (6,), 8), 4, projection_dim=5, n_heads=n_heads,
        instance_temperature=0.5, cluster_temperature=1.0, instance_weight=1.0,
        cluster_weight=1.0, entropy_weight=1.0,
    )  # fmt: skip
    shapes = [[tuple(p.shape) for p in head.parameters()] for head in objective.cluster_heads]
    assert shapes == [[(n_hidden, 6), (n_hidden,), (4, n_hidden), (4,)]] * n_heads
