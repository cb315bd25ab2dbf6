"""Which images folders, patterns, files of NumPy and data sets stand for."""

import io
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset

from skcc.data import image_files, read, resolve
from skcc.data.sources import DatasetArrays, DatasetImages, identity
from skcc.exceptions import ImageReadError


@pytest.fixture
def tree(tmp_path):
    """Image files and others, below a folder."""
    picture = Image.new("RGB", (8, 8), "red")
    for name in ("b/2.png", "a/1.JPG", "a/deep/3.webp", "a b/x.tif", "0.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    picture.save(tmp_path / "b" / "plain", "png")  # no suffix, but an image
    picture.save(tmp_path / "b" / "list.txt", "png")  # another suffix
    (tmp_path / "b" / "notes").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".thumbnails").mkdir()
    picture.save(tmp_path / ".thumbnails" / "t.png")
    return tmp_path


def names(files, root):
    return [Path(file).relative_to(root).as_posix() for file in files]


ALL = ["0.gif", "a/1.JPG", "a/deep/3.webp", "a b/x.tif", "b/2.png", "b/plain"]


def test_a_folder_is_its_image_files_in_the_order_of_the_parts_of_their_paths(tree):
    assert names(image_files(tree), tree) == ALL
    assert image_files(tree) == sorted(image_files(tree))  # as pathlib sorts
    assert names(resolve(tree).value, tree) == names(resolve(str(tree)).value, tree) == ALL


def test_image_files_are_found_by_the_suffixes_that_pillow_decodes(tmp_path):
    for suffix in ("jpg", "jpeg", "PNG", "bmp", "tga", "jp2", "ppm", "ico", "webp", "mpo", "eps"):
        (tmp_path / f"x.{suffix}").touch()
    assert "x.eps" not in names(image_files(tmp_path), tmp_path)
    assert len(image_files(tmp_path)) == 10


def test_folders_that_hold_nothing_or_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no image files"):
        image_files(tmp_path)
    for missing in (tmp_path / "no", tmp_path / "no*"):
        with pytest.raises(ImageReadError, match="no"):
            resolve(missing)
    with pytest.raises(ImageReadError, match="is not a folder"):
        image_files(tmp_path / "no")


def test_patterns(tree):
    below = ["a/1.JPG", "a b/x.tif", "b/2.png", "b/plain"]
    assert names(resolve(f"{tree}/*/*").value, tree) == below
    assert names(resolve(f"{tree}/**/*").value, tree) == ALL
    assert names(resolve(tree / "?" / "[0-9].*").value, tree) == ["a/1.JPG", "b/2.png"]
    both = [f"{tree}/b/*.png", f"{tree}/0.gif", f"{tree}/a/*"]
    for X in (both, np.array(both), np.array(both, dtype=object)):
        assert names(resolve(X).value, tree) == ["b/2.png", "0.gif", "a/1.JPG"]
    with pytest.raises(ImageReadError, match=r"no image files match .*\*\.bmp"):
        resolve([f"{tree}/0.gif", f"{tree}/*.bmp"])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tree):
    (tree / "0.gif").rename(tree / "x[1].gif")
    assert resolve([tree / "x[1].gif"]).value == [tree / "x[1].gif"]
    assert resolve(tree / "x[1].gif").value == [str(tree / "x[1].gif")]


def test_one_file_is_one_image(tree):
    assert read(tree / "0.gif")[0].samples.shape == (1, 8, 8, 3)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_links_to_files_are_followed_and_loops_are_not(tree):
    (tree / "a" / "up").symlink_to(tree)
    (tree / "a" / "link.png").symlink_to(tree / "b" / "2.png")
    assert len(image_files(tree)) == len(ALL) + 1


# -- files of NumPy -------------------------------------------------------------------------


def test_npy_files_are_mapped(tmp_path, colours):
    np.save(tmp_path / "x.npy", colours)
    X = resolve(str(tmp_path / "x.npy")).value
    store, _ = read(tmp_path / "x.npy")
    assert isinstance(X, np.memmap)
    np.testing.assert_array_equal(store.samples.numpy(), colours)
    assert np.shares_memory(read(X)[0].samples.numpy(), X)


