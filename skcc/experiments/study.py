"""The qualitative study of Contrastive Clustering (Li et al., AAAI 2021, figures 3 and 4).

One training run is evaluated after each epoch, and the results are kept in a folder. The figures
are drawn from that folder alone.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skcc.ambient import default_torch_state
from skcc.atomic import atomic_write
from skcc.datasets import take
from skcc.experiments import records
from skcc.experiments.recipes import make_estimator
from skcc.experiments.runs import commit, no_partial_result, versions
from skcc.metrics import clustering_scores
from skcc.plotting import EmbeddingDisplay, SimilarityDisplay
from skcc.similarity import similarity_of

MAX_SAMPLES = 2000  # in a snapshot
SNAPSHOT_SHARES = (0.0, 0.1, 0.25, 1.0)  # of training; the first is after one epoch


# -- training -------------------------------------------------------------------------------


class _Observer:
    """A callback that saves similarities and scores after each epoch, and features after some."""

    def __init__(self, folder, bunch, snapshot_epochs):
        self.folder, self.bunch, self.snapshot_epochs = folder, bunch, snapshot_epochs
        order = np.random.default_rng(0).permutation(len(bunch.images))
        self.samples = np.sort(order[:MAX_SAMPLES])

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if context.task_name != "epoch":
            return
        epoch, max_epochs = fitted_estimator.n_iter_, estimator.settings_["max_epochs"]
        record = {
            "epoch": epoch,
            **clustering_scores(self.bunch.target, fitted_estimator.labels_),
            "similarity": similarity_of(fitted_estimator, X, random_state=0),
        }
        if epoch in (self.snapshot_epochs or default_snapshot_epochs(max_epochs)):
            self._save_features(fitted_estimator, X, epoch)
        records.append(self.folder / "epochs.jsonl", record)

    @default_torch_state()
    def _save_features(self, model, X, epoch):
        store, fitted = model._read_fitted(take(X, self.samples)), model._fitted_model()
        features = fitted.sweep(store, fitted.objective.project)
        with atomic_write(self.folder / f"epoch-{epoch:05}.npz") as file:
            np.savez_compressed(file, features=features, labels=model.labels_[self.samples])


def default_snapshot_epochs(max_epochs: int) -> list[int]:
    """Return the epochs after which features are saved by default.

    Parameters
    ----------
    max_epochs : int
        Epochs of the training run.

    Returns
    -------
    epochs : list of int
        The first one, those after a tenth and a quarter of training, and the last one.
    """
    return sorted({max(1, round(share * max_epochs)) for share in SNAPSHOT_SHARES})


def observe(
    bunch: Bunch,
    folder,
    *,
    method: str = "contrastive",
    parameters: dict,
    snapshot_epochs: tuple[int, ...] = (),
) -> dict:
    """Train once, and save similarities, scores and features in a folder.

    An interrupted training run is resumed; a finished one is not run again.

    Parameters
    ----------
    bunch : Bunch
        A data set as returned by `skcc.datasets.load`.

    folder : str or Path
        Folder of the study. ``epochs.jsonl`` has similarities and scores of each epoch,
        ``epoch-N.npz`` features and labels.

    method : str, default="contrastive"
        A key of `skcc.methods.METHODS`.

    parameters : dict of str to object
        Parameters of the estimator.

    snapshot_epochs : tuple of int, default=()
        Epochs, counted from 1, after which features are saved; none stands for those of
        `default_snapshot_epochs`.

    Returns
    -------
    study : dict
        What was trained, and the final scores.

    Raises
    ------
    ValueError
        If the folder holds another study.

    ImportError
        If scikit-learn has no callbacks, as before 1.9.
    """
    folder = Path(folder)
    file = folder / "study.json"
    identity = {"method": method, "dataset": bunch.name, "n": len(bunch.images),
                "parameters": parameters, "moments": list(snapshot_epochs)}  # fmt: skip
    stored = json.loads(file.read_text()) if file.exists() else {}
    if stored:
        _check_same_study(stored, identity, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if stored.get("epochs"):
        return stored
    _write_json(file, identity)
    model = make_estimator(method, parameters | {"checkpoint_dir": folder / "checkpoint"})
    model.set_callbacks(_Observer(folder, bunch, snapshot_epochs))
    with no_partial_result():
        model.fit(bunch.images, unlabeled=bunch.unlabeled)
    study = identity | {
        "epochs": model.n_iter_, **clustering_scores(bunch.target, model.labels_),
        "settings": model.settings_, "commit": commit(), "versions": versions(),
    }  # fmt: skip
    _write_json(file, study)
    return study


def _check_same_study(stored, identity, folder):
    differing = [name for name in identity if stored.get(name) != identity[name]]
    if differing:
        raise ValueError(
            f"{folder} holds another study: "
            + "; ".join(f"{n} was {stored.get(n)!r}, is {identity[n]!r}" for n in differing)
        )


def _write_json(path, content):
    with atomic_write(path) as file:
        file.write(json.dumps(content).encode())


# -- figures --------------------------------------------------------------------------------


def draw_similarity(folder):
    """Draw figure 3 of the paper: four kinds of similarities over the epochs.

    Parameters
    ----------
    folder : str or Path
        Folder of a study that `observe` made.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Curves, each with a band of one standard deviation.
    """
    epochs = _read_epochs(folder)
    display = SimilarityDisplay(
        similarity=[record["similarity"] for record in epochs],
        epochs=[record["epoch"] for record in epochs],
    )
    return display.plot().figure_


def draw_evolution(folder):
    """Draw figure 4 of the paper: t-SNE of the instances during training, coloured by cluster.

    Parameters
    ----------
    folder : str or Path
        Folder of a study that `observe` made.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One panel per snapshot, with the NMI of all labels.
    """
    import matplotlib.pyplot as plt

    nmi = {record["epoch"]: record["nmi"] for record in _read_epochs(folder)}
    files = sorted(Path(folder).glob("epoch-*.npz"))
    size = 3.2 * len(files), 3.6
    figure, axes = plt.subplots(1, len(files), figsize=size, layout="constrained", squeeze=False)
    for ax, path in zip(axes[0], files, strict=True):
        epoch = int(path.stem.removeprefix("epoch-"))
        with np.load(path, allow_pickle=False) as snapshot:
            EmbeddingDisplay.from_predictions(
                snapshot["features"], snapshot["labels"], method="tsne", random_state=0, ax=ax
            )
        score = "" if nmi[epoch] is None else f", NMI {nmi[epoch]:.3f}"
        ax.set_title(f"epoch {epoch}{score}")
    return figure


def _read_epochs(folder):
    """Return one record per epoch; repeated epochs, after a crash, are identical."""
    by_epoch = {record["epoch"]: record for record in records.read(Path(folder) / "epochs.jsonl")}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
