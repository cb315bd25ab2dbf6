"""The choice among partitions, without labels."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from skcc.readouts.graph import neighbor_graph
from skcc.readouts.information import contingency, refine, score

# Weights c of the entropy of sizes, see `skcc.readouts.information`.
_OVERLAPPING, _SEPARATE, _NO_STRUCTURE = 0.75, 0.65, 1.0
_SEPARATE_PURITY = 0.96  # share of neighbours in one cluster above which clusters hardly touch
_HEAD_BONUS = 0.02  # of the largest possible score, unless clusters overlap
_TIE = 0.01  # of the largest possible score
_VOTES_OF_BEST = 1.5


@dataclass(frozen=True)
class Choice:
    """The partition that tells most about neighbours.

    Parameters
    ----------
    labels : ndarray of shape (n,) and dtype int64
        Clusters after the vote.

    name : str
        Candidate of largest score.

    scores : dict of str to float
        Score of each refined candidate, in nats; for one value of c.

    c : float
        Weight of the entropy of sizes.

    agreement : float
        Mean share of samples, over the other refined candidates, whose cluster is that of `labels`
        after clusters are matched; 1 if there was one candidate.

    is_separate : bool
        Whether clusters hardly touch.
    """

    labels: np.ndarray
    name: str
    scores: dict[str, float]
    c: float
    agreement: float
    is_separate: bool


def choose(candidates: dict[str, np.ndarray], neighbors: np.ndarray, n_clusters: int) -> Choice:
    """Refine all candidates, and let the best of them vote.

    Where clusters hardly touch, sizes count less and fewer neighbours are asked, since there an
    equal division of the samples is the likelier error, and one that a network's own clusters do
    not make, so these win near ties. Where clusters overlap, more neighbours average out what each
    has wrong, and all candidates compete alike.

    Parameters
    ----------
    candidates : dict of str to ndarray of shape (n,)
        Partitions by name. That with the name "head" is the network's own.

    neighbors : ndarray of shape (n, k)
        Indices of the nearest neighbours of each row, nearest first.

    n_clusters : int
        Number of clusters.

    Returns
    -------
    choice : Choice
        Labels, scores and what they were found with.
    """
    if n_clusters == 1:
        name, labels = next(iter(candidates.items()))
        return Choice(labels, name, dict.fromkeys(candidates, 0.0), _OVERLAPPING, 1.0, True)
    k, c = neighbors.shape[1], _OVERLAPPING
    graph = neighbor_graph(neighbors)
    refined = _refine_all(candidates, graph, n_clusters, c)
    best, best_score = max(refined.values(), key=lambda pair: pair[1])
    purity = np.trace(contingency(best, graph, n_clusters))
    is_separate = best_score > 0 and purity >= _SEPARATE_PURITY
    if is_separate:
        c, graph = _SEPARATE, neighbor_graph(neighbors[:, : min(k, max(3, k // 2))])
    elif best_score <= 0:
        c = _NO_STRUCTURE  # smaller c would prefer one cluster
    if c != _OVERLAPPING:
        refined = _refine_all(candidates, graph, n_clusters, c)
    scores = {name: J for name, (_, J) in refined.items()}
    labels, name, agreement = _vote_of_best(refined, scores, c, n_clusters)
    return Choice(labels, name, scores, c, agreement, bool(is_separate))


def choose_unrefined(
    candidates: dict[str, np.ndarray], neighbors: np.ndarray, n_clusters: int
) -> Choice:
    """Take the candidate of largest mutual information; of few samples neighbours say too little.

    Parameters
    ----------
    candidates : dict of str to ndarray of shape (n,)
        As in `choose`.

    neighbors : ndarray of shape (n, k)
        As in `choose`.

    n_clusters : int
        Number of clusters.

    Returns
    -------
    choice : Choice
        One of the candidates as it is.
    """
    graph = neighbor_graph(neighbors)
    scores = {name: score(contingency(v, graph, n_clusters), 1) for name, v in candidates.items()}
    ranked = _with_bonus(scores, np.log(n_clusters))
    name = max(ranked, key=ranked.get)
    return Choice(candidates[name], name, scores, _NO_STRUCTURE, 1.0, is_separate=True)


def _refine_all(candidates, graph: sparse.csr_array, n_clusters, c):
    return {name: refine(labels, graph, n_clusters, c) for name, labels in candidates.items()}


def _vote_of_best(refined, scores, c, n_clusters):
    largest_possible = (2 * c - 1) * np.log(n_clusters)
    ranked = scores if c == _OVERLAPPING else _with_bonus(scores, largest_possible)
    name = max(ranked, key=ranked.get)
    tied = [v for v in ranked if v != name and ranked[v] >= ranked[name] - _TIE * largest_possible]
    labels = vote(refined[name][0], [refined[v][0] for v in tied], n_clusters)
    others = [
        match_clusters(partition, labels, n_clusters)
        for other, (partition, _) in refined.items()
        if other != name
    ]
    agreement = np.mean([(partition == labels).mean() for partition in others]) if others else 1.0
    return labels, name, float(agreement)


def _with_bonus(scores, largest_possible):
    bonus = _HEAD_BONUS * largest_possible
    return {name: J + bonus * (name == "head") for name, J in scores.items()}


def vote(best: np.ndarray, others: list[np.ndarray], n_clusters: int) -> np.ndarray:
    """Take the majority of partitions, after their clusters are matched to those of the best.

    Parameters
    ----------
    best : ndarray of shape (n,)
        Has one and a half votes.

    others : list of ndarray of shape (n,)
        Have one vote each.

    n_clusters : int
        Number of clusters.

    Returns
    -------
    labels : ndarray of shape (n,)
        `best` if the majority would leave one of its clusters empty.
    """
    aligned = [match_clusters(labels, best, n_clusters) for labels in others]
    rows = np.arange(len(best))
    votes = np.zeros((len(best), n_clusters), np.float32)
    votes[rows, best] = _VOTES_OF_BEST
    for labels in aligned:
        votes[rows, labels] += 1
    winner = votes.argmax(axis=1)
    return winner if len(np.unique(winner)) >= len(np.unique(best)) else best


def match_clusters(labels: np.ndarray, reference: np.ndarray, n_clusters: int) -> np.ndarray:
    """Rename clusters so that as many samples as possible have the label of the reference.

    Parameters
    ----------
    labels, reference : ndarray of shape (n,)
        From 0 to ``n_clusters - 1``.

    n_clusters : int
        Number of clusters.

    Returns
    -------
    renamed : ndarray of shape (n,)
        By the Hungarian algorithm.
    """
    both = np.bincount(reference * n_clusters + labels, minlength=n_clusters**2)
    rows, columns = linear_sum_assignment(both.reshape(n_clusters, n_clusters), maximize=True)
    new_name = np.empty(n_clusters, labels.dtype)
    new_name[columns] = rows
    return new_name[labels]
