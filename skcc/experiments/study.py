"""The qualitative study of Contrastive Clustering (Li et al., AAAI 2021, figures 3 and 4).

One training is looked at after each epoch. What is seen is kept in a folder, and figures are drawn
from that folder alone.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skcc.atomic import atomic_write
from skcc.datasets import take
from skcc.experiments import records
from skcc.experiments.recipes import make_estimator
from skcc.experiments.runs import commit, no_partial_result, versions
from skcc.metrics import clustering_scores
from skcc.plotting import EmbeddingDisplay, SimilarityDisplay
from skcc.similarity import similarity_of

MAPPED = 2000  # most samples whose features are kept
MOMENTS = (0.0, 0.1, 0.25, 1.0)  # of training, at which they are; the first is after one epoch


class _Observer:
    """A callback that keeps similarities after each epoch, and features at some."""

    def __init__(self, folder, bunch, moments):
        self.folder, self.bunch, self.moments = folder, bunch, moments
        n = len(bunch.images)
        self.shown = np.sort(np.random.default_rng(0).permutation(n)[:MAPPED])

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if context.task_name != "epoch":
            return
        epoch, epochs = fitted_estimator.n_iter_, estimator.settings_["max_epochs"]
        seen = {
            "epoch": epoch,
            **clustering_scores(self.bunch.target, fitted_estimator.labels_),
            "similarity": similarity_of(fitted_estimator, X, random_state=0),
        }
        if epoch in (self.moments or moments_of(epochs)):
            self._keep_features(fitted_estimator, X, epoch)
        records.append(self.folder / "epochs.jsonl", seen)

    def _keep_features(self, model, X, epoch):
        store, fitted = model._read_fitted(take(X, self.shown)), model._fitted_model()
        features = fitted.sweep(store, fitted.objective.project)
        with atomic_write(self.folder / f"epoch-{epoch:05}.npz") as file:
            np.savez_compressed(file, features=features, labels=model.labels_[self.shown])


def moments_of(epochs: int) -> list[int]:
    """Epochs at which features are kept, where none are asked for.

    Parameters
    ----------
    epochs : int
        Of the training.

    Returns
    -------
    moments : list of int
        The first, those after a tenth and a quarter, and the last.
    """
    return sorted({max(1, round(share * epochs)) for share in MOMENTS})


def observe(
    bunch: Bunch,
    folder,
    *,
    method: str = "contrastive",
    parameters: dict,
    moments: tuple[int, ...] = (),
) -> dict:
    """Train once, and keep what is seen; what was seen already is not trained again.

    Parameters
    ----------
    bunch : Bunch
        A data set as `skcc.datasets.load` gives it.

    folder : str or Path
        Where it is kept: ``epochs.jsonl`` has similarities and scores of each epoch,
        ``epoch-N.npz`` features and labels. A training that was cut off goes on.

    method : str, default="contrastive"
        A key of `skcc.benchmark.METHODS`.

    parameters : dict of str to object
        Of the estimator.

    moments : tuple of int, default=()
        Epochs, counted from 1, at which features are kept; none are those of `moments_of`.

    Returns
    -------
    study : dict
        What was trained.

    Raises
    ------
    ValueError
        If the folder holds another study.

    ImportError
        If scikit-learn has no callbacks, as before 1.9.
    """
    folder = Path(folder)
    asked = {"method": method, "dataset": bunch.name, "n": len(bunch.images),
             "parameters": parameters, "moments": list(moments)}  # fmt: skip
    kept = folder / "study.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    differing = [name for name in asked if done and done.get(name) != asked[name]]
    if differing:
        raise ValueError(
            f"{folder} holds another study: "
            + "; ".join(f"{name} was {done.get(name)!r}, is {asked[name]!r}" for name in differing)
        )
    folder.mkdir(parents=True, exist_ok=True)
    if done.get("epochs"):
        return done
    with atomic_write(kept) as file:
        file.write(json.dumps(asked).encode())
    model = make_estimator(method, parameters | {"checkpoint_dir": folder / "checkpoint"})
    model.set_callbacks(_Observer(folder, bunch, moments))
    with no_partial_result():
        model.fit(bunch.images, unlabeled=bunch.unlabeled)
    study = asked | {
        "epochs": model.n_iter_, **clustering_scores(bunch.target, model.labels_),
        "settings": model.settings_, "commit": commit(), "versions": versions(),
    }  # fmt: skip
    with atomic_write(kept) as file:
        file.write(json.dumps(study).encode())
    return study


def _epochs(folder):
    """What was seen at each epoch; an epoch that was trained twice was the same twice."""
    seen = {at["epoch"]: at for at in records.read(Path(folder) / "epochs.jsonl")}
    return [seen[epoch] for epoch in sorted(seen)]


def draw_similarity(folder):
    """Figure 3 of the paper: four kinds of similarities over the epochs.

    Parameters
    ----------
    folder : str or Path
        What `observe` made.

    Returns
    -------
    figure : matplotlib.figure.Figure
        With a band of one standard deviation about each curve.
    """
    seen = _epochs(folder)
    display = SimilarityDisplay(
        similarity=[at["similarity"] for at in seen], epochs=[at["epoch"] for at in seen]
    )
    return display.plot().figure_


def draw_evolution(folder):
    """Figure 4 of the paper: t-SNE of the instances at some moments, coloured by assignment.

    Parameters
    ----------
    folder : str or Path
        What `observe` made.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A panel for each moment, with the agreement of all labels and classes.
    """
    import matplotlib.pyplot as plt

    seen = {at["epoch"]: at for at in _epochs(folder)}
    files = sorted(Path(folder).glob("epoch-*.npz"))
    size = 3.2 * len(files), 3.6
    figure, axes = plt.subplots(1, len(files), figsize=size, layout="constrained", squeeze=False)
    for ax, path in zip(axes[0], files, strict=True):
        epoch = int(path.stem.removeprefix("epoch-"))
        with np.load(path, allow_pickle=False) as kept:
            EmbeddingDisplay.from_predictions(
                kept["features"], kept["labels"], method="tsne", random_state=0, ax=ax
            )
        nmi = seen[epoch]["nmi"]
        ax.set_title(f"epoch {epoch}" + (f", NMI {nmi:.3f}" if nmi is not None else ""))
    return figure
