"""Data sets; those that are downloaded, on small files in their format."""

import hashlib
import pickle

import numpy as np
import pytest
import sklearn.datasets
import torchvision
from PIL import Image

from skcc import datasets


def test_digits_are_scikit_learns():
    ours, theirs = datasets.load_digits(), sklearn.datasets.load_digits()
    assert ours.images.dtype == np.uint8
    np.testing.assert_allclose(ours.images / 255 * 16, theirs.images, atol=16 / 500)
    np.testing.assert_array_equal(ours.target, theirs.target)


def test_a_folder_names_its_classes(tmp_path):
    for name in ("train/cat/1.png", "test/cat/2.png", "train/dog/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    found = datasets.load_folder(tmp_path)
    assert [path.name for path in found.images] == ["2.png", "1.png", "3.png"]
    assert [found.target_names[t] for t in found.target] == ["cat", "cat", "dog"]
    assert datasets.load_folder(tmp_path / "train" / "dog").target is None


def cifar_files(folder, cls, labels):
    """Files in CIFAR's format with ten images each; and the checksums to expect."""
    base = folder / cls.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums = {}
    for name, _ in [*cls.train_list, *cls.test_list]:
        batch = {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), **labels(rng)}
        (base / name).write_bytes(pickle.dumps(batch))
        sums[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    meta = {cls.meta["key"]: [f"class {i}" for i in range(100)]}
    (base / cls.meta["filename"]).write_bytes(pickle.dumps(meta))
    meta_sum = hashlib.md5((base / cls.meta["filename"]).read_bytes()).hexdigest()
    return {
        "train_list": [[name, sums[name]] for name, _ in cls.train_list],
        "test_list": [[name, sums[name]] for name, _ in cls.test_list],
        "meta": {**cls.meta, "md5": meta_sum},
    }


def test_cifar10_is_train_and_test_together(tmp_path, monkeypatch):
    cls = torchvision.datasets.CIFAR10
    lists = cifar_files(tmp_path, cls, lambda rng: {"labels": rng.integers(10, size=10).tolist()})
    for name, value in lists.items():
        monkeypatch.setattr(cls, name, value)
    bunch = datasets.fetch_cifar10(tmp_path)
    assert bunch.images.shape == (60, 32, 32, 3)
    assert bunch.images.dtype == np.uint8
    assert bunch.target.shape == (60,)


def test_cifar100_has_its_20_super_classes(tmp_path, monkeypatch):
    cls = torchvision.datasets.CIFAR100
    fine = iter(np.array_split(np.arange(20), 2))
    lists = cifar_files(tmp_path, cls, lambda rng: {"fine_labels": next(fine).tolist()})
    for name, value in lists.items():
        monkeypatch.setattr(cls, name, value)
    bunch = datasets.fetch_cifar100(tmp_path)
    # Published super-classes of the fine classes 0 to 19, from apple to cattle.
    names = [bunch.target_names[t] for t in bunch.target]
    assert [names[i] for i in (0, 1, 2, 8, 9, 13, 17, 19)] == [
        *("fruit_and_vegetables", "fish", "people", "vehicles_1", "food_containers"),
        *("vehicles_1", "large_man-made_outdoor_things", "large_omnivores_and_herbivores"),
    ]
    every = sorted(i for _, fine in datasets._SUPERCLASSES for i in fine)
    assert every == list(range(100))


def test_stl10_is_train_and_test_together(tmp_path, monkeypatch):
    cls = torchvision.datasets.STL10
    base = tmp_path / cls.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        rng.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8).tofile(base / f"{part}_X.bin")
        rng.integers(1, 11, 4, dtype=np.uint8).tofile(base / f"{part}_y.bin")
    rng.integers(0, 256, (6, 3, 96, 96), dtype=np.uint8).tofile(base / "unlabeled_X.bin")
    (base / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    (base / "fold_indices.txt").write_text("")
    monkeypatch.setattr(cls, "_check_integrity", lambda self: True)
    bunch = datasets.fetch_stl10(tmp_path)
    assert bunch.images.shape == (8, 3, 96, 96)
    assert bunch.unlabeled.shape == (6, 3, 96, 96)
    assert bunch.target.min() >= 0
    assert bunch.target.max() <= 9


@pytest.mark.data
def test_real_cifar_strips_cluster_as_images(real_images):
    strips = sorted((real_images / "cifar10").glob("test-*-00.webp"))[:2]
    images = [np.asarray(Image.open(s).convert("RGB")).reshape(-1, 32, 32, 3)[:40] for s in strips]
    from skcc import ContrastiveClustering

    model = ContrastiveClustering(2, max_epochs=20, random_state=0).fit(np.concatenate(images))
    assert model.settings_["augment"] == "natural-wide"
    assert model.image_shape_ == (32, 32, 3)


def test_arrays(tmp_path):
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    np.savez(tmp_path / "both.npz", images=images, target=["b", "a", "b", "c"])
    bunch = datasets.load_arrays(tmp_path / "both.npz")
    np.testing.assert_array_equal(bunch.images, images)
    assert bunch.target.tolist() == [1, 0, 1, 2]
    assert bunch.target_names == ["a", "b", "c"]
    np.savez(tmp_path / "images.npz", images=images)
    assert datasets.load_arrays(tmp_path / "images.npz").target is None


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"x": np.zeros(3)}, "must hold 'images' or 'X'; it holds x"),
        ({"images": np.zeros(3), "target": np.zeros(2)}, r"shape \(3,\).*got \(2,\)"),
        ({"images": np.array([None])}, r"not a \.npz file of arrays"),
    ],
)
def test_other_arrays_are_refused(tmp_path, stored, message):
    np.savez(tmp_path / "file.npz", **stored)
    with pytest.raises(ValueError, match=message):
        datasets.load_arrays(tmp_path / "file.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"words"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "file.npz").write_bytes(content)
    for path in ("file.npz", "missing.npz"):
        with pytest.raises(ValueError, match=r"is not a \.npz file of arrays"):
            datasets.load_arrays(tmp_path / path)


# -- ImageNet's layout ----------------------------------------------------------------------


def photos(folder, synsets, n=2, below=""):
    for synset in synsets:
        (folder / synset / below).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (8, 8)).save(folder / synset / below / f"{synset}_{i}.JPEG")


