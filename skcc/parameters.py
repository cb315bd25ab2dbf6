"""Parameters and attributes that all estimators share: declared, documented, checked once."""

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import dataclass_transform

from numpy.random import Generator, RandomState
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import nn

from skcc.augment import AUGMENTATIONS
from skcc.backbones import BACKBONES
from skcc.docstrings import merge_numpydoc
from skcc.training.engine import OPTIMIZERS
from skcc.training.phases import has_checkpoints
from skcc.training.schedules import SCHEDULES
from skcc.training.settings import check_device
from skcc.validation import (
    check_choice,
    check_folder,
    check_integer,
    check_real,
    plain,
    raise_invalid,
)


@dataclass_transform(kw_only_default=True)
@dataclass(eq=False, repr=False, kw_only=True)
class SharedParameters(BaseEstimator):
    """Parameters, and documentation of the attributes, of every estimator.

    Each subclass becomes a keyword-only dataclass: it declares and documents its own parameters,
    and those of its bases join its signature and its docstring.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.

    backbone : str or nn.Module, default="auto"
        Network from images to features: a name in `skcc.backbones.BACKBONES`, or a module
        from (n, channels, height, width) to (n, d), which is copied, never trained in place.
        "auto" is the small convolutional network "conv4" on CPUs, "resnet18" on accelerators,
        and "mlp" for vectors. The others are "resnet10-narrow", "resnet34", "resnet50", and those
        of 18, 34 and 50 layers with "-small" or "-image" at the end, for the first layer.

    augment : str or callable, default="auto"
        How views are drawn: a name in `skcc.augment.AUGMENTATIONS`, an instance of
        `skcc.augment.ImageAugmentation`, or a function from a float batch of images in [0, 1],
        (n, channels, height, width), to a batch of views. "auto" is "natural-wide" for colour
        images, with larger crops than "natural", which is that of Contrastive Clustering; "gray",
        without flips, for others; and "vector" for vectors. There are also "natural-strong",
        "natural-strong-blur", "natural-moco" and "none".

    image_size : int, default=None
        Short side of the views, in pixels. None is that of the images, but on CPUs at most 16, or
        20 for images of 40 or more, and on accelerators at most 224.

    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of the images that come as rows of a
        table, or where the axes of an array leave open which one holds the channels; an error if
        it contradicts the data. None takes a table for vectors.

    max_epochs : int, default="auto"
        Passes over the images. "auto" gives about 500 steps of AdamW, but at least 12 epochs, and
        two to four fifths of that with Muon; some methods take half or a quarter. `settings_` has
        the number.

    max_seconds : float, default=None
        Wall-clock seconds that training may take. It ends after the last epoch that fits, with a
        warning; with `checkpoint_dir`, calling `fit` again goes on from there. None sets no limit.

    batch_size : int, default="auto"
        Images per optimizer step. "auto" is 256, or 8 per cluster if that is more.

    optimizer : {"auto", "adamw", "muon"}, default="auto"
        "muon" makes the updates of matrices and of the filters of convolutions orthogonal, and
        takes AdamW for all other parameters; it learns as much in fewer steps. "auto" is "muon"
        for images and the package's own networks, on CPUs and CUDA, in most methods, which were
        found to cluster as well by it on CPUs; else "adamw".

    learning_rate : float, default="auto"
        Peak learning rate. "auto" is 0.003, unless the method has its own.

    weight_decay : float, default=0.0
        Decoupled weight decay.

    schedule : {"one-cycle", "constant"}, default="one-cycle"
        How the learning rate changes during training.

    readout : {"auto", "head", "kmeans", "spectral"}, default="auto"
        How clusters are read off what was learned. "auto" refines the clusters of the head, of
        k-means and of spectral clustering by the nearest neighbours of each sample among the
        features, and chooses without labels; see `skcc.readouts`. "head" takes the assignments
        that were trained, as the papers do, "kmeans" k-means of the normalised features, and
        "spectral" spectral clustering of their nearest neighbours.

    checkpoint_dir : str or Path, default=None
        Folder where the state of training is kept. Calling `fit` again with the same folder,
        data and parameters continues an interrupted run, and merely loads a finished one.

    device : str, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", "mps". "auto" takes an accelerator if there
        is one.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which networks compute. "auto" is bfloat16 on CUDA, and in contrastive methods on
        CPUs with AVX512-BF16 or AMX, for the image networks of this package; float32 elsewhere.

    cuda_graphs : {"auto", True, False}, default="auto"
        Whether training steps are captured as a CUDA graph and replayed, which saves the time of
        launching kernels. Only on CUDA, with the package's own networks and augmentations, and in
        one process; elsewhere it changes nothing. "auto" does it for the methods whose captured
        steps have been tested on a GPU: all but deconvolutional networks, whose steps cannot be
        captured, and autoencoders that draw noise.

    compile_step : bool, default=False
        Whether the views and losses of a training step are compiled by torch.compile, and all views
        pass through the network in one call, with batch statistics of each. It takes about a
        minute, needs a compiler, and is meant for long training on CUDA; with several processes it
        changes nothing. It goes together with `cuda_graphs`.

    sync_batchnorm : bool, default=True
        Whether several processes normalise by the statistics of the whole batch, so that many
        train the model that one trains. False takes those of each process's part of the batch,
        which is faster.

    n_jobs : int, default=None
        Threads that decode image files. None means 1, -1 all cores.

    cache_dir : str or Path, default=None
        Folder in which `fit` keeps decoded images, mapped into memory: for sets that do not fit
        into memory, and for a quick start with the same files later. None decodes into memory.

    on_error : {"raise", "warn"}, default="raise"
        What to do with unreadable images: raise an error that names the first, or warn; then they
        are listed in `invalid_` and get the label -1.

    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, views and batch order. An int makes runs repeatable.

    verbose : int, default=0
        0 is silent, 1 shows the progress of training.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each training image. Clusters are numbered by size, the largest is 0. Images
        that could not be read have -1.

    invalid_ : list of (int, str)
        Index and reason of each training image that could not be read.

    n_iter_ : int
        Epochs of training.

    history_ : list of dict
        Mean loss terms of each epoch, weighted.

    settings_ : dict
        Values chosen for "auto".

    readout_scores_ : dict of str to float
        How much the refined clusters of each candidate tell about the clusters of neighbours, in
        nats, where `readout` is "auto". They compare these candidates, not different fits.

    agreement_ : float
        Mean share of samples on which the other refined candidates agree with `labels_`, where
        `readout` is "auto"; 1 if there was one candidate. Below .6 `fit` warns.

    image_shape_ : tuple of (int, int, int) or None
        Height, width and channels at which images are stored; None for vectors.

    weights_ : dict of str to ndarray
        The fitted network.

    cluster_centers_ : ndarray of shape (n_clusters, n_features_out)
        Centres in the space of normalised features; only where clusters are found by k-means.

    n_features_in_ : int
        Numbers per image, or columns of the table; 1 for files and PIL images.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it has any that are strings.
    """

    n_clusters: int = field(default=8, kw_only=False)
    backbone: str | nn.Module = "auto"
    augment: object = "auto"
    image_size: int | None = None
    image_shape: tuple[int, ...] | None = None
    max_epochs: int | str = "auto"
    max_seconds: float | None = None
    batch_size: int | str = "auto"
    optimizer: str = "auto"
    learning_rate: float | str = "auto"
    weight_decay: float = 0.0
    schedule: str = "one-cycle"
    readout: str = "auto"
    checkpoint_dir: str | Path | None = None
    device: str = "auto"
    precision: str = "auto"
    cuda_graphs: bool | str = "auto"
    compile_step: bool = False
    sync_batchnorm: bool = True
    n_jobs: int | None = None
    cache_dir: str | Path | None = None
    on_error: str = "raise"
    random_state: int | RandomState | None = None
    verbose: int = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("__doc__")
        dataclasses.dataclass(cls, eq=False, repr=False, kw_only=True)
        cls.__doc__ = own  # where there is none, dataclass writes the signature
        cls.__doc__ = merge_numpydoc(cls, list(inspect.signature(cls).parameters)) or None

    def _parameters_for(self, function):
        """The parameters that a function takes, by name."""
        names = _names_of_arguments(function)
        return {name: v for name, v in self.get_params(deep=False).items() if name in names}

    @contextlib.contextmanager
    def _plain_parameters(self) -> Iterator[None]:
        """Let parameters be plain values while the estimator is fitted, and restore the user's."""
        given = self.get_params(deep=False)
        changed = {name: plain(v) for name, v in given.items() if plain(v) is not v}
        vars(self).update(changed)
        try:
            yield
        finally:
            for name, value in changed.items():
                if getattr(self, name) is value:  # else a callback has set another one
                    setattr(self, name, given[name])

    def _plain_copy(self):
        """Return a shallow copy whose parameters are plain values."""
        copied = copy.copy(self)
        for name, value in self.get_params(deep=False).items():
            setattr(copied, name, plain(value))
        return copied

    def _check_parameters(self):
        """Raise ValueError if a parameter is invalid; subclasses add their own checks."""
        check_integer("n_clusters", self.n_clusters, 1)
        check_integer("image_size", self.image_size, 1, also=[None])
        check_integer("max_epochs", self.max_epochs, 1, also=["auto"])
        check_real("max_seconds", self.max_seconds, 0, closed=False, also=[None])
        check_integer("batch_size", self.batch_size, 2, also=["auto"])
        check_choice("optimizer", self.optimizer, ["auto", *OPTIMIZERS])
        check_real("learning_rate", self.learning_rate, 0, closed=False, also=["auto"])
        check_real("weight_decay", self.weight_decay, 0)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("readout", self.readout, ["auto", "head", "kmeans", "spectral"])
        if self.readout == "head" and not self._head_is_trained():
            raise ValueError(
                f"readout='head' needs assignments that are trained, and {type(self).__name__} has "
                "none with these parameters; wanted readout='auto' or readout='kmeans'"
            )
        check_choice("cuda_graphs", self.cuda_graphs, ["auto", True, False])
        check_choice("compile_step", self.compile_step, [True, False])
        check_choice("sync_batchnorm", self.sync_batchnorm, [True, False])
        check_folder("checkpoint_dir", self.checkpoint_dir, is_complete=has_checkpoints)
        check_folder("cache_dir", self.cache_dir)
        check_integer("verbose", self.verbose, 0, also=[False, True])
        _check_random_state(self.random_state)
        self._check_runtime_parameters()
        _check_backbone(self.backbone)
        if not callable(self.augment):
            check_choice("augment", self.augment, ["auto", *AUGMENTATIONS])
        if self.image_shape is not None:
            _check_image_shape(self.image_shape)

    def _check_runtime_parameters(self):
        """Raise ValueError if a parameter that a fitted estimator uses as well is invalid."""
        check_device(self.device)
        check_choice("precision", self.precision, ["auto", "fp32", "bf16"])
        check_choice("on_error", self.on_error, ["raise", "warn"])
        n_jobs = plain(self.n_jobs)
        if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
            raise_invalid("n_jobs", self.n_jobs, "an int other than 0, or None")


def _names_of_arguments(function):
    """Names of the arguments of a function or class, with those that it passes on to a base."""
    names = set()
    for target in function.__mro__ if inspect.isclass(function) else [function]:
        parameters = inspect.signature(target).parameters
        names |= {*parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _check_backbone(backbone):
    if not isinstance(backbone, nn.Module):
        check_choice("backbone", backbone, ["auto", *BACKBONES])
    elif any(tensor.is_meta for tensor in backbone.state_dict().values()):
        raise ValueError(
            "backbone is on the device 'meta' and has no values; give a module on another device"
        )


def _check_random_state(random_state):
    try:
        check_random_state(plain(random_state))
    except ValueError:
        expected = "an int from 0 to 2**32 - 1, a numpy.random.RandomState or None"
        if isinstance(random_state, Generator):
            expected += ", such as int(generator.integers(2**32))"
        raise_invalid("random_state", random_state, expected)


def _check_image_shape(shape):
    shape = plain(shape)
    if not isinstance(shape, (tuple, list)) or len(shape) not in (2, 3):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels) or None; "
            f"got {shape!r}"
        )
    for side in shape:
        check_integer("each entry of image_shape", side, 1)
