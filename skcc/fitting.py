"""What estimators do around training: read X, compare processes, build networks, warn."""

import contextlib
import copy
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import nn

from skcc import data, distributed
from skcc.augment import AUGMENTATIONS, CallableAugmentation, Views
from skcc.backbones import BACKBONES
from skcc.callbacks import announce
from skcc.exceptions import warn
from skcc.inference import FittedModel, has_assign, warn_about_invalid
from skcc.objective import Objective, Setup
from skcc.persistence import plain_value
from skcc.readouts import read_out
from skcc.training import phases, settings
from skcc.training.checkpoint import fingerprint

FILES_CHECKED_EARLY = 1000  # more would take long on a remote file system
COLLAPSED = 0.9  # a cluster with this share of the samples is warned about
DISAGREEMENT = 0.6  # a mean agreement of partitions below this is warned about
_OF_READOUT = ("_classifier", "_variance", "cluster_centers_", "readout_scores_", "agreement_")
_USED_WITHOUT_TRAINING = settings.RUNTIME_PARAMETERS | {
    "augment", "backbone", "image_shape", "max_epochs", "n_clusters", "random_state", "readout",
}  # fmt: skip


def read_samples(
    estimator, X, *, known: data.Format | None = None, device: torch.device | None = None
) -> tuple[data.SampleStore, data.Format]:
    """Read X into a store, with scikit-learn's checks of tables and feature names."""
    source = X if isinstance(X, data.Input) else data.resolve(X)
    is_table, is_column = source.kind == "table", source.kind == "path column"
    if is_table and known is not None and known.is_image:
        _check_is_batch(source.value, known.shape)
    if is_table:
        finite = estimator.on_error == "raise"  # else rows of NaN stand for unreadable images
        checked = validate_data(
            estimator, source.value, reset=known is None, dtype=None, ensure_all_finite=finite
        )
        source = dataclasses.replace(source, value=checked)
    elif is_column:  # frames have feature names
        validate_data(estimator, source.table, reset=known is None, skip_check_array=True)

    def stored_side(short):
        view = estimator.image_size or settings.image_side(short, device)
        return settings.stored_side(short, view)

    store, fmt = data.read(
        source,
        image_shape=estimator.image_shape,
        side=stored_side,
        known=known,
        n_jobs=estimator.n_jobs,
        cache_dir=estimator.cache_dir,
        on_error=estimator.on_error,
    )
    if known is None and not is_table:
        is_files = is_column or source.kind == "files"
        estimator.n_features_in_ = 1 if is_files else fmt.n_features
    return store, fmt


def _check_is_batch(X, shape):
    """Reject one gray image where several are wanted; it would be taken for a table."""
    if tuple(np.shape(X)) == shape[:2] and shape[1] != math.prod(shape):
        raise ValueError(
            f"X has the shape of one image, {shape[:2]}; wanted a batch of images, such as X[None]"
        )


def check_unlabeled_files(estimator, X) -> data.Input:
    """Resolve unlabeled images, and check that files exist, before any image is decoded."""
    with _about_unlabeled():
        source = data.resolve(X)
        missing = _missing_files(source)
        if missing and (estimator.on_error == "raise" or len(missing) == len(source.value)):
            raise data.ImageReadError(f"{missing[0]} is not there")
    return source


def _missing_files(source):
    """Those of the first paths of an input that do not exist."""
    if source.kind not in ("files", "path column"):
        return []
    items = source.value
    first = (items[i] for i in range(min(len(items), FILES_CHECKED_EARLY)))
    paths = [item for item in first if isinstance(item, (str, Path)) and str(item)]
    return [path for path in paths if not os.path.exists(path)]