# As listed by the authors of Contrastive Clustering.
IMAGENET10 = [
    "n02056570",
    "n02085936",
    "n02128757",
    "n02690373",
    "n02692877",
    "n03095699",
    "n04254680",
    "n04285008",
    "n04467665",
    "n07747607",
]
DOGS = [
    "n02085936",
    "n02086646",
    "n02088238",
    "n02091467",
    "n02097130",
    "n02099601",
    "n02101388",
    "n02101556",
    "n02102177",
    "n02105056",
    "n02105412",
    "n02105855",
    "n02107142",
    "n02110958",
    "n02112137",
]


@pytest.mark.parametrize("train", ["", "train"])
@pytest.mark.parametrize(("name", "synsets"), [("imagenet10", IMAGENET10), ("imagenet-dogs", DOGS)])
def test_imagenet_subsets_are_the_papers_classes(tmp_path, name, synsets, train):
    photos(tmp_path / train, [*synsets, "n00000001"])
    (tmp_path / "val").mkdir(exist_ok=True)
    bunch = datasets.load(name, tmp_path)
    assert bunch.name == name
    assert bunch.target_names == synsets
    assert np.bincount(bunch.target).tolist() == [2] * len(synsets)
    assert all(
        path.parent.name == synsets[t] for path, t in zip(bunch.images, bunch.target, strict=True)
    )
    (tmp_path / train / synsets[3]).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"missing .'{synsets[3]}'."):
        datasets.load(name, tmp_path)


def test_tiny_imagenet_is_its_training_images(tmp_path):
    synsets = [f"n{i:08}" for i in range(200)]
    home = tmp_path / "tiny-imagenet-200"
    photos(home / "train", synsets, n=1, below="images")
    photos(home / "val", ["images"])
    for root in (tmp_path, home):
        bunch = datasets.load("tiny-imagenet", root)
        assert bunch.target.tolist() == list(range(200))
        assert bunch.target_names == synsets
    (home / "train" / synsets[0] / "images" / f"{synsets[0]}_0.JPEG").unlink()
    (home / "train" / synsets[0] / "images").rmdir()
    (home / "train" / synsets[0]).rmdir()
    with pytest.raises(ValueError, match=r"must hold 200 folders.*it holds 199"):
        datasets.load("tiny-imagenet", home)


# -- by name --------------------------------------------------------------------------------


def test_any_data_set_may_be_one_file(tmp_path):
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    np.savez(tmp_path / "some file.npz", images=images, target=["b", "a", "b", "c"])
    assert datasets.load("cifar10", tmp_path / "some file.npz").name == "cifar10"
    assert datasets.load("arrays", tmp_path / "some file.npz").name == "some file"


def test_a_part_is_the_same_part_every_time(tmp_path):
    whole = datasets.load("digits")
    part, again = (datasets.load("digits", n_images=50) for _ in range(2))
    np.testing.assert_array_equal(part.images, again.images)
    assert len(set(part.target.tolist())) == 10  # from all over the set
    for image, target in zip(part.images, part.target, strict=True):
        same = (whole.images == image).all(axis=(1, 2))
        assert target in whole.target[same]
    photos(tmp_path, ["a", "b"], n=3)
    files = datasets.load("folder", tmp_path, n_images=4)
    assert len(files.images) == len(files.target) == 4
    assert files.name == tmp_path.name
    for n in (0, 7):
        with pytest.raises(ValueError, match=f"wanted {n} images of 'folder'; it has 6"):
            datasets.load("folder", tmp_path, n_images=n)
