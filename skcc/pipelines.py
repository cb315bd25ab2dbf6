"""A pipeline of an `ImageEmbedder` and a clusterer as one file, which names the network.

The weights of the network are somebody else's, and stay where they are.
"""

import os
from collections.abc import Mapping

from sklearn.base import ClusterMixin
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted

import skcc
from skcc import persistence
from skcc.data import Format
from skcc.embedding import ImageEmbedder
from skcc.validation import plain

_EMBEDDER = "embedder"  # entry of the header
_PARAMETERS = ("network", "size", "normalize", "image_shape", "precision", "on_error")
# Entries of the header and their types: a file may come from somebody else.
_TYPES = {"parameters": dict, "weights": (str, type(None)), "weights_hash": str, "width": int,
          "n_features_in": int, "format": dict, "settings": dict}  # fmt: skip


def parts(estimator) -> tuple[ImageEmbedder | None, ClusterMixin]:
    """Split a pipeline of an embedder and a clusterer.

    Parameters
    ----------
    estimator : Pipeline or clusterer
        Fitted or not.

    Returns
    -------
    embedder : ImageEmbedder or None
        None if it is no pipeline.

    clusterer : object
        The last step, or the estimator itself.

    Raises
    ------
    ValueError
        If it is another pipeline.
    """
    if not isinstance(estimator, Pipeline):
        return None, estimator
    steps = [step for _, step in estimator.steps]
    if len(steps) != 2 or not isinstance(steps[0], ImageEmbedder):
        names = ", ".join(type(step).__name__ for step in steps)
        raise ValueError(f"wanted a pipeline of ImageEmbedder and a clusterer; got {names}")
    return steps[0], steps[1]


def save(estimator, path) -> None:
    """Write a fitted clusterer, or a pipeline of `ImageEmbedder` and one, to one safetensors file.

    Parameters
    ----------
    estimator : Pipeline or BaseDeepClusterer
        Fitted. The clusterer is stored as by its own `save`; of the network only its name, the
        path of its file of weights and a hash of them.

    path : str or Path
        The file. One that is there already is replaced.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        Before `fit`.

    TypeError
        If the network is a module and has no name; pickle such a pipeline.

    OSError
        If the file cannot be written.
    """
    embedder, clusterer = parts(estimator)
    if embedder is None:
        clusterer.save(path)
        return
    check_is_fitted(embedder)
    if not isinstance(embedder.network, str):
        raise TypeError(
            "the network is a module, of which a file cannot hold the name; pickle the pipeline"
        )
    fmt = embedder._format
    notes = {
        "parameters": {name: _plain(getattr(embedder, name)) for name in _PARAMETERS},
        "weights": None if embedder.weights is None else os.path.abspath(embedder.weights),
        "weights_hash": embedder.weights_hash_,
        "width": embedder._n_features_out,
        "n_features_in": embedder.n_features_in_,
        "format": {
            "shape": list(fmt.shape), "low": fmt.low, "high": fmt.high, "numbers": fmt.numbers,
            "resize": fmt.resize, "channels_first": fmt.channels_first,
        },
        "settings": embedder.settings_,
    }  # fmt: skip
    persistence.write_estimator(path, clusterer, {_EMBEDDER: notes})


def load(path, *, device="auto", weights=None):
    """Read what `save` wrote; nothing in the file is executed.

    The network is loaded when it is needed; other weights than those of `fit` are an error then.

    Parameters
    ----------
    path : str or Path
        The file.

    device : str, default="auto"
        Where to compute from now on.

    weights : str or Path, default=None
        Where the file of weights of the network is now, if it has moved.

    Returns
    -------
    estimator : Pipeline or BaseDeepClusterer
        Fitted.

    Raises
    ------
    FileNotFoundError
        If there is no file.

    ValueError
        If the file is damaged, foreign or of a newer skcc.
    """
    header, _ = persistence.read(path, {})
    name = header.get("estimator")
    public = {n: getattr(skcc, n) for n in skcc.__all__}
    known = [n for n, c in public.items() if isinstance(c, type) and issubclass(c, ClusterMixin)]
    if name not in known:
        raise ValueError(f"{path} holds a {name}; this skcc knows {', '.join(known)}")
    clusterer = public[name].load(path, device=device)
    if _EMBEDDER not in header:
        if weights is not None:
            raise ValueError(f"{path} names no network that could take the weights {weights}")
        return clusterer
    try:
        embedder = _embedder_of(header[_EMBEDDER], weights)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return make_pipeline(embedder.set_params(device=device), clusterer)


def _embedder_of(notes: Mapping[str, object], weights) -> ImageEmbedder:
    """Make the embedder that a header describes."""
    for name, kind in _TYPES.items():
        if not isinstance(notes[name], kind):
            raise TypeError(f"{name} is of type {type(notes[name]).__name__}")
    unknown = notes["parameters"].keys() ^ set(_PARAMETERS)
    if unknown or not isinstance(notes["parameters"]["network"], str):
        raise ValueError(f"it has the parameters {', '.join(notes['parameters'])}")
    stored = notes["weights"]
    embedder = ImageEmbedder(**notes["parameters"], weights=stored if weights is None else weights)
    fmt = Format(**notes["format"])
    shape = fmt.shape
    if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"its images have the shape {shape}")
    embedder._format = Format(**notes["format"] | {"shape": tuple(shape)})
    embedder._n_features_out, embedder.n_features_in_ = notes["width"], notes["n_features_in"]
    embedder.weights_hash_, embedder.settings_ = notes["weights_hash"], notes["settings"]
    return embedder


def _plain(value):
    """Return a parameter as JSON has it."""
    value = plain(value)
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def image_format(estimator) -> Format | None:
    """Return the format in which an estimator sees images; None if it was fitted on vectors."""
    embedder, clusterer = parts(estimator)
    return _format_of(clusterer) if embedder is None else embedder._format


def _format_of(clusterer):
    return clusterer._format if clusterer.image_shape_ is not None else None
