"""The command line and what it prints."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from skcc import __version__
from skcc.augment import AUGMENTATIONS
from skcc.cli import main
from skcc.experiments.recipes import RECIPES, make_estimator, recipe
from skcc.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def run(capsys, *arguments):
    status = main(["run", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_one_json_line(capsys):
    arguments = ["contrastive", "digits", "--images", "600", "--seed", "3"]
    arguments += ["--set", "max_epochs=1", "readout=kmeans"]
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    record = json.loads(out)
    assert out.count("\n") == 1
    assert record["parameters"] == {
        "n_clusters": 10, "random_state": 3, "max_epochs": 1, "readout": "kmeans"
    }  # fmt: skip
    assert record["n"] == 600
    assert record["settings"]["max_epochs"] == 1
    assert 0 < record["nmi"] < 1
    assert 0.1 < record["acc"] < 1
    assert record["ari"] < record["nmi"]
    assert record["versions"]["skcc"] == __version__
    assert record["images_per_second"] == pytest.approx(600 / record["seconds"], rel=0.05)
    assert record["clusters"] == 10
    again = json.loads(run(capsys, *arguments)[1])
    assert again["acc"] == record["acc"]


def test_a_folder_with_and_without_classes(capsys, tmp_path, shapes):
    for i, (image, kind) in enumerate(zip(*shapes, strict=True)):
        folder = tmp_path / "train" / f"kind {kind}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    arguments = ["contrastive", "folder", "--set", "max_epochs=2", "batch_size=40", "--root"]
    record = json.loads(run(capsys, *arguments, str(tmp_path))[1])
    assert record["parameters"]["n_clusters"] == 3
    assert record["acc"] is not None
    flat = json.loads(run(capsys, *arguments, str(tmp_path / "train" / "kind 0"))[1])
    assert flat["acc"] is None
    assert flat["n"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["magic", "digits"], "no method 'magic'; there are adc, autoencoder, contrastive"),
        (["magic", "cifar10", "--recipe", "paper"], "no settings for magic on cifar10"),
        (["contrastive", "nothing"], "no data set 'nothing'; there are arrays, cifar10"),
        (["contrastive", "folder"], "needs --root"),
        (["contrastive", "folder", "--root", "/no/such"], "/no/such is not a folder"),
        (["contrastive", "digits", "--set", "colour=3"], "no parameter 'colour'"),
        (["contrastive", "digits", "--set", "n_clusters=0"], "n_clusters must be an int >= 1"),
        (["contrastive", "digits", "--recipe", "paper"], "no settings for contrastive on digits"),
        (["contrastive", "cifar10", "--root", "/no/such"], "not found|corrupted|download"),
    ],
)
def test_errors_are_one_line_and_status_1(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("skcc: ")
    assert re.search(message, err)


def test_wrong_usage_is_status_2(capsys):
    for wrong in (["run"], ["run", "contrastive", "digits", "--set", "x"], []):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    assert "usage: skcc" in capsys.readouterr().err


def test_as_a_module():
    out = subprocess.run(
        [sys.executable, "-m", "skcc", "--version"], capture_output=True, text=True, check=True
    )
    assert out.stdout == f"skcc {__version__}\n"


def recipes(method):
    return pytest.mark.parametrize("key", [key for key in RECIPES if key[0] == method])


@recipes("contrastive")
def test_recipes_are_the_papers(key):
    """Section 4 of the paper: ResNet-34 at 224 pixels, Adam 3e-4, batch 256, 1000 epochs."""
    model = make_estimator(key[0], RECIPES[key])
    assert (model.backbone, model.image_size) == ("resnet34-image", 224)
    assert (model.max_epochs, model.batch_size, model.learning_rate) == (1000, 256, 3e-4)
    assert (model.schedule, model.weight_decay, model.n_heads) == ("constant", 0.0, 1)
    assert (model.instance_temperature, model.cluster_temperature) == (0.5, 1.0)
    assert (model.projection_dim, model.entropy_weight, model.augmented_views) == (128, 1.0, 2)
    n_clusters = {"cifar100": 20, "imagenet-dogs": 15, "tiny-imagenet": 200}
    assert model.n_clusters == n_clusters.get(key[1], 10)
    strength = {"stl10": 1.0, "imagenet10": 1.0, "imagenet-dogs": 1.0}.get(key[1], 0.5)
    family = AUGMENTATIONS[model.augment]
    assert family.brightness == family.contrast == family.saturation == 0.8 * strength
    assert family.hue == 0.2 * strength
    assert (family.flip, family.jitter, family.grayscale) == (0.5, 0.8, 0.2)
    assert family.blur == (0.5 if key[1].startswith("imagenet") else 0.0)
    assert (family.scale, family.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))


@recipes("twin")
def test_recipes_of_twins_are_what_is_known(key):
    """Sixteen thousand keys, 20 blocks of clusters, 32 images per cluster."""
    model = make_estimator(key[0], RECIPES[key])
    assert 16000 < model.instance_queue * model.batch_size < 17000
    assert (model.cluster_queue, model.batch_size) == (20, 32 * model.n_clusters)
    assert model.n_clusters == {"cifar100": 20, "imagenet-dogs": 15}.get(key[1], 10)
    assert (model.momentum, model.gumbel_temperature, model.learning_rate) == (0.999, 0.3, 1e-3)
    assert model.instance_temperature == model.cluster_temperature == 1.0
    assert (model.prior, model.prior_weight, model.n_heads) == ("ema", 1.0, 1)
    assert (model.membership, model.symmetric, model.conditioned) == ("sample", False, True)
    family = AUGMENTATIONS[model.augment]
    assert (family.scale, family.jitter, family.grayscale) == ((0.2, 1.0), 1.0, 0.2)
    assert {family.brightness, family.contrast, family.saturation, family.hue} == {0.4}


def test_recipes_of_reconstruction_are_what_is_known():
    made = {name: make_estimator(name, RECIPES[name, "cifar10"]) for name in METHODS}
    gan, dec = made["dcgan"], made["dec"]
    assert (gan.batch_size, gan.learning_rate, gan.label_smoothing) == (128, 2e-4, 0.0)
    assert (gan.noise_dim, gan.pooled_cells, gan.schedule) == (100, 4, "constant")
    assert (dec.code_dim, dec.batch_size) == (10, 256)
    assert dec.pretraining_epochs == round(100_000 * 256 / 70_000 - 0.5)
    assert dec.max_epochs == round(20_000 * 256 / 70_000)


def test_only_classical_methods_have_no_recipe():
    assert recipe(None, "contrastive", "digits") == {}
    assert recipe("paper", "kmeans", "cifar10") == {}
    with pytest.raises(ValueError, match="the paper has no settings for magic on cifar10"):
        recipe("paper", "magic", "cifar10")


WIDTHS = {"contrastive": 512, "twin": 512, "adc": 128}


@pytest.mark.methods
@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_trains(shapes, method):
    """The settings of CIFAR-10 on a handful of images, but for one epoch and smaller views."""
    parameters = RECIPES[method, "cifar10"]
    side = max(16, parameters["image_size"] // 7)
    parameters = parameters | {"max_epochs": 1, "image_size": side, "n_clusters": 2}
    if method not in ("contrastive", "twin"):  # which show that the networks of the papers train
        parameters["backbone"] = "auto" if method == "deconvolutional" else "conv4"
    if method == "dec":
        parameters["pretraining_epochs"] = 1
    if method == "deepcluster":
        parameters["n_pseudolabels"] = 4
    images = np.repeat(shapes[0][:8, ..., None], 3, axis=3)
    model = make_estimator(method, parameters).fit(images)
    width = 512 if method in ("contrastive", "twin") else model._objective().n_embedding
    assert model.transform(images).shape == (8, width)