@contextlib.contextmanager
def _about_unlabeled():
    """Let errors say that they are about `unlabeled`, not about X."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"unlabeled: {error}") from error


def read_unlabeled(estimator, X) -> data.SampleStore:
    """Read further images that are not to be clustered."""
    with _about_unlabeled():
        store, _ = read_samples(estimator, X, known=estimator._format)
    if isinstance(store, data.SourceStore):
        store = store.read(estimator.cache_dir)
    warn_about_invalid(store)
    if len(store) < 2:
        raise ValueError(f"unlabeled holds {len(store)} sample(s); wanted at least 2, or None")
    return store


def check_untrained(estimator, unlabeled) -> None:
    """Say what has no effect where vectors are clustered as they are."""
    if estimator.settings_["max_epochs"]:
        return
    how = "set max_epochs to train a network on them"
    if unlabeled is not None:
        raise ValueError(
            f"unlabeled is of use to a network, and these vectors are clustered as they are; {how}"
        )
    ignored = [
        f.name for f in dataclasses.fields(estimator)
        if f.name not in _USED_WITHOUT_TRAINING and getattr(estimator, f.name) != f.default
    ]  # fmt: skip
    if ignored and distributed.is_rank_zero():
        warn(
            f"vectors are clustered as they are, without training, so {', '.join(ignored)} had no "
            f"effect; {how}",
            UserWarning,
        )


@contextlib.contextmanager
def restore_on_error(estimator) -> Iterator[None]:
    """Drop the attributes of an earlier fit, but restore them if this one fails."""
    before = dict(vars(estimator))
    for name in before:
        if name.endswith("_"):
            del vars(estimator)[name]
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def run_identity(estimator, store: data.SampleStore, unlabeled: data.SampleStore | None) -> dict:
    """What makes two runs the same: parameters, settings and data."""
    identity = {
        name: plain_value(value)
        for name, value in (estimator._fitted_with | estimator.settings_).items()
        if name not in settings.RUNTIME_PARAMETERS
    }
    if estimator.checkpoint_dir is not None or distributed.world_size() > 1:
        identity["X"] = fingerprint(store.samples)
        identity["unlabeled"] = unlabeled and fingerprint(unlabeled.samples)
    initial = getattr(estimator, "_initial_backbone", None)
    if initial is not None:
        flat = [torch.tensor(value).flatten().double() for value in initial.values()]
        identity["the network it starts from"] = fingerprint(torch.cat(flat))
    return identity


def check_batches(estimator, n: int, identity: dict) -> None:
    """Compare the fits of all processes, and the batches with their number and the clusters."""
    distributed.check_same_on_all_ranks(identity)
    size = n // settings.steps_per_epoch(n, estimator.settings_["batch_size"])
    ranks, k = distributed.world_size(), estimator.n_clusters
    if ranks > 1 and not estimator.sync_batchnorm and size < 2 * ranks:
        raise ValueError(
            f"batches of {size} samples leave some of {ranks} processes less than two, of "
            "which there are no statistics: give a larger batch_size, fewer processes, or "
            "sync_batchnorm=True"
        )
    is_trained = estimator.settings_["max_epochs"] > 0
    if is_trained and size < 4 * k and k > 1 and distributed.is_rank_zero():
        warn(
            f"batches of {size} samples are small for n_clusters={k}: below {4 * k} a cluster "
            "has too few members in a batch to be told from the others"
        )


def initial_seed(estimator, identity: dict) -> int:
    """The seed of a run; that of the interrupted one if no other is given."""
    if estimator.checkpoint_dir is not None and not isinstance(estimator.random_state, Integral):
        state = phases.checkpoint_of(estimator.checkpoint_dir, 0, identity, None).load()
        if state is not None:
            return state["seed"]
    return int(check_random_state(estimator.random_state).randint(2**31 - 1))


def build_setup(estimator, shape: tuple[int, ...]) -> Setup:
    """Make a new backbone and measure it."""
    size = estimator.settings_["image_size"]
    if isinstance(estimator.backbone, nn.Module):
        backbone = copy.deepcopy(estimator.backbone)
    else:
        backbone = BACKBONES[estimator.settings_["backbone"]](shape, size)
    initial = getattr(estimator, "_initial_backbone", None)
    if initial is not None:
        _load_backbone(backbone, initial)
    view_shape = (shape[-1], *size) if size else tuple(shape)
    dtypes = (torch.float32, getattr(torch, estimator.settings_["precision"]))
    n_features = _feature_width(backbone, view_shape, dtypes)
    return Setup(backbone, n_features, view_shape, estimator._n_samples)


def augmentation_of(estimator):
    """The augmentation that an estimator was fitted with."""
    augmentation = estimator._fitted_with["augment"]
    if not callable(augmentation):
        return AUGMENTATIONS[estimator.settings_["augment"]]
    has_draw = hasattr(augmentation, "draw")
    return augmentation if has_draw else CallableAugmentation(augmentation)


def build_model(estimator, objective: Objective) -> FittedModel:
    """Join a trained objective and the read-out of an estimator."""
    n_augmented = 2 if objective.n_augmented is None else min(2, objective.n_augmented)
    views = Views(augmentation_of(estimator), estimator.settings_["image_size"], 2, n_augmented)
    draws = callable(estimator._fitted_with["augment"])
    dtype = getattr(torch, estimator.settings_["precision"])
    model = FittedModel(objective, views, draws, dtype)
    centers = getattr(estimator, "cluster_centers_", None)
    variance = getattr(estimator, "_variance", None)
    model.set_readout(estimator._order, centers, variance, getattr(estimator, "_classifier", None))
    return model


def fit_readout(estimator, objective: Objective, store: data.SampleStore) -> None:
    """Learn how clusters are read off a trained objective, and set what is known of it."""
    for name in _OF_READOUT:  # of an earlier fit, or another read-out
        vars(estimator).pop(name, None)
    readout, model = estimator.readout, build_model(estimator, objective)
    has_head = has_assign(objective) and estimator._head_is_trained()
    if readout == "head" and has_head:
        return
    if readout in ("head", "kmeans"):  # no head yet if training stopped in an earlier phase
        centers, estimator._variance = model.fit_k_means(store, estimator.n_clusters)
        estimator.cluster_centers_ = centers
        return
    features = model.sweep(store, objective.embed)
    head = model.sweep(store, model.assign).argmax(axis=1) if has_head else None

    def compute():
        found = read_out(
            features,
            estimator.n_clusters,
            method=readout,
            head=head,
            keep_lengths=estimator._format.is_table and not estimator.settings_["max_epochs"],
            device=model.device,
        )
        state = {name: torch.from_numpy(v) for name, v in found.classifier.state().items()}
        return [state, found.name, found.scores, found.agreement]

    state, chosen, scores, agreement = distributed.compute_on_rank_zero(compute)
    estimator._classifier = {name: value.numpy() for name, value in state.items()}
    estimator.settings_ = estimator.settings_ | {"readout": chosen}
    if readout == "auto":
        estimator.readout_scores_, estimator.agreement_ = scores, agreement


def labels_by(estimator, X, readout: str) -> np.ndarray | None:
    """Labels of the samples of `fit` by another read-out; None by a head that there is not."""
    objective = estimator._fitted_model().objective
    if readout == "head" and not (has_assign(objective) and estimator._head_is_trained()):
        return None
    other = estimator._plain_copy()
    other.readout = readout
    store, _ = read_samples(other, X, known=other._format)
    other._set_readout(objective, store)
    return other.labels_


def new_objective(estimator) -> Objective:
    """Build an objective like the fitted one, with new weights."""
    same = type(estimator)(**estimator._fitted_with)
    same.settings_, same._n_samples = estimator.settings_, estimator._n_samples
    phases_of = same._phases_of_new_setup(estimator._format.shape)
    *_, last = itertools.islice(phases_of, estimator._n_phases)
    last.objective.release()
    return last.objective


def fitted_objective(estimator, device: torch.device) -> Objective:
    """Build the fitted objective from the weights of an estimator."""
    objective = estimator._new_objective()
    weights = {name: torch.tensor(value) for name, value in estimator.weights_.items()}
    objective.load_state_dict(weights)
    return objective.eval().to(device, memory_format=torch.channels_last)


def backbone_weights(estimator) -> dict[str, np.ndarray]:
    """Weights of the backbone of a fitted estimator."""
    for name, module in estimator._objective().named_modules():
        if name.split(".")[-1] == "backbone":
            return {key: value.cpu().numpy() for key, value in module.state_dict().items()}
    raise ValueError(f"{type(estimator).__name__} has no backbone that could be taken over")


def tell_outcome(estimator, counts: np.ndarray) -> None:
    """Print the read-out; warn if clusters are empty, or one holds nearly all samples."""
    k, used, largest = len(counts), np.count_nonzero(counts), counts.max() / counts.sum()
    if not distributed.is_rank_zero():
        return
    if hasattr(estimator, "readout_scores_"):
        scores = {name: round(score, 4) for name, score in estimator.readout_scores_.items()}
        chosen = {"chosen": estimator.settings_["readout"], **scores}
        announce(f"{type(estimator).__name__} read-out", chosen, estimator.verbose)
    agreement = getattr(estimator, "agreement_", 1.0)
    if used == k and agreement < DISAGREEMENT:
        warn(
            f"partitions of the features agree on {agreement:.0%} of the samples only, so these "
            "clusters are one of several possible answers. Another n_clusters may suit the data "
            "better (skcc.suggest_n_clusters), or features that were trained longer.",
            ConvergenceWarning,
        )
    if used < k:
        what = f"{k - used} of {k} clusters {'is' if k - used == 1 else 'are'} empty"
    elif k > 1 and largest > COLLAPSED:
        what = f"one of {k} clusters holds {largest:.0%} of the samples"
    else:
        return
    *some, last = estimator._collapse_remedies
    warn(f"{what}. {', '.join(some)} or {last} may help.", ConvergenceWarning)


def _load_backbone(backbone, weights):
    try:
        backbone.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(
            f"the network to start from does not fit {type(backbone).__name__} for these images: "
            f"{' '.join(str(error).split())}"
        ) from error


def _feature_width(backbone, shape, dtypes):
    """Width of the features, found by a dry run on two samples."""
    backbone.eval()
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    wanted = f"a batch of shape (n, {', '.join(map(str, shape))})"
    try:
        with torch.no_grad():  # not inference mode: lazy layers make their weights here
            h = backbone(torch.zeros(2, *shape, device=device))
    except Exception as error:  # of the user's code
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"backbone cannot take {wanted}: {reason}") from error
    if _are_features(h, dtypes):
        return h.shape[1]
    got = type(h).__name__
    if isinstance(h, torch.Tensor):
        got = f"shape {tuple(h.shape)} and {h.dtype}"
    raise ValueError(
        f"backbone must map {wanted} to float32 features of shape (n, d); for n = 2 it gave {got}"
    )


def _are_features(h, dtypes):
    if not isinstance(h, torch.Tensor) or h.dtype not in dtypes:
        return False
    return h.ndim == 2 and len(h) == 2 and h.shape[1] > 0
