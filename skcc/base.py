"""The scikit-learn face that all methods share.

It turns X into a store, resolves every "auto", lets the engine train what the method's
`_phases` yields, and answers predict, transform and score from the fitted weights. It knows no
paper and holds no training loop.
"""

import contextlib
import copy
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from types import NoneType

import numpy as np
import sklearn
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn
from torch.nn import functional as F

from skcc import data, defaults, distributed, engine, persistence
from skcc._version import __version__
from skcc.augment import AUGMENTATIONS, CallableAugmentation, Views
from skcc.backbones import BACKBONES
from skcc.callbacks import CallbackSupportMixin, FitTasks, Progress, announce, with_callbacks
from skcc.checkpoint import Checkpoint, fingerprint
from skcc.decoding import ImageReadWarning, none_could_be_read
from skcc.objective import Objective
from skcc.parameters import demand_choice, demand_integer, demand_real

SWALLOWED = 0.9  # a cluster with this share of the samples is called a collapse
_NOT_RESULTS = {"cache_dir", "checkpoint_dir", "device", "max_seconds", "n_jobs", "on_error"}
_NOT_RESULTS |= {"precision", "verbose"}


class _Live:
    """The module on its device; a cache that can be rebuilt from the weights."""

    def __init__(self, objective: Objective | None = None):
        self.objective = objective


