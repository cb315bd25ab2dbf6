"""Clusterings of other packages on the same samples, each in a process with a time limit.

The packages are no requirements of this one; `make peers` installs them into an environment of
their own. All of them get what their documentation suggests for images, and no more.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.utils import Bunch

from skcc.experiments import records
from skcc.experiments.classical import pixels
from skcc.experiments.runs import commit, versions
from skcc.metrics import clustering_scores

_STUDY = "peers"
_WARM_UP = 500  # rows
_N_COMPONENTS = 50  # principal components for methods that suffer from many columns


# -- methods --------------------------------------------------------------------------------


def _k_means(X, n_clusters, random_state):
    return KMeans(n_clusters, n_init=10, random_state=random_state).fit_predict(X)


def _hdbscan(X, n_clusters, random_state):
    from hdbscan import HDBSCAN

    return HDBSCAN().fit_predict(_principal_components(X, random_state))


def _umap(X, random_state, n_components):
    """An embedding by the settings of UMAP's page on clustering."""
    from umap import UMAP

    return UMAP(
        n_neighbors=30, min_dist=0.0, n_components=n_components, random_state=random_state
    ).fit_transform(X)


def _umap_hdbscan(X, n_clusters, random_state):
    from hdbscan import HDBSCAN

    smallest = max(5, round(len(X) / 140))  # that page takes 500 of 70,000
    model = HDBSCAN(min_samples=10, min_cluster_size=smallest)
    return model.fit_predict(_umap(X, random_state, 2))


def _umap_k_means(X, n_clusters, random_state):
    return _k_means(_umap(X, random_state, 10), n_clusters, random_state)


def _evoc(X, n_clusters, random_state):
    from evoc import EVoC

    return EVoC(random_state=random_state).fit_predict(X)


def _clustpy(name, X, n_clusters, random_state):
    from clustpy import deep

    return getattr(deep, name)(n_clusters, random_state=random_state).fit_predict(X)


def _principal_components(X, random_state):
    n_components = min(_N_COMPONENTS, *X.shape)
    return PCA(n_components, random_state=random_state).fit_transform(X)


@dataclass(frozen=True)
class Peer:
    """A method of other packages.

    Parameters
    ----------
    function : callable
        From rows, the number of clusters (ignored by methods that find it) and the random state
        to labels; -1 is noise.

    packages : tuple of str
        Whose versions are recorded.

    is_compiled : bool, default=False
        Whether it compiles itself on its first call, which is then made before time is taken.
    """

    function: Callable[[np.ndarray, int, int], np.ndarray]
    packages: tuple[str, ...]
    is_compiled: bool = False


PEERS = {
    "k-means": Peer(_k_means, ("scikit-learn",)),
    "hdbscan": Peer(_hdbscan, ("hdbscan",)),
    "umap+hdbscan": Peer(_umap_hdbscan, ("umap-learn", "hdbscan"), is_compiled=True),
    "umap+k-means": Peer(_umap_k_means, ("umap-learn",), is_compiled=True),
    "evoc": Peer(_evoc, ("evoc",), is_compiled=True),
    **{
        f"clustpy-{name.lower()}": Peer(partial(_clustpy, name), ("clustpy",))
        for name in ("DEC", "IDEC", "DCN", "VaDE")
    },
}


# -- runs -----------------------------------------------------------------------------------


