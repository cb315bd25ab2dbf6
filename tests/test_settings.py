"""Settings: the values of "auto", and their types."""

import numpy as np
import pytest
import torch

from skcc import (
    IIC,
    AutoencoderClustering,
    ContrastiveClustering,
    DCGANClustering,
    TwinContrastClustering,
)
from skcc.augment import AUGMENTATIONS, ImageAugmentation
from skcc.backbones import BACKBONES
from skcc.data import Store
from skcc.experiments.recipes import RECIPES
from skcc.training.settings import (
    RUNTIME_PARAMETERS,
    augmentation_name,
    auto_epochs,
    backbone_name,
    batch_size,
    image_side,
    max_epochs,
    resolve_optimizer,
    resolve_settings,
    steps_per_epoch,
    stored_side,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def store(*shape):
    samples = torch.randint(256, shape, generator=torch.Generator().manual_seed(0))
    return Store(samples.to(torch.uint8))


def test_augmentation_goes_by_channels_and_colour():
    assert augmentation_name(store(5, 8, 8, 3)) == "natural-wide"
    assert augmentation_name(store(5, 8, 8, 4)) == "natural-wide"
    for channels in (1, 2, 7):
        assert augmentation_name(store(5, 8, 8, channels)) == "gray"
    gray_as_rgb = Store(store(5, 8, 8, 1).samples.expand(5, 8, 8, 3))
    assert augmentation_name(gray_as_rgb) == "gray"
    assert augmentation_name(Store(torch.zeros(5, 8))) == "vector"
    assert AUGMENTATIONS["gray"].flip == 0


@pytest.mark.parametrize(("side", "view"), [(8, 8), (16, 16), (28, 16), (40, 20), (400, 20)])
def test_views_are_small_on_a_cpu(side, view):
    assert image_side(side, CPU) == view
    assert image_side(side, CUDA) == min(side, 224)
    assert view <= stored_side(side, view) <= side


def test_backbones_go_by_device_and_kind():
    assert backbone_name((16, 16, 3), CPU) == "conv4"
    assert backbone_name((16, 16, 3), CUDA) == "resnet18"
    assert backbone_name((9,), CUDA) == "mlp"
    assert {"conv4", "resnet18", "mlp"} <= BACKBONES.keys()


@pytest.mark.parametrize(
    ("cls", "shape", "name"),
    [
        (ContrastiveClustering, (8, 8, 3), "resnet18"),
        (DCGANClustering, (8, 8, 3), "conv4"),
        (DCGANClustering, (9,), "mlp"),
    ],
)
def test_a_method_may_have_a_network_of_its_own(cls, shape, name):
    settings = resolve_settings(cls(2, precision="fp32"), Store(torch.zeros(20, *shape)), CUDA)
    assert settings["backbone"] == name


@pytest.mark.parametrize("n", [3, 400, 1797, 10_000, 60_000])
@pytest.mark.parametrize("n_clusters", [2, 10, 50])
def test_the_budget_is_of_steps(n, n_clusters):
    size = batch_size(n, n_clusters)
    assert size <= n
    assert size >= min(n, 4 * n_clusters), "no warning by default, where it can be helped"
    epochs = max_epochs(n, size)
    steps = epochs * -(-n // size)
    assert steps >= 450
    assert epochs == 12 or steps <= 550


def test_muon_takes_a_share_of_the_epochs_of_adamw():
    for cls, share in [(ContrastiveClustering, 0.4), (TwinContrastClustering, 0.6), (IIC, 0.8)]:
        for n in (60, 1797, 10_000, 60_000):
            of_adamw, of_muon = (auto_epochs(cls(), n, 256, name) for name in ("adamw", "muon"))
            assert of_adamw == max_epochs(n, 256)
            assert share * of_adamw <= of_muon < share * of_adamw + 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_settings_report_what_was_chosen():
    X = np.random.default_rng(0).integers(0, 256, (40, 36, 48, 3), dtype=np.uint8)
    model = ContrastiveClustering(2, max_epochs=2, random_state=0).fit(X)
    assert model.settings_ == {
        "backbone": "conv4" if model.settings_["device"] == "cpu" else "resnet18",
        "augment": "natural-wide",
        "max_epochs": 2,
        "batch_size": 40,
        "optimizer": "muon",
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "schedule": "one-cycle",
        "image_size": (18, 24) if model.settings_["device"] == "cpu" else (36, 48),
        "device": model.settings_["device"],
        "precision": "float32" if model.settings_["device"] == "cpu" else "bfloat16",
        "readout": max(model.readout_scores_, key=model.readout_scores_.get),
    }


OPTIMIZERS_OF_SHAPES = [
    (ContrastiveClustering(), (16, 16, 3), CPU, "muon"),
    (ContrastiveClustering(backbone="resnet18"), (16, 16, 3), CPU, "muon"),
    (ContrastiveClustering(), (16, 16, 3), CUDA, "muon"),
    (ContrastiveClustering(), (16, 16, 3), torch.device("mps"), "adamw"),
    (ContrastiveClustering(), (16,), CPU, "adamw"),
    (ContrastiveClustering(backbone=torch.nn.Flatten()), (16, 16, 3), CPU, "adamw"),
    (ContrastiveClustering(optimizer="adamw"), (16, 16, 3), CPU, "adamw"),
    (ContrastiveClustering(optimizer="muon"), (16, 16, 3), torch.device("mps"), "muon"),
    (AutoencoderClustering(), (16, 16, 3), CPU, "adamw"),
]


@pytest.mark.parametrize(("estimator", "shape", "device", "expected"), OPTIMIZERS_OF_SHAPES)
def test_muon_is_taken_where_it_was_measured(estimator, shape, device, expected):
    assert resolve_optimizer(estimator, shape, device) == expected


def test_the_recipes_of_papers_do_not_take_muon():
    assert {recipe["optimizer"] for recipe in RECIPES.values()} == {"adamw"}


def identity(images):
    return images


@pytest.mark.parametrize(
    ("augment", "name"), [(identity, "identity"), (ImageAugmentation(), "ImageAugmentation")]
)
def test_modules_and_functions_are_named_and_numbers_are_plain(augment, name):
    estimator = ContrastiveClustering(
        2, backbone=torch.nn.Flatten(), augment=augment, batch_size=np.int64(3),
        max_epochs=np.int32(4), learning_rate=np.float32(0.5), weight_decay=np.float64(0.25),
    )  # fmt: skip
    settings = resolve_settings(estimator, store(5, 8, 8, 3), CPU)
    assert (settings["backbone"], settings["augment"]) == ("Flatten", name)
    names = ("batch_size", "max_epochs", "learning_rate", "weight_decay")
    assert [repr(settings[name]) for name in names] == ["3", "4", "0.5", "0.25"]


@pytest.mark.parametrize(("n", "size", "steps"), [(10, 5, 2), (11, 5, 3), (3, 2, 1), (1, 2, 1)])
def test_no_batch_has_a_single_sample_where_it_can_be_helped(n, size, steps):
    assert steps_per_epoch(n, size) == steps


def test_runtime_parameters_are_parameters():
    assert ContrastiveClustering().get_params().keys() >= RUNTIME_PARAMETERS