class BaseDeepClusterer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    BaseEstimator,
):
    """Base of all estimators; a subclass has a constructor and `_phases`."""

    def _phases(
        self, backbone: nn.Module, n_features: int, settings: dict
    ) -> Iterator[tuple[Objective, dict]]:
        """What is trained, in order; the last objective is the one that predicts.

        Parameters
        ----------
        backbone : nn.Module
            From views to features; new.

        n_features : int
            Width of the features.

        settings : dict
            Keyword arguments for `skcc.engine.train`: epochs, batch_size, learning_rate,
            weight_decay, schedule.

        Yields
        ------
        objective : Objective
            What the engine trains.

        settings : dict
            For this phase.
        """
        raise NotImplementedError

    # -- fit --------------------------------------------------------------------------------

    def fit(self, X, y=None, *, unlabeled=None):
        """Train on images, and cluster them.

        Ctrl-C ends training early and keeps what was learned. Under ``torchrun``, all processes
        train one model together, and must call this with the same arguments.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            The images, as one of

            - an array or tensor of shape (n, height, width), (n, height, width, channels) or
              (n, channels, height, width): integers from 0 to 255 or floats from 0 to 1. The
              channels are the last axis if it has 1 to 4 entries, else the first if that has,
              else the axis that differs from the two others, else `image_shape` must tell;
            - a folder, searched recursively; a pattern such as ``"photos/**/*.jpg"``; or a list
              or array of paths and patterns;
            - a list of PIL images of any sizes;
            - a map-style data set of torch, whose items are images or tuples that begin with one,
              or a Hugging Face data set or column of images;
            - the path of a .npy file, or of a .npz file of one array or with "images";
            - anything with ``shape``, ``__len__`` and ``__getitem__``, which is read in parts;
            - a table of shape (n, height * width * channels) together with `image_shape`, of
              any range of values.

            A table without `image_shape` holds vectors, one per row.

            Files and PIL images are made upright, laid on white where they are transparent,
            reduced to gray if none of them has colour, and, if their sizes differ, cut to the
            central square and resized; docs/images.md has the rule for every kind. `X` itself is
            never changed.

        y : array-like of shape (n_samples,), default=None
            Not used in training. Callbacks and scorers may compare with it.

        unlabeled : array-like, tensor, str, Path or list, default=None
            Further images that are not to be clustered, of the shape of those in `X`; files and
            PIL images are brought to it. In each epoch they are trained on first, by the contrast
            between instances alone, as STL-10's unlabelled images were in the papers.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range; or if X is empty, has fewer samples than
            `n_clusters`, holds NaN, infinite or complex values or floating-point images outside
            [0, 1], or images of different shapes or numbers of channels.

        TypeError
            If X is sparse, or holds objects that are no images.

        skcc.data.ImageReadError
            If a file is missing or cannot be decoded; with ``on_error="warn"`` if none can. It is
            an OSError and a ValueError.

        FloatingPointError
            If the loss is not finite for the second time; the first time an epoch is repeated.
        """
        self._check_parameters()
        distributed.join()
        device = engine.resolve_device(self.device)
        with self._all_or_nothing():
            self._fit(X, y, device, unlabeled)
        return self

    @with_callbacks
    def _fit(self, X, y, device, unlabeled):
        store, self._format = self._read(X, known=None, device=device)
        self.invalid_ = sorted(store.invalid.items())
        _warn_about_invalid(store)
        n = len(store)
        if n < max(2, self.n_clusters):
            raise ValueError(
                f"n_samples={n} should be >= n_clusters={self.n_clusters}, and at least 2"
            )
        self._fitted_with = self.get_params(deep=False)
        self.settings_ = self._resolve(store, device)
        self.image_shape_ = self._format.shape if self._format.is_image else None
        announce(type(self).__name__, self.settings_, self._shown())
        self._warn_about_batch(n)
        unlabeled = self._read_unlabeled(unlabeled)
        self._demand_one_fit(store, unlabeled)
        store, unlabeled = (s and s.to(device) for s in (store, unlabeled))
        tasks = FitTasks(self, X, y, self.settings_["max_epochs"])
        objective = self._train(store, unlabeled, device, tasks)
        self._warn_about_collapse(self._learn(objective, store))
        vars(self).pop("_start", None)
        if device.type != "cpu":
            self._live = _Live()  # its memory goes back; `predict` builds it again
        tasks.end(lambda: vars(self))

    def start_from(self, fitted):
        """Let the next `fit` begin with features that another estimator has learned.

        Its backbone is taken over, also from another method; the heads, and with them the clusters,
        are learned anew.

        Parameters
        ----------
        fitted : BaseDeepClusterer
            Fitted, on images with as many channels and with the same network.

        Returns
        -------
        self : object
            The estimator; a clone of it does not begin with them.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_is_fitted(fitted)
        backbone = next(
            module
            for name, module in fitted._objective().named_modules()
            if name.split(".")[-1] == "backbone"
        )
        self._start = {name: v.cpu().numpy() for name, v in backbone.state_dict().items()}
        return self

    def _learn(self, objective, store):
        """Set what a trained objective gives; return the sizes of its clusters, unsorted."""
        self.n_iter_ = len(self.history_)
        objective.release()
        self.weights_ = {k: v.cpu().numpy() for k, v in objective.state_dict().items()}
        self._live = _Live(objective)
        return self._name_clusters(store)

    def _as_if_stopped(self, objective, store):
        """The attributes of this estimator, had training ended now; for callbacks."""
        model, objective = copy.copy(self), copy.deepcopy(objective)
        dtype = getattr(torch, self.settings_["precision"])
        engine.finish(objective, store, self._views(), dtype=dtype)
        model._learn(objective, store)
        return vars(model)

    @contextlib.contextmanager
    def _all_or_nothing(self):
        """Forget what an earlier fit learned, but bring it back if this one fails."""
        before = dict(vars(self))
        for name in before:
            if name.endswith("_"):
                del vars(self)[name]
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _check_parameters(self):
        demand_integer("n_clusters", self.n_clusters, 1)
        demand_integer("image_size", self.image_size, 1, also=[None])
        demand_integer("max_epochs", self.max_epochs, 1, also=["auto"])
        demand_real("max_seconds", self.max_seconds, 0, closed=False, also=[None])
        demand_integer("batch_size", self.batch_size, 2, also=["auto"])
        demand_real("learning_rate", self.learning_rate, 0, closed=False, also=["auto"])
        demand_real("weight_decay", self.weight_decay, 0)
        demand_choice("schedule", self.schedule, engine.SCHEDULES)
        demand_choice("augmented_views", self.augmented_views, [0, 1, 2])
        demand_choice("readout", self.readout, ["head", "kmeans"])
        demand_choice("precision", self.precision, ["auto", "fp32", "bf16"])
        demand_choice("sync_batchnorm", self.sync_batchnorm, [True, False])
        demand_choice("on_error", self.on_error, ["raise", "warn"])
        if not isinstance(self.cache_dir, (str, Path, NoneType)):
            raise ValueError(f"cache_dir must be a path or None; got {self.cache_dir!r}")
        if not isinstance(self.backbone, nn.Module):
            demand_choice("backbone", self.backbone, ["auto", *BACKBONES])
        if not callable(self.augment):
            demand_choice("augment", self.augment, ["auto", *AUGMENTATIONS])
        if self.image_shape is not None:
            shape = self.image_shape
            if not isinstance(shape, (tuple, list)) or len(shape) not in (2, 3):
                raise ValueError(
                    "image_shape must be (height, width) or (height, width, channels) or None; "
                    f"got {shape!r}"
                )
            for side in shape:
                demand_integer("each entry of image_shape", side, 1)

    def _read(self, X, *, known, device=None):
        """X as a store, with scikit-learn's checks of tables and feature names."""
        X = data.resolve(X)
        table = data.is_table(X)
        if table and known is not None and known.is_image:
            _demand_batch(X, known.shape)
        sources = not table and data.holds_sources(X)
        if table or (sources and len(getattr(X, "shape", ())) == 2):  # a column of paths has a name
            X = validate_data(self, X, reset=known is None, dtype=None, skip_check_array=sources)

        def stored_side(short):
            view = self.image_size or defaults.image_side(short, device)
            return defaults.stored_side(short, view)

        store, fmt = data.read(
            X,
            image_shape=self.image_shape,
            side=stored_side,
            known=known,
            n_jobs=self.n_jobs,
            cache_dir=self.cache_dir,
            on_error=self.on_error,
        )
        if known is None and not table:
            self.n_features_in_ = 1 if sources else fmt.n_features
        return store, fmt

    def _read_unlabeled(self, X):
        if X is None:
            return None
        if self.instance_weight == 0:
            raise ValueError("unlabeled images are of use for an instance_weight > 0; got 0")
        try:
            store, _ = self._read(X, known=self._format)
        except (ValueError, TypeError) as error:
            raise type(error)(f"unlabeled: {error}") from error
        if isinstance(store, data.SourceStore):
            store = store.read(self.cache_dir)
        _warn_about_invalid(store)
        if len(store) < 2:
            raise ValueError(f"unlabeled holds {len(store)} sample(s); wanted at least 2, or None")
        return store

    def _resolve(self, store, device):
        """Every "auto" resolved: what `settings_` reports."""
        n, shape = len(store), store.shape
        chosen = {
            name: getattr(self, name)
            for name in (
                *("backbone", "augment", "max_epochs", "batch_size", "learning_rate"),
                *("weight_decay", "schedule"),
            )
        }
        if self.backbone == "auto":
            chosen["backbone"] = defaults.backbone_name(shape, device)
        elif isinstance(self.backbone, nn.Module):
            chosen["backbone"] = type(self.backbone).__name__
        if self.augment == "auto":
            chosen["augment"] = defaults.augmentation_name(store)
        elif callable(self.augment):
            chosen["augment"] = getattr(self.augment, "__name__", type(self.augment).__name__)
        if self.batch_size == "auto":
            chosen["batch_size"] = defaults.batch_size(n, self.n_clusters)
        chosen["batch_size"] = min(n, chosen["batch_size"])
        if self.max_epochs == "auto":
            chosen["max_epochs"] = defaults.max_epochs(n, chosen["batch_size"])
        if self.learning_rate == "auto":
            chosen["learning_rate"] = defaults.LEARNING_RATE
        precision = str(engine.resolve_precision(self.precision, device))
        return chosen | {
            "max_epochs": int(chosen["max_epochs"]),  # from NumPy's numbers, too
            "batch_size": int(chosen["batch_size"]),
            "learning_rate": float(chosen["learning_rate"]),
            "weight_decay": float(chosen["weight_decay"]),
            "image_size": self._view_size(shape, device),
            "device": str(device),
            "precision": precision.removeprefix("torch."),
        }

    def _demand_one_fit(self, store, unlabeled):
        """Find early that several processes were given different things."""
        if distributed.world_size() == 1:
            return
        own = self._demanded(store, unlabeled)
        for number, other in enumerate(distributed.share(own)):
            differing = [name for name in own if own[name] != other.get(name)]
            if differing:
                raise ValueError(
                    f"all processes must call fit with the same data and parameters; rank {number} "
                    f"and rank {distributed.rank()} differ in {', '.join(differing)}"
                )
        size = len(store) // engine.n_steps(len(store), self.settings_["batch_size"])
        if not self.sync_batchnorm and size < 2 * distributed.world_size():
            raise ValueError(
                f"batches of {size} samples leave some of {distributed.world_size()} processes "
                "less than two, of which there are no statistics: give a larger batch_size, fewer "
                "processes, or sync_batchnorm=True"
            )

    def _view_size(self, shape, device):
        if len(shape) == 1:
            return None
        short = min(shape[:2])
        side = self.image_size or defaults.image_side(short, device)
        return tuple(max(1, round(s * side / short)) for s in shape[:2])

    def _warn_about_batch(self, n):
        size = n // engine.n_steps(n, self.settings_["batch_size"])
        small = size < 4 * self.n_clusters and self.n_clusters > 1
        if small and distributed.is_first():
            warnings.warn(
                f"batches of {size} samples are small for n_clusters={self.n_clusters}: below "
                f"{4 * self.n_clusters} a cluster has too few members in a batch to be told from "
                "the others",
                UserWarning,
                stacklevel=5,
            )

    def _train(self, store, unlabeled, device, tasks):
        """Run the phases; set the history of all, and return the last objective."""
        settings = self.settings_
        checkpoints = self._checkpoints(store, unlabeled)
        seed = self._seed(checkpoints)
        self.history_, objective = [], None
        phases = self._phases_from_scratch(store.shape)
        for phase in itertools.count():
            phase_seed = seed + phase
            with engine.private_rng(phase_seed, device):
                drawn = next(phases, None)
            if drawn is None:
                return objective
            objective, how = drawn
            objective.to(device, memory_format=torch.channels_last)
            earlier = self.history_
            name, n = type(self).__name__, len(store)
            with Progress(name, how["epochs"], n, self._shown()) as progress:
                history = engine.train(
                    objective,
                    store,
                    self._views(),
                    **how,
                    seed=phase_seed,
                    dtype=getattr(torch, settings["precision"]),
                    global_rng=isinstance(self.backbone, nn.Module) or callable(self.augment),
                    begin=tasks.begin_epoch,
                    report=self._reporter(objective, store, earlier, tasks, progress),
                    unlabeled=unlabeled,
                    checkpoint=checkpoints(phase, seed),
                    sync_batchnorm=self.sync_batchnorm,
                )
            self.history_ = earlier + history

    def _shown(self):
        return self.verbose if distributed.is_first() else 0

    def _reporter(self, objective, store, earlier, tasks, progress):
        """What the engine tells of each epoch is shown, kept, and handed to callbacks."""
        started, limit = time.monotonic(), self.max_seconds or math.inf

        def report(history, seconds):
            self.history_ = earlier + history
            progress(len(history) - 1, history[-1], seconds)
            stop = tasks.end_epoch(lambda: self._as_if_stopped(objective, store))
            the_next_would_end = time.monotonic() - started + seconds
            return stop or the_next_would_end > limit

        return report

    def _phases_from_scratch(self, shape):
        """`_phases` with a new backbone, drawn when the first phase is asked for."""
        size = self.settings_["image_size"]
        how = {
            name: self.settings_[name]
            for name in ("batch_size", "learning_rate", "weight_decay", "schedule")
        }
        how["epochs"] = self.settings_["max_epochs"]
        if isinstance(self.backbone, nn.Module):
            backbone = copy.deepcopy(self.backbone)
        else:
            backbone = BACKBONES[self.settings_["backbone"]](shape, size)
        if hasattr(self, "_start"):
            _load_backbone(backbone, self._start)
        sample = (shape[-1], *size) if size else shape
        self._n_features_out = _feature_width(backbone, sample)
        yield from self._phases(backbone, self._n_features_out, how)

    def _seed(self, checkpoints):
        """The seed of a run; that of the interrupted one if none is demanded."""
        return distributed.from_first(lambda: self._seed_of_one(checkpoints))

    def _seed_of_one(self, checkpoints):
        if self.checkpoint_dir is not None and not isinstance(self.random_state, Integral):
            state = checkpoints(0, None).load()
            if state is not None:
                return state["seed"]
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _checkpoints(self, store, unlabeled):
        """A function ``(phase, seed) -> Checkpoint or None``."""
        if self.checkpoint_dir is None:
            return lambda phase, seed: None
        demanded = self._demanded(store, unlabeled)
        folder = Path(self.checkpoint_dir)
        return lambda phase, seed: Checkpoint(folder / f"phase-{phase}.pt", demanded, seed)

    def _demanded(self, store, unlabeled):
        """What makes two runs the same, by name."""
        demanded = {
            name: _plain(value)
            for name, value in (self._fitted_with | self.settings_).items()
            if name not in _NOT_RESULTS
        }
        demanded["X"] = fingerprint(store.samples)
        demanded["unlabeled"] = unlabeled and fingerprint(unlabeled.samples)
        if hasattr(self, "_start"):
            flat = [torch.tensor(v).flatten().double() for v in self._start.values()]
            demanded["the network it starts from"] = fingerprint(torch.cat(flat))
        return demanded

    def _name_clusters(self, store):
        """Number the clusters by size, so that empty ones come last; return the sizes."""
        self._order = np.arange(self.n_clusters)
        if self.readout == "kmeans":
            from sklearn.cluster import KMeans  # here, for the half second that it takes

            embed = self._objective().embed
            features = self._sweep(store, lambda view: F.normalize(embed(view).float()))

            def cluster():
                k_means = KMeans(self.n_clusters, n_init=10, random_state=0).fit(features)
                return torch.from_numpy(k_means.cluster_centers_), float(k_means.inertia_)

            centers, inertia = distributed.from_first(cluster)
            self.cluster_centers_ = centers.numpy().astype(np.float32)
            self._variance = max(inertia / features.size, 1e-9)
        p = self._sweep(store, self._assigner())
        counts = np.bincount(p.argmax(axis=1), minlength=self.n_clusters)
        self._order = np.argsort(-counts, kind="stable")
        if self.readout == "kmeans":
            self.cluster_centers_ = self.cluster_centers_[self._order]
        self.labels_ = store.spread(p[:, self._order].argmax(axis=1), -1)
        return counts

    def _warn_about_collapse(self, counts):
        k, used, largest = self.n_clusters, np.count_nonzero(counts), counts.max() / counts.sum()
        if used < k:
            what = f"{k - used} of {k} clusters are empty"
        elif k > 1 and largest > SWALLOWED:
            what = f"one of {k} clusters holds {largest:.0%} of the samples"
        else:
            return
        if not distributed.is_first():
            return
        warnings.warn(
            f"{what}. More epochs, a larger entropy_weight, an augmentation that fits the "
            "images, or fewer clusters may help.",
            ConvergenceWarning,
            stacklevel=5,
        )

    # -- after fit --------------------------------------------------------------------------

    def predict(self, X):
        """Find the cluster of each image.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are brought to it.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            From 0, the cluster that is largest on the training set, to ``n_clusters - 1``; -1 for
            images that could not be read, where ``on_error="warn"``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`.
        """
        store = self._read_again(X)
        labels = self._sweep(store, self._assigner()).argmax(axis=1)
        _warn_about_invalid(store)
        return store.spread(labels, -1)

    def predict_proba(self, X):
        """Soft assignments of images to clusters.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are brought to it.

        Returns
        -------
        p : ndarray of shape (n_samples, n_clusters)
            Float32; rows sum to one. With ``readout="kmeans"`` the posterior of a mixture of
            equally likely Gaussians around the centres, of one spherical covariance. NaN for images
            that could not be read, where ``on_error="warn"``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`.
        """
        return self._answer(X, self._assigner)

    def transform(self, X):
        """Features of images: the output of the backbone.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are brought to it.

        Returns
        -------
        features : ndarray of shape (n_samples, n_features_out)
            Float32. Compare them by cosine: it is their direction that training shapes. NaN for
            images that could not be read, where ``on_error="warn"``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`.
        """
        return self._answer(X, lambda: self._objective().embed)

    def score(self, X, y=None):
        """How well two random views of an image agree on its cluster; needs no labels.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are brought to it.

        y : None, default=None
            Ignored; scikit-learn passes it.

        Returns
        -------
        score : float
            Adjusted mutual information between the clusters of the first views and those of the
            second; higher is better. 1 if the views of every image agree, about 0 if they agree
            as by chance, and 0 if all fall into one cluster. The views are the same in every
            call. Images that could not be read do not count.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`.

        Notes
        -----
        Being adjusted for chance, it can be compared across `n_clusters`: clusters that cut
        through a class are told apart less reliably from one view to the next, and clusters that
        join two classes leave the border between them to chance. On scikit-learn's digits it was
        largest at 10 clusters (docs/log.md). The margins are small, and a coarse partition that
        is stable scores well too: take it as one witness among several. Where views are
        not augmented they agree always, and the score says nothing.
        """
        from sklearn.metrics import adjusted_mutual_info_score  # here, for the time that it takes

        store = self._read_again(X)
        assign = self._assigner()
        both = self._of_two_views(store, lambda view: assign(view).argmax(dim=1))
        first, second = both.astype(int).T
        if len(np.unique(both)) == 1:
            return 0.0
        return float(adjusted_mutual_info_score(first, second))

    def save(self, path) -> None:
        """Write the fitted estimator to one safetensors file, without pickle.

        Of several processes the first one writes.

        Parameters
        ----------
        path : str or Path
            The file. One that is there already is replaced.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        TypeError
            If a parameter cannot be stored.
        """
        check_is_fitted(self)
        if not distributed.is_first():
            return
        header = {
            "estimator": type(self).__name__,
            "versions": {
                "skcc": __version__,
                **{m.__name__: m.__version__.split("+")[0] for m in (torch, np, sklearn)},
            },
            "parameters": {name: _plain(value) for name, value in self._fitted_with.items()},
        }
        without_callbacks = copy.copy(self).set_callbacks()
        persistence.write(path, header, without_callbacks.__getstate__())

    @classmethod
    def load(cls, path, *, device="auto", backbone=None, augment=None):
        """Read an estimator that was saved; nothing in the file is executed.

        Where it computes, and where it keeps files (`cache_dir`, `checkpoint_dir`), is not taken
        from the file: those are places of the machine on which it was written.

        Parameters
        ----------
        path : str or Path
            The file.

        device : str, default="auto"
            Where the estimator computes from now on, whatever it was fitted on.

        backbone : nn.Module, default=None
            The module that was given as the parameter `backbone`, if one was; its weights come
            from the file.

        augment : callable, default=None
            The function that was given as the parameter `augment`, if one was.

        Returns
        -------
        estimator : object
            Fitted, of this class.

        Raises
        ------
        FileNotFoundError
            If there is no file.

        ValueError
            If the file is damaged, foreign, of a newer skcc or of another estimator, or if a
            module or function must be given.
        """
        engine.resolve_device(device)
        header, state = persistence.read(path, {"backbone": backbone, "augment": augment})
        if header.get("estimator") != cls.__name__:
            raise ValueError(f"{path} holds a {header.get('estimator')}, not a {cls.__name__}")
        estimator = cls()
        _demand_plain_attributes(cls, state, path)
        unknown = set(state.get("_fitted_with", {})) ^ set(estimator.get_params(deep=False))
        if unknown:
            raise ValueError(
                f"{path} was written with {header.get('versions')}; this is skcc "
                f"{__version__}. They differ in the parameters {', '.join(sorted(unknown))}"
            )
        try:
            estimator.__setstate__(state)
            estimator.set_params(device=device, cache_dir=None, checkpoint_dir=None)
            estimator._demand_weights_that_fit()
            estimator._objective()
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{path}: its weights do not fit its parameters: {error}") from error
        return estimator

    def _demand_weights_that_fit(self):
        """Before memory is taken for a network: whether it has the size of the weights."""
        if isinstance(self._fitted_with["backbone"], nn.Module):
            return
        with torch.device("meta"):
            objective = self._network()
        wanted = {name: tuple(value.shape) for name, value in objective.state_dict().items()}
        stored = {name: value.shape for name, value in self.weights_.items()}
        for name in sorted(wanted.keys() | stored.keys()):
            if wanted.get(name) != stored.get(name):
                raise ValueError(
                    f"{name} has shape {stored.get(name)} and should have {wanted.get(name)}"
                )

    def _answer(self, X, function):
        """Rows for the images of X; NaN where one could not be read."""
        store = self._read_again(X)
        rows = self._sweep(store, function())
        _warn_about_invalid(store)
        return store.spread(rows, np.nan)

    def _read_again(self, X):
        check_is_fitted(self)
        distributed.join()
        return self._read(X, known=self._format)[0]

    def _objective(self):
        """The fitted module, on the device that is asked for now."""
        device = engine.resolve_device(self.device)
        objective = self._live.objective
        if objective is None or engine.device_of(objective) != device:
            # One thread builds it, the others take what it built. It is never moved: a thread may
            # be computing with it where it is.
            with engine.private_rng(0, device):
                objective = self._live.objective
                if objective is None or engine.device_of(objective) != device:
                    objective = self._live.objective = self._rebuilt(device)
        return objective

    def _rebuilt(self, device):
        """The fitted module, made from its weights."""
        objective = self._network()
        objective.load_state_dict({k: torch.tensor(v) for k, v in self.weights_.items()})
        return objective.eval().to(device, memory_format=torch.channels_last)

    def _network(self):
        """A module like the fitted one, with new weights."""
        same = type(self)(**self._fitted_with)
        same.settings_ = self.settings_
        *_, (objective, _) = same._phases_from_scratch(self._format.shape)
        objective.release()
        return objective

    def _sweep(self, store, function, view=None):
        objective = self._objective()
        dtype = engine.resolve_precision(self.precision, engine.device_of(objective))
        view = view or self._views().plain
        return engine.sweep(objective, store, function, view=view, dtype=dtype).numpy()

    def _of_two_views(self, store, function, seed=0):
        """Rows of a function of both random views of every sample that can be read: (n, 2, ...)."""
        views, device = self._views(), engine.device_of(self._objective())
        generator = torch.Generator().manual_seed(seed)
        places = torch.from_numpy(store.places).to(device)
        tables = views.draw(store.n_images, store.shape, generator, device)
        own = callable(self._fitted_with["augment"])  # may draw from the global generator
        with engine.private_rng(seed, device) if own else contextlib.nullcontext():
            both = self._sweep(
                store,
                lambda drawn: torch.stack([function(view) for view in drawn], dim=1),
                lambda batch, index: views(batch, tables, places[index]),
            )
        _warn_about_invalid(store)
        both = np.delete(store.spread(both, np.nan), list(store.invalid), axis=0)
        if not len(both):
            raise none_could_be_read(store.invalid)
        return both

    def _project(self, X, seed):
        """Embeddings and soft assignments of two random views of every sample: (n, 2, d + k)."""
        project, assign = self._objective().project, self._assigner()

        def both(view):
            return torch.cat([project(view).float(), assign(view)], dim=1)

        return self._of_two_views(self._read_again(X), both, seed)

    def _assigner(self):
        """From a view to soft assignments, by the read-out that was fitted."""
        objective = self._objective()
        device = engine.device_of(objective)
        order = torch.tensor(self._order, device=device)
        if self._fitted_with["readout"] == "head":
            return lambda view: objective.assign(view)[:, order]
        # As k-means numbered them: to the last bit the same sums as when they were sorted by size.
        centres = torch.tensor(self.cluster_centers_, device=device)[order.argsort()]

        def posterior(view):
            distance = torch.cdist(F.normalize(objective.embed(view).float()), centres)
            return F.softmax(-(distance**2) / (2 * self._variance), dim=1)[:, order]

        return posterior

    def _views(self):
        augmentation = self._fitted_with["augment"]
        n_augmented = self._fitted_with["augmented_views"]
        if not callable(augmentation):
            augmentation = AUGMENTATIONS[self.settings_["augment"]]
        elif not hasattr(augmentation, "draw"):
            augmentation = CallableAugmentation(augmentation)
        return Views(augmentation, self.settings_["image_size"], n_augmented)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self):
        """Plain values and arrays only, so that any format can hold them."""
        state = {name: value for name, value in super().__getstate__().items() if name != "_live"}
        if "_format" in state:
            state["_format"] = dict(vars(self._format))
        return state

    def __setstate__(self, state):
        super().__setstate__(dict(state))
        if "_format" in state:
            self._format = data.Format(**state["_format"])
        if "weights_" in state:
            self._live = _Live()


