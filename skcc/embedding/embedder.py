"""`ImageEmbedder`, the transformer, and the loop over batches of images."""

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import field
from numbers import Integral
from pathlib import Path
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from skcc import data, distributed
from skcc.ambient import default_torch_state
from skcc.callbacks import ImageProgress
from skcc.data import decoding
from skcc.data.sources import DatasetImages, file_key
from skcc.embedding.cache import EmbeddingCache
from skcc.embedding.networks import FrozenNetwork, load_network, moments
from skcc.fitting import restore_on_error
from skcc.inference import warn_about_invalid
from skcc.training.settings import check_device
from skcc.validation import check_choice, check_folder, check_integer, plain, raise_invalid

_N_AHEAD = 2  # batches that are decoded while the network computes
_BATCH = {"cpu": 16}  # images per batch by type of device
_BATCH_ELSEWHERE = 128


@dataclasses.dataclass(eq=False, repr=False)
class ImageEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn images into vectors by a frozen network that was trained on other images.

    It is the first step of a pipeline; any clusterer of vectors may follow. Nothing is trained,
    and pickles hold the name of the network but not its weights.

    Parameters
    ----------
    network : str or nn.Module, default="torchvision/efficientnet_b0"
        The network, as one of

        - ``"torchvision/NAME"``, a classifier of torchvision with its best weights, or with
          others, as in ``"torchvision/resnet50.IMAGENET1K_V1"``;
        - ``"timm/NAME"``, as in ``"timm/vit_small_patch14_dinov2.lvd142m"``; needs timm;
        - ``"pip/efficientnet-lite0"``, whose weights are a package;
        - a module from images of shape (n, 3, size, size) to features of shape (n, d).

        Classifiers are taken off. Libraries download weights by themselves where they are not
        yet on the machine.

    weights : str or Path, default=None
        File of weights for `network`, for machines without a network: what `torch.save` writes of
        a state dict, or .safetensors. Nothing in it is executed.

    size : int, default=None
        Side of the square that the network sees, in pixels. None is what it was trained on; a
        module needs a number.

    normalize : "imagenet" or tuple of (mean, std), default=None
        What is subtracted from pixels and what they are divided by, where white is 1: numbers or
        triples. None is what the network was trained with; a module needs a value.

    batch_size : int, default="auto"
        Images per forward pass. "auto" is 16 on a CPU and 128 elsewhere.

    image_shape : tuple of int, default=None
        Height and width, or height, width and channels, of images that are rows of a table.

    device : str, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", "mps". "auto" takes an accelerator if there
        is one.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which the network computes. "auto" is bfloat16 on CUDA, float32 elsewhere.

    n_jobs : int, default=None
        Threads that decode image files. None means 1, -1 all cores.

    cache_dir : str or Path, default=None
        Folder that keeps embeddings, by path, size and time of files, or by pixels of other
        images, and by network. Only new images are embedded then.

    on_error : {"raise", "warn"}, default="raise"
        What happens if an image cannot be read: an error that names it, or a warning; then its
        embedding is NaN, which the estimators of this package take for an image without a
        cluster if they have ``on_error="warn"`` as well.

    verbose : int, default=0
        0 is silent, 1 shows progress.

    Attributes
    ----------
    n_features_in_ : int
        Numbers per image; 1 for files and PIL images.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Name of the column of X, if it is one of a table.

    weights_hash_ : str
        Hash of the weights of the network. Later another network of the same name is an error.

    settings_ : dict
        The network, and how it gets its images.

    invalid_ : list of (int, str)
        Index and reason of each image that `fit_transform` could not read.

    See Also
    --------
    skcc.ContrastiveClustering : Clusters vectors as well as images.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from skcc import ImageEmbedder
    >>> network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    >>> embedder = ImageEmbedder(network, size=8, normalize=(0, 1))
    >>> embedder.fit_transform(np.zeros((5, 8, 8, 3), np.uint8)).shape
    (5, 12)
    """

    network: str | nn.Module = "torchvision/efficientnet_b0"
    weights: str | Path | None = field(default=None, kw_only=True)
    size: int | None = field(default=None, kw_only=True)
    normalize: object = field(default=None, kw_only=True)
    batch_size: int | str = field(default="auto", kw_only=True)
    image_shape: tuple[int, ...] | None = field(default=None, kw_only=True)
    device: str = field(default="auto", kw_only=True)
    precision: str = field(default="auto", kw_only=True)
    n_jobs: int | None = field(default=None, kw_only=True)
    cache_dir: str | Path | None = field(default=None, kw_only=True)
    on_error: str = field(default="raise", kw_only=True)
    verbose: int = field(default=0, kw_only=True)

    # -- fit --------------------------------------------------------------------------------

    @default_torch_state()
    def fit(self, X, y=None) -> Self:
        """Load the network, and learn what the numbers of images mean; no weight is changed.

        Of files only headers are read.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images in every form that `skcc.ContrastiveClustering.fit` takes, with 1 to 4
            channels: gray, gray with alpha, RGB or RGBA. Alpha is laid on white.

        y : None, default=None
            Ignored; scikit-learn passes it.

        Returns
        -------
        self : object
            The fitted embedder.

        Raises
        ------
        ValueError
            If a parameter is out of range, if there is no such network, or if X does not hold
            images; the nearest names are listed.

        ImportError
            If the library of the network is not installed.

        skcc.exceptions.WeightsNotFoundError
            If the weights are not here and cannot be downloaded; says what to fetch.

        skcc.exceptions.ImageReadError
            If a file is missing or is no image; with ``on_error="warn"`` if none is.
        """
        self._fit(data.resolve(X))
        return self

    @default_torch_state()
    def fit_transform(self, X, y=None) -> np.ndarray:
        """Load the network, and embed images.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images, as in `fit`.

        y : None, default=None
            Ignored; scikit-learn passes it.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features_out)
            As `transform` returns them.

        Raises
        ------
        ValueError
            As `fit`.

        skcc.exceptions.ImageReadError
            If an image cannot be read; with ``on_error="warn"`` if none can.
        """
        source = data.resolve(X)
        self._fit(source)
        store = self._read(source)
        rows = self._embed(store, source)
        if len(store.invalid) == store.n_images:
            raise decoding.none_could_be_read(store.invalid)
        self.invalid_ = sorted(store.invalid.items())
        warn_about_invalid(store)
        return rows

    def _fit(self, source):
        self._check_parameters()
        distributed.init_process_group()
        with restore_on_error(self):
            network = self._load()
            files = source.kind in ("files", "path column")
            fmt = self._learn_format(source, network.preprocessing.resize)
            if files:
                side = network.preprocessing.resize
                fmt = dataclasses.replace(fmt, shape=(side, side, 3))
            elif not fmt.is_image or not 1 <= fmt.shape[2] <= 4:
                raise ValueError(
                    f"X holds {_described(fmt)}; wanted images with 1 to 4 channels. Rows of a "
                    "table are images if image_shape says of which shape"
                )
            self._check_names(source, reset=True)
            self._format, self._n_features_out = fmt, network.width
            if source.kind != "table":
                self.n_features_in_ = 1 if files else fmt.n_features
            self.weights_hash_ = network.weights_hash
            self.settings_ = self._describe(network)
            self._loaded = network

    def _learn_format(self, source, side):
        return data.learn_format(
            source,
            lambda short: side,
            image_shape=self.image_shape,
            n_jobs=self.n_jobs,
            cache_dir=self.cache_dir,
            on_error=self.on_error,
        )

    def _check_names(self, source, reset):
        """Apply scikit-learn's checks of feature names to tables and columns of paths."""
        if source.kind == "table":
            validate_data(self, source.value, reset=reset, skip_check_array=True)
        elif source.kind == "path column":
            validate_data(self, source.table, reset=reset, skip_check_array=True)

    def _describe(self, network):
        """Return what makes the embeddings, as plain values for people and records."""
        preprocessing = dataclasses.asdict(network.preprocessing)
        name = self.network if isinstance(self.network, str) else network.name
        return {"network": name, "precision": str(network.dtype).partition(".")[2],
                **preprocessing}  # fmt: skip

    def _check_parameters(self):
        if not isinstance(self.network, (str, nn.Module)):
            raise_invalid("network", self.network, "a name such as torchvision/resnet50, or a "
                          "torch.nn.Module")  # fmt: skip
        if self.weights is not None and not isinstance(self.weights, (str, os.PathLike)):
            raise_invalid("weights", self.weights, "a path or None")
        check_integer("size", self.size, 1, also=[None])
        if self.normalize is not None:
            moments(self.normalize)
        check_integer("batch_size", self.batch_size, 1, also=["auto"])
        check_device(self.device)
        check_choice("precision", self.precision, ["auto", "fp32", "bf16"])
        check_choice("on_error", self.on_error, ["raise", "warn"])
        check_folder("cache_dir", self.cache_dir)
        check_integer("verbose", self.verbose, 0, also=[False, True])
        n_jobs = plain(self.n_jobs)
        if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
            raise_invalid("n_jobs", self.n_jobs, "an int other than 0, or None")

    # -- after fit --------------------------------------------------------------------------

    @default_torch_state()
    def transform(self, X) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Images, as in `fit`; files and PIL images may have any size.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features_out)
            Float32; compare them by cosine. NaN for images that could not be read, where
            ``on_error="warn"``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        ValueError
            If the images are not like those of `fit`, or the network here has other weights.

        skcc.exceptions.ImageReadError
            If an image cannot be read and `on_error` is "raise".
        """
        check_is_fitted(self)
        self._check_parameters()
        source = data.resolve(X)
        self._check_names(source, reset=False)
        store = self._read(source)
        rows = self._embed(store, source)
        warn_about_invalid(store)
        return rows

    def _read(self, source):
        network = self._fitted_network()
        store, _ = data.read(
            source,
            image_shape=self.image_shape,
            known=self._format,
            n_jobs=self.n_jobs,
            on_error=self.on_error,
            resize=network.preprocessing.file_resize(),
        )
        return store

    def _embed(self, store, source):
        """Embed the images of a store; return one row per image of X."""
        network = self._fitted_network()
        size = plain(self.batch_size)
        if size == "auto":
            size = _BATCH.get(network.device.type, _BATCH_ELSEWHERE)
        verbose = self.verbose if distributed.is_rank_zero() else 0
        cache = None
        if self.cache_dir is not None:
            identity = network.identity() | {
                "decoding": decoding.version(),
                "levels": [self._format.low, self._format.high],
            }
            cache = EmbeddingCache(self.cache_dir, identity, network.width)
        rows = embed(network, store, _keys(source), cache, batch_size=size, verbose=verbose)
        return store.scatter_to_input(rows, np.nan)

    def _fitted_network(self):
        """Return the network of `fit`, loaded again where it is not in memory."""
        network = getattr(self, "_loaded", None)
        if network is None or network.made_from != self._origin():
            network = self._load()
            if network.weights_hash != self.weights_hash_:
                raise ValueError(
                    f"{network.name} has other weights here than where the embedder was fitted: "
                    "give the file of those as weights=, or fit again"
                )
            self._loaded = network
        return network

    def _load(self):
        """Load the network, and note which parameters it was made from."""
        origin = self._origin()
        network = load_network(self.network, **{k: origin[k] for k in origin if k != "network"})
        network.made_from = origin
        return network

    def _origin(self):
        names = ("network", "weights", "size", "normalize", "device", "precision")
        return {name: plain(getattr(self, name)) for name in names}

    # -- scikit-learn -----------------------------------------------------------------------

    def __getstate__(self):
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_loaded"}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _described(fmt):
    if fmt.is_image:
        return f"images with {fmt.shape[2]} channels"
    return f"vectors of {fmt.n_features} numbers"


def _keys(source) -> list[bytes | None] | None:
    """Keys of files by their paths; None for other images, whose key is that of their pixels."""
    if source.kind not in ("files", "path column") or isinstance(source.value, DatasetImages):
        return None
    return [file_key(item) for item in source.value]


# -- the loop -------------------------------------------------------------------------------


def embed(
    network: FrozenNetwork,
    store: data.SampleStore,
    keys: Sequence[bytes | None] | None,
    cache: EmbeddingCache | None,
    *,
    batch_size: int,
    verbose: int = 0,
) -> np.ndarray:
    """Embed all samples of a store; several processes share the work.

    Memory grows with the number of embeddings only: images are read batch by batch, the next
    batches while the network computes.
    """
    broken = _broken(store)
    rows = np.full((len(store), network.width), np.nan, dtype=np.float32)
    todo = torch.arange(len(store))
    if cache is not None:
        keys = _with_keys_of_pixels(keys, store, batch_size)
        found = torch.from_numpy(cache.fill(keys, rows))
        todo = distributed.compute_on_rank_zero(lambda: todo[~found])
    part = distributed.rank_slice(len(todo), batch_size)
    own = todo[part.start : part.stop]
    where = own.numpy()  # NumPy takes a tensor of one number for a number
    progress = ImageProgress("ImageEmbedder", len(own), verbose)
    with distributed.raise_on_all_ranks(), progress, cache or nullcontext():
        for index, batch in _read_ahead(store, own.split(batch_size) if len(own) else ()):
            progress(len(index))
            valid = [row for row, i in enumerate(index.tolist()) if i not in broken]
            if not valid:
                continue
            if len(valid) < len(index):
                index, batch = index[valid], batch[valid]
            features = network(batch).numpy()
            rows[index.numpy()] = features
            if cache is not None:
                cache.add([keys[i] for i in index.tolist()], features)
    store.invalid = distributed.merge_dicts(store.invalid)
    gathered = distributed.all_gather_rows(torch.from_numpy(rows[where]), len(todo), batch_size)
    rows[todo.numpy()] = gathered.numpy()
    return rows


def _read_ahead(store, parts) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over batches with their indices; a thread reads the next ones meanwhile."""
    pool, pending = ThreadPoolExecutor(1), deque()
    try:
        for index in parts:
            pending.append((index, pool.submit(store.batch, index.to(store.device))))
            if len(pending) > _N_AHEAD:
                index, batch = pending.popleft()
                yield index, batch.result()
        for index, batch in pending:
            yield index, batch.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _broken(store):
    """Indices of samples that cannot be read, as far as they are known; it grows."""
    return store.invalid if isinstance(store, data.SourceStore) else {}


def _with_keys_of_pixels(keys, store, batch_size):
    """Give images without a key that of their pixels, for which they are read once more."""
    broken = _broken(store)
    keys = [None] * len(store) if keys is None else list(keys)
    without = torch.tensor([i for i, key in enumerate(keys) if key is None], dtype=torch.long)
    for index, batch in _read_ahead(store, without.split(batch_size) if len(without) else ()):
        for i, pixels in zip(index.tolist(), batch.cpu().numpy(), strict=True):
            if i not in broken:
                content = np.ascontiguousarray(pixels)
                digest = hashlib.blake2b(f"{pixels.shape}".encode(), digest_size=16)
                digest.update(content)
                keys[i] = digest.digest()
    return keys
