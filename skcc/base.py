"""The scikit-learn face that all estimators share.

`fit` reads X into a store, resolves every "auto", lets the engine train the phases that the
method yields, and keeps the weights. Everything after `fit` is computed by a
`skcc.inference.FittedModel`. This file knows no paper and has no training loop.
"""

import copy
from collections.abc import Iterator
from typing import Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skcc import data, distributed, fitting
from skcc.ambient import default_torch_state, limited_threads
from skcc.callbacks import CallbackSupportMixin, FitTasks, announce, with_callbacks
from skcc.contention import shared_cores
from skcc.inference import FittedModel, warn_about_invalid
from skcc.objective import GivenFeatures, Phase, Setup
from skcc.parameters import SharedParameters
from skcc.persistence import SaveLoadMixin
from skcc.rng import private_rng
from skcc.training import settings
from skcc.training.phases import Run


class _ModelCache:
    """Holds the fitted model; it can always be rebuilt from the weights."""

    def __init__(self, model: FittedModel | None = None):
        self.model = model


class BaseDeepClusterer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    SaveLoadMixin,
    SharedParameters,
):
    """Base of all estimators; a subclass has parameters of its own and `_phases`."""

    # -- what a method defines --------------------------------------------------------------

    _collapse_remedies = ("More epochs", "an augmentation that fits the images", "fewer clusters")
    _auto_epochs = 1.0  # times those of `training.settings.max_epochs`
    _auto_optimizer = "adamw"  # on CPUs and CUDA, for images
    _muon_share = 0.4  # of the epochs of AdamW
    _bfloat16_on_cpus = False  # whether "auto" takes it for images, on processors fast in it
    _auto_image_backbone = None  # that of a method, in place of one that depends on the device
    _auto_learning_rate = None  # that of a method, in place of `training.settings.LEARNING_RATE`

    def _phases(self, setup: Setup) -> Iterator[Phase]:
        """Yield what is trained, in order; the objective of the last phase predicts.

        It runs in `fit` and, without training, in `load`; so it builds networks and looks at no
        data. What needs data belongs into `Objective.before_epoch`.
        """
        raise NotImplementedError

    def _planned_epochs(self) -> int | None:
        """Epochs of all phases together, for progress bars; None if they are not known."""
        return self.settings_["max_epochs"]

    def _head_is_trained(self) -> bool:
        """Whether training gives the objective's `assign` a meaning, so that it is a read-out."""
        return True

    def _trains_on(self, shape: tuple[int, ...]) -> bool:
        """Whether a network is trained on samples of this shape; else they are the features."""
        return True

    def _check_unlabeled(self) -> None:
        """Raise ValueError if training cannot use unlabeled samples."""
        raise ValueError(
            f"{type(self).__name__} cannot use unlabeled images; methods with a contrast between "
            "instances can"
        )

    # -- fit --------------------------------------------------------------------------------

    @limited_threads()
    @shared_cores()
    @default_torch_state()
    def fit(self, X, y=None, *, unlabeled=None) -> Self:
        """Train on images, and cluster them.

        Ctrl-C ends training early and keeps what was learned. Under ``torchrun``, all processes
        train one model together, and must call this with the same arguments.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            The images, as one of

            - an array or tensor of shape (n, height, width), (n, height, width, channels) or
              (n, channels, height, width): integers from 0 to 255 or floats from 0 to 1. Two equal
              axes are height and width; where that leaves two readings, `image_shape` decides;
            - a folder, searched recursively; a pattern such as ``"photos/**/*.jpg"``; or a list
              or array of paths and patterns;
            - a list of PIL images of any sizes;
            - a map-style data set of torch, whose items are images or tuples that begin with one,
              or a Hugging Face data set, a column of images, or contents of files as bytes;
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

        skcc.exceptions.ImageReadError
            If a file is missing or cannot be decoded; with ``on_error="warn"`` if none can. It is
            an OSError and a ValueError.

        FloatingPointError
            If the loss is not finite for the second time; the first time an epoch is repeated.
        """
        with self._plain_parameters():
            self._check_parameters()
            distributed.init_process_group()
            if unlabeled is not None:
                self._check_unlabeled()
                unlabeled = fitting.check_unlabeled_files(self, unlabeled)
            with fitting.restore_on_error(self):
                self._fit(X, y, settings.resolve_device(self.device), unlabeled)
        return self

    @with_callbacks
    def _fit(self, X, y, device, unlabeled):
        store, self._format = fitting.read_samples(self, X, device=device)
        self.invalid_ = sorted(store.invalid.items())
        warn_about_invalid(store)
        if len(store) < max(2, self.n_clusters):
            raise ValueError(
                f"n_samples={len(store)} should be >= n_clusters={self.n_clusters}, and at least 2"
            )
        self._fitted_with = self.get_params(deep=False)
        self.settings_ = settings.resolve_settings(self, store, device)
        self.image_shape_ = self._format.shape if self._format.is_image else None
        announce(type(self).__name__, self.settings_, self._rank_verbose())
        fitting.check_untrained(self, unlabeled)
        if unlabeled is not None:
            unlabeled = fitting.read_unlabeled(self, unlabeled)
        identity = fitting.run_identity(self, store, unlabeled)
        fitting.check_batches(self, len(store), identity)
        store, unlabeled = (s and s.to(device) for s in (store, unlabeled))
        tasks = FitTasks(self, X, y, self._planned_epochs())
        objective = self._train(store, unlabeled, device, tasks, identity)
        fitting.tell_outcome(self, self._set_fitted_attributes(objective, store))
        vars(self).pop("_initial_backbone", None)
        if device.type != "cpu":
            self._cache = _ModelCache()  # frees its memory; `predict` rebuilds it
        tasks.end(lambda: vars(self))

    @default_torch_state()
    def start_from(self, fitted) -> Self:
        """Let the next `fit` begin with features that another estimator has learned.

        The backbone is taken over, also from another method; the heads, and with them the clusters,
        are learned anew.

        Parameters
        ----------
        fitted : BaseDeepClusterer
            Fitted, on images with as many channels and with the same network.

        Returns
        -------
        self : object
            The estimator; a clone of it does not begin with these features.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.

        ValueError
            If its method has no backbone.
        """
        check_is_fitted(fitted)
        self._initial_backbone = fitting.backbone_weights(fitted)
        return self

    def _train(self, store, unlabeled, device, tasks, identity):
        """Train all phases; set the history, and return the last objective."""
        self._n_samples, self.history_, self._n_phases = len(store), [], 0

        def report(objective, history, n_phases):
            self.history_, self._n_phases = history, n_phases
            return tasks.end_epoch(lambda: self._fitted_snapshot(objective(), store))

        run = Run(
            store=store,
            unlabeled=unlabeled,
            settings=self.settings_,
            augmentation=fitting.augmentation_of(self),
            device=device,
            seed=distributed.compute_on_rank_zero(lambda: fitting.initial_seed(self, identity)),
            begin=tasks.begin_epoch,
            report=report,
            identity=identity,
            checkpoint_dir=self.checkpoint_dir,
            max_seconds=self.max_seconds,
            global_rng=isinstance(self.backbone, nn.Module) or callable(self.augment),
            cuda_graphs=self.cuda_graphs,
            compile_step=self.compile_step,
            sync_batchnorm=self.sync_batchnorm,
            title=type(self).__name__,
            verbose=self._rank_verbose(),
        )
        objective, self.history_, self._n_phases = run.train(self._phases_of_new_setup(store.shape))
        return objective

    def _rank_verbose(self):
        return self.verbose if distributed.is_rank_zero() else 0

    def _phases_of_new_setup(self, shape):
        """`_phases` on a new backbone, whose weights are drawn when the first phase is built."""
        if self.settings_["max_epochs"]:
            yield from self._phases(fitting.build_setup(self, shape))
        else:
            yield Phase(GivenFeatures(*shape))

    def _set_fitted_attributes(self, objective, store):
        """Set what a trained objective gives; return the sizes of its clusters, unsorted."""
        self.n_iter_ = len(self.history_)
        self._n_features_out = objective.n_embedding
        objective.release()
        self.weights_ = {k: v.cpu().numpy() for k, v in objective.state_dict().items()}
        return self._set_readout(objective, store)

    def _set_readout(self, objective, store):
        """Set what reads clusters off the features; return their sizes, unsorted."""
        self._order = np.arange(self.n_clusters)
        fitting.fit_readout(self, objective, store)
        self._cache = _ModelCache(fitting.build_model(self, objective))
        return self._order_clusters_by_size(store)

    def _order_clusters_by_size(self, store):
        """Number the clusters by size, so that empty ones come last; return the sizes."""
        model = self._cache.model
        p = model.sweep(store, model.assign)
        counts = np.bincount(p.argmax(axis=1), minlength=self.n_clusters)
        self._order = np.argsort(-counts, kind="stable")
        if hasattr(self, "cluster_centers_"):
            self.cluster_centers_ = self.cluster_centers_[self._order]
        self._cache = _ModelCache(fitting.build_model(self, model.objective))
        self.labels_ = store.scatter_to_input(p[:, self._order].argmax(axis=1), -1)
        return counts

    def _fitted_snapshot(self, objective, store):
        """The attributes of this estimator, had training ended now; for callbacks."""
        model = copy.copy(self)
        model._set_fitted_attributes(objective, store)
        return vars(model)

    # -- after fit --------------------------------------------------------------------------

    @default_torch_state()
    def predict(self, X) -> np.ndarray:
        """Find the cluster of each image.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are resized to it.

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
        store, model = self._read_fitted(X), self._fitted_model()
        labels = model.sweep(store, model.assign).argmax(axis=1)
        warn_about_invalid(store)
        return store.scatter_to_input(labels, -1)

    @default_torch_state()
    def predict_proba(self, X) -> np.ndarray:
        """Compute soft assignments of images to clusters.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are resized to it.

        Returns
        -------
        p : ndarray of shape (n_samples, n_clusters)
            Float32; rows sum to one. With ``readout="kmeans"`` it is the posterior of a mixture
            of equally likely Gaussians around the centres with one spherical covariance. They say
            how sure a sample is of its cluster, not how likely it is of one class. NaN for images
            that could not be read, where ``on_error="warn"``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`.
        """
        store, model = self._read_fitted(X), self._fitted_model()
        return model.rows_of(store, model.assign)

    @default_torch_state()
    def transform(self, X) -> np.ndarray:
        """Compute features of images, mostly the output of the backbone.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are resized to it.

        Returns
        -------
        features : ndarray of shape (n_samples, n_features_out)
            Float32; compare them by cosine. NaN for images that could not be read, where
            ``on_error="warn"``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`.
        """
        store, model = self._read_fitted(X), self._fitted_model()
        return model.rows_of(store, model.objective.embed)

    @default_torch_state()
    def score(self, X, y=None) -> float:
        """How well two random views of an image agree on its cluster; needs no labels.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images as in `fit`, of the same shape; files and PIL images are resized to it.

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
        Being adjusted for chance, scores can be compared across `n_clusters`: the two views of
        an image agree less often where clusters divide a class or join two. On scikit-learn's
        digits the score was largest at 10 clusters (docs/log.md). Differences are small, and a
        coarse partition that is stable scores well too, so do not rely on it alone. Without
        augmentation the views always agree, and the score means nothing.
        """
        from sklearn.metrics import adjusted_mutual_info_score  # slow to import

        store, model = self._read_fitted(X), self._fitted_model()
        both = model.rows_of_two_views(store, lambda view: model.assign(view).argmax(dim=1))
        first, second = both.astype(int).T
        if len(np.unique(both)) == 1:
            return 0.0
        return float(adjusted_mutual_info_score(first, second))

    # -- the fitted model -------------------------------------------------------------------

    def _read_fitted(self, X):
        """X as a store of samples like those of `fit`."""
        check_is_fitted(self)
        self._check_runtime_parameters()
        distributed.init_process_group()
        return fitting.read_samples(self._plain_copy(), X, known=self._format)[0]

    def _fitted_model(self):
        """The fitted model, on the device that is asked for now."""
        device = settings.resolve_device(self.device)
        model = self._cache.model
        if model is None or model.device != device:
            # One thread builds it, the others take what it built.
            with private_rng(0, device):
                model = self._cache.model
                if model is None or model.device != device:
                    objective = fitting.fitted_objective(self, device)
                    model = self._cache.model = fitting.build_model(self, objective)
        model.dtype = settings.precision_of(self, self.settings_["backbone"], device)
        return model

    def _objective(self):
        return self._fitted_model().objective

    def _new_objective(self):
        return fitting.new_objective(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self):
        """Plain values and arrays only, so that any format can hold them."""
        state = {name: value for name, value in super().__getstate__().items() if name != "_cache"}
        if "_format" in state:
            state["_format"] = dict(vars(self._format))
        return state

    def __setstate__(self, state):
        super().__setstate__(dict(state))
        if "_format" in state:
            self._format = data.Format(**state["_format"])
        if "weights_" in state:
            self._cache = _ModelCache()