def _demand_plain_attributes(cls, state, path):
    """A state sets attributes; one that would hide a method is not ours."""
    hidden = [name for name in state if hasattr(cls, name)]
    if hidden or not isinstance(state.get("_fitted_with", {}), dict):
        raise ValueError(f"{path} is damaged: it would replace {', '.join(hidden) or 'parameters'}")


def _load_backbone(backbone, weights):
    try:
        backbone.load_state_dict({name: torch.tensor(v) for name, v in weights.items()})
    except RuntimeError as error:
        raise ValueError(
            f"the network to start from does not fit {type(backbone).__name__} for these images: "
            f"{' '.join(str(error).split())}"
        ) from error


def _warn_about_invalid(store):
    if not store.invalid or not distributed.is_first():
        return
    some = [reason for _, reason in sorted(store.invalid.items())[:3]]
    warnings.warn(
        f"{len(store.invalid)} of {store.n_images} images could not be read: {'; '.join(some)}"
        + ("; ..." if len(store.invalid) > 3 else ""),
        ImageReadWarning,
        stacklevel=4,
    )


def _demand_batch(X, shape):
    """Refuse one gray image where several are wanted; it would be taken for a table."""
    if tuple(np.shape(X)) == shape[:2] and shape[1] != math.prod(shape):
        raise ValueError(
            f"X has the shape of one image, {shape[:2]}; wanted a batch of images, such as X[None]"
        )


def _feature_width(backbone, shape):
    """Width of the features, found by a dry run on two samples."""
    backbone.eval()
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            h = backbone(torch.zeros(2, *shape, device=device))
    except RuntimeError as error:
        sizes = ", ".join(map(str, shape))
        raise ValueError(f"backbone cannot take a batch of shape (n, {sizes}): {error}") from error
    if not isinstance(h, torch.Tensor) or h.ndim != 2 or len(h) != 2:
        got = f"shape {tuple(h.shape)}" if isinstance(h, torch.Tensor) else type(h).__name__
        raise ValueError(
            f"backbone must map a batch of shape (n, {', '.join(map(str, shape))}) to features "
            f"of shape (n, d); for n = 2 it gave {got}"
        )
    return h.shape[1]


def _plain(value):
    """What of a parameter can be compared after a checkpoint was read."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.random.RandomState):
        return "RandomState"  # the seed that was drawn from it is kept
    if isinstance(value, nn.Module) or not callable(value) or hasattr(value, "draw"):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__qualname__)