def test_npz_files_hold_one_array_or_images(tmp_path, colours):
    np.savez(tmp_path / "one.npz", pixels=colours)
    np.savez_compressed(tmp_path / "named.npz", images=colours, target=np.arange(60))
    for name in ("one", "named"):
        np.testing.assert_array_equal(read(tmp_path / f"{name}.npz")[0].samples.numpy(), colours)
    np.savez(tmp_path / "two.npz", a=colours, b=colours)
    with pytest.raises(ValueError, match=r"two\.npz holds a, b; wanted one array, or one called"):
        resolve(tmp_path / "two.npz")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_broken_files_of_numpy_are_named(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    for content in (b"", b"junk", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(ImageReadError, match=f"cannot read {path} as a file of NumPy"):
            resolve(path)


# -- data sets ------------------------------------------------------------------------------


class Items:
    """A map-style data set, and nothing else."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        if isinstance(self.items[i], Exception):
            raise self.items[i]
        return self.items[i]


def kinds_of_datasets(colours, files):
    pictures = [Image.fromarray(c) for c in colours]
    tensors = torch.from_numpy(colours.transpose(0, 3, 1, 2).copy())
    labels = torch.arange(len(colours))
    pair = namedtuple("Pair", ["image", "label"])
    return {
        "PIL": Items(pictures),
        "PIL and labels": Items(list(zip(pictures, labels, strict=True))),
        "named tuples": Items([pair(p, 3) for p in pictures]),
        "dicts": Items([{"label": "a", "image": p} for p in pictures]),
        "paths and labels": Items([(str(f), 1) for f in files]),
        "tensors": TensorDataset(tensors),
        "tensors and labels": TensorDataset(tensors, labels),
        "floats": TensorDataset(tensors / 255, labels),
        "a part": Subset(Items(pictures), range(len(pictures))),
        "what scikit-learn makes of one": [(p, 1) for p in pictures],
        "undecoded": Items([{"image": {"bytes": f.read_bytes(), "path": None}} for f in files]),
        "undecoded paths": Items([{"image": {"bytes": None, "path": str(f)}} for f in files]),
    }


@pytest.fixture
def files(tmp_path, colours):
    paths = [tmp_path / f"{i:02}.png" for i in range(len(colours))]
    for path, colour in zip(paths, colours, strict=True):
        Image.fromarray(colour).save(path)
    return paths


def test_items_of_data_sets_are_images_alone_or_with_labels(colours, files):
    for kind, X in kinds_of_datasets(colours, files).items():
        assert isinstance(resolve(X).value, (DatasetImages, DatasetArrays)), kind
        store, fmt = read(X, n_jobs=2)
        np.testing.assert_array_equal(store.samples.numpy(), colours, err_msg=kind)
        later, _ = read(X, known=fmt)
        assert type(later).__name__ == "SourceStore", kind
        np.testing.assert_array_equal(later.batch(torch.tensor([5, 3, 5])), colours[[5, 3, 5]])


def test_data_sets_of_vectors_are_tables():
    X = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    np.testing.assert_array_equal(resolve(X).value, np.arange(12).reshape(6, 2))


def test_torchvisions_folders(tmp_path, colours):
    from torchvision.datasets import ImageFolder

    for i, colour in enumerate(colours):
        path = tmp_path / f"{i % 2}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(colour).save(path)
    store, _ = read(ImageFolder(tmp_path))
    np.testing.assert_array_equal(store.samples, read(tmp_path)[0].samples)


class FakeHuggingFace(Items):
    """As much of a Hugging Face data set as we look at."""

    class Image:
        pass

    class Value:
        pass

    def __init__(self, columns):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        super().__init__(rows)
        self.columns = columns
        self.shape = (len(rows), len(columns))  # which is no array's
        self.column_names = list(columns)
        self.features = {
            name: self.Image() if isinstance(column[0], Image.Image) else self.Value()
            for name, column in columns.items()
        }

    def select_columns(self, names):
        return FakeHuggingFace({name: self.columns[name] for name in names})


def test_hugging_face_data_sets_with_one_column_of_images(colours):
    pictures = [Image.fromarray(c) for c in colours]
    numbers = list(range(60))
    X = FakeHuggingFace({"label": numbers, "picture": pictures})
    np.testing.assert_array_equal(read(X)[0].samples.numpy(), colours)
    for columns, said in (
        ({"label": numbers}, "of which none holds images"),
        ({"a": pictures, "b": pictures}, "of which a, b holds images"),
    ):
        with pytest.raises(ValueError, match=said):
            resolve(FakeHuggingFace(columns))


def test_the_real_hugging_face_package(colours):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(c) for c in colours]
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    X = datasets.Dataset.from_dict({"picture": pictures, "label": range(60)}, features=features)
    undecoded = X.cast_column("picture", datasets.Image(decode=False))
    for kind in (X, X["picture"], undecoded, X.with_format("numpy"), list(X)):
        np.testing.assert_array_equal(read(kind)[0].samples.numpy(), colours)
    with pytest.raises(TypeError, match="can only be iterated over"):
        resolve(X.to_iterable_dataset())
    with pytest.raises(TypeError, match="X is a DatasetDict of train"):
        resolve(datasets.DatasetDict({"train": X}))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (Stream(), "Stream, which can only be iterated over; wanted something with a length"),
        ((i for i in range(3)), "generator, which can only be iterated over"),
        ({"images": 1, "labels": 2}, "X is a dict of images, labels; wanted one of its values"),
        (Items([1, 2, 3]), "the items of X are of type int; wanted PIL images, paths or arrays"),
        (Items([{"a": 1}]), "the items of X are of type dict"),
    ],
)
def test_what_is_no_set_of_images_is_refused(X, said):
    with pytest.raises(TypeError, match=said):
        resolve(X)


def test_an_empty_data_set_is_empty():
    with pytest.raises(ValueError, match="0 sample"):
        read(Items([]))


def test_items_that_cannot_be_read(colours):
    pictures = [Image.fromarray(c) for c in colours]
    X = Items([ZeroDivisionError("far away"), *pictures[1:5], OSError()])
    with pytest.raises(ImageReadError, match="item 0 of X cannot be read: far away"):
        read(X)
    store, _ = read(X, on_error="warn")
    assert sorted(store.invalid) == [0, 5]
    np.testing.assert_array_equal(store.samples.numpy(), colours[1:5])
    arrays = Items([colours[0], KeyError("gone"), *colours[2:5]])
    with pytest.raises(ImageReadError, match="image 1 of X cannot be read: 'gone'"):
        read(arrays)
    store, _ = read(arrays, on_error="warn")
    assert list(store.invalid) == [1]
    np.testing.assert_array_equal(store.samples.numpy(), colours[[0, 2, 3, 4]])
    uneven = Items([*colours[:3], colours[3][:5]])
    with pytest.raises(ValueError, match=r"item 3 of X has shape \(5, 10, 3\), but others have"):
        read(uneven)


# -- identities -----------------------------------------------------------------------------


def test_identities_of_files_tell_order_size_and_time(files):
    first = identity(files)
    assert identity([str(f) for f in files]) == first
    assert identity(files[::-1]).paths != first.paths
    os.utime(files[3], ns=(1, 1))
    touched = identity(files)
    assert touched.paths == first.paths
    assert touched.state != first.state
    files[3].unlink()
    assert identity(files).state not in (first.state, touched.state)


def test_what_is_no_path_has_no_identity(files):
    assert identity([Image.open(io.BytesIO(files[0].read_bytes()))]) is None
    assert identity([*files, Image.new("L", (3, 3))]) is None
    assert identity(DatasetImages(files)) is None