def compare(
    bunch: Bunch, names: Iterable[str], *, seeds: int, out, limit: float = 600.0, threads: int = 1
) -> Iterator[dict]:
    """Cluster a data set by other packages, one process per run.

    Parameters
    ----------
    bunch : Bunch
        A data set with classes, as returned by `skcc.datasets.load`; images of at most 32 pixels,
        larger ones are scaled down, or vectors.

    names : iterable of str
        Keys of `PEERS`.

    seeds : int
        Each method is run with the random states 0, 1, ..., seeds - 1.

    out : str or Path
        Folder of the results. Its file peers.jsonl gets a line per run; what is there already is
        not run again.

    limit : float, default=600.0
        Seconds after which a run is ended. Its record then has no scores.

    threads : int, default=1
        Threads of each run.

    Yields
    ------
    record : dict
        Like that of `skcc.experiments.runs.run`. Samples that a method calls noise count as
        errors for ``acc``, and as one cluster for ``nmi`` and ``ari``. ``failed`` says why there
        are no scores, if there are none. ``seconds`` are those of clustering, without the time in
        which a method compiles itself.

    Raises
    ------
    ValueError
        If a name is unknown, or the data set has no classes.
    """
    names = tuple(names)
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)}; there are {', '.join(sorted(PEERS))}")
    if bunch.target is None:
        raise ValueError(f"the data set {bunch.name} has no classes to compare with")
    path = Path(out) / "peers.jsonl"
    found = records.read(path) if path.exists() else []
    finished = {(r["dataset"], r["row"], r["parameters"]["random_state"], r["n"]) for r in found}
    X = bunch.images if np.ndim(bunch.images) == 2 else pixels(bunch.images)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "X.npy", np.asarray(X, np.float32))
        for seed in range(seeds):
            for name in names:
                if (bunch.name, name, seed, len(X)) in finished:
                    continue
                record = _run(bunch, name, seed, Path(folder), limit=limit, threads=threads)
                records.append(path, record)
                yield record


def _run(bunch, name, seed, folder, *, limit, threads):
    n_clusters = len(np.unique(bunch.target))
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
        str(threads),
    )
    command = [sys.executable, "-m", __name__, name, str(folder), str(n_clusters), str(seed)]
    failed, scores, clusters = None, dict.fromkeys(records.SCORES), 0
    started = time.perf_counter()
    with open(folder / "output", "w+") as output:
        try:
            subprocess.run(  # nosec B603 # this Python, without a shell
                command, timeout=limit, check=True, env=environment, stdout=output, stderr=output
            )
            seconds = json.loads((folder / "seconds.json").read_text())
        except subprocess.TimeoutExpired:
            seconds = time.perf_counter() - started
            failed = f"not finished within {limit:g} seconds"
        except subprocess.CalledProcessError:
            seconds = time.perf_counter() - started
            output.seek(0)
            failed = (output.read().strip().splitlines() or ["ended"])[-1]
        else:
            labels = np.load(folder / "labels.npy", allow_pickle=False)
            scores, clusters = _scores(bunch.target, labels), len(np.unique(labels[labels >= 0]))
    return {
        "study": _STUDY, "row": name, "method": name, "dataset": bunch.name,
        "parameters": {"n_clusters": n_clusters, "random_state": seed}, "n": len(bunch.target),
        **scores, "clusters": clusters, "kmeans": None, "seconds": round(seconds, 2),
        "image_forwards": 0, "device": "cpu", "threads": threads, "commit": commit(),
        "versions": versions() | {package: _version(package) for package in PEERS[name].packages},
        **({"failed": failed} if failed else {}),
    }  # fmt: skip


def _scores(target, labels):
    scores = clustering_scores(target, labels)
    known = labels >= 0
    if not known.all():  # noise is no cluster that could be matched with a class
        scores["acc"] = 0.0
        if known.any():
            scores["acc"] = clustering_scores(target[known], labels[known])["acc"] * known.mean()
    return scores


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cluster(name, folder, n_clusters, seed):
    """Cluster the rows in a folder, and leave labels and seconds there."""
    peer, X = PEERS[name], np.load(folder / "X.npy", allow_pickle=False)
    if peer.is_compiled:
        peer.function(X[:_WARM_UP], n_clusters, seed)
    started = time.perf_counter()
    labels = np.asarray(peer.function(X, n_clusters, seed))
    seconds = time.perf_counter() - started
    np.save(folder / "labels.npy", labels)
    (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    _, name, folder, n_clusters, seed = sys.argv
    _cluster(name, Path(folder), int(n_clusters), int(seed))
