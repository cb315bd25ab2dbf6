"""Which images folders, patterns, files of NumPy and data sets stand for."""

import io
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageFile
from sklearn.utils.fixes import parse_version
from torch.utils.data import IterableDataset, Subset, TensorDataset

from skcc.data import decoding, image_files, read, resolve
from skcc.data.sources import DatasetArrays, DatasetImages, identity
from skcc.exceptions import ImageReadError, ImageReadWarning


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
    with pytest.warns(ImageReadWarning, match=r"left out of .*: 1 \.eps: convert them to PNG"):
        files = image_files(tmp_path)
    assert "x.eps" not in names(files, tmp_path)
    assert len(files) == 10


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


# -- what a folder holds and is not read ----------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Four images, and no others yet."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_links_to_files_are_followed_and_loops_are_not(tree):
    (tree / "a" / "up").symlink_to(tree)
    (tree / "a" / "other").symlink_to(tree / "b")
    (tree / "a" / "link.png").symlink_to(tree / "b" / "2.png")
    assert len(image_files(tree)) == len(ALL) + 1, "and nothing was left out, so nothing is said"


def test_linked_folders_are_named(folder, tree):
    (folder / "more").symlink_to(tree)
    (folder / ".hidden").symlink_to(tree)
    message = f"left out of {folder}: 1 linked folder, not followed: {folder}/more"
    for find in (image_files, resolve, read):
        with pytest.warns(ImageReadWarning, match=f"^{message}$"):
            find(folder)
    (folder / "own").mkdir()
    (folder / ".shadow").mkdir()
    (folder / "own" / "again").symlink_to(tree)
    (folder / "shadow").symlink_to(folder / ".shadow")
    with pytest.warns(ImageReadWarning, match=f"3 linked folders, not followed: {folder}/more, "):
        assert len(image_files(folder)) == 4
    (tree / "root").symlink_to(folder)
    with pytest.warns(ImageReadWarning, match="linked folders"):
        assert len(image_files(tree / "root")) == 4, "a link that is given is followed"


def test_a_dead_link_is_an_image_that_cannot_be_read(folder):
    (folder / "9.png").symlink_to("/not/mounted/9.png")
    (folder / "8").symlink_to("/not/mounted")
    (folder / "loop.JPG").symlink_to("loop.JPG")
    (folder / "notes.txt").symlink_to("/not/mounted/notes.txt")
    found = ["0.png", "1.png", "2.png", "3.png", "8", "9.png", "loop.JPG"]
    for X in (folder, f"{folder}/*"):
        assert names(resolve(X).value, folder) == found
        with pytest.raises(ImageReadError, match=f"no such file: {folder}/8, a link to /not/mount"):
            read(X)
        store, _ = read(X, on_error="warn")
        assert list(store.invalid) == [4, 5, 6]
        assert store.invalid[5] == f"no such file: {folder}/9.png, a link to /not/mounted/9.png"
    for i in range(4):
        (folder / f"{i}.png").unlink()
    with pytest.raises(ImageReadError, match="no such file"):
        read(folder)
    with pytest.raises(ImageReadError, match="none of the 3 images of X could be read"):
        read(folder, on_error="warn")


@pytest.fixture
def locked(folder, monkeypatch):
    """A subfolder that may not be listed, and a file that may not be opened, even by root."""
    (folder / "sub").mkdir()
    Image.new("L", (4, 4)).save(folder / "sub" / "x.png")
    Image.new("L", (4, 4)).save(folder / "plain", "png")
    shut = {str(folder / "sub"), str(folder / "plain")}
    scandir, open_file = os.scandir, io.open

    def refuse(work, path, *args, **kwargs):
        if isinstance(path, (str, Path)) and str(path).rstrip("/") in shut:
            raise PermissionError(13, "Permission denied", str(path))
        return work(path, *args, **kwargs)

    monkeypatch.setattr(os, "scandir", lambda path=".": refuse(scandir, path))
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: refuse(open_file, path, *a, **k))
    return shut


def test_what_may_not_be_looked_at_is_an_image_that_cannot_be_read(folder, locked):
    found = ["0.png", "1.png", "2.png", "3.png", "plain", "sub"]
    assert names(image_files(folder), folder) == found
    with pytest.raises(ImageReadError, match=f"{folder}/plain as an image: Permission denied"):
        read(folder)
    store, _ = read(folder, on_error="warn")
    assert store.invalid == {
        4: f"cannot read {folder}/plain as an image: Permission denied",
        5: f"cannot read {folder}/sub as an image: Permission denied",
    }
    for pattern in (f"{folder}/**", f"{folder}/**/*.png", f"{folder}/*/*.png"):
        assert folder / "sub" in map(Path, resolve(pattern).value)
    for X in (f"{folder}/sub/*.png", [f"{folder}/sub/*.png"]):
        with pytest.raises(ImageReadError, match=f"{folder}/sub as an image: Permission denied"):
            read(X)
    locked.add(str(folder.parent))  # it is enough to list what has to be listed
    assert len(resolve(f"{folder}/*.png").value) == 4
    locked.add(str(folder))
    for find in (image_files, resolve, read):
        with pytest.raises(ImageReadError, match=f"{folder} cannot be listed: Permission denied"):
            find(folder)


def test_files_that_need_a_plugin_are_counted_in_one_warning(folder, without_plugins):
    for name in ("IMG.HEIC", "b.heic", "c.jxl", "raw.NEF", "notes.txt", "x.dcm"):
        (folder / name).write_bytes(b"....ftypheic")
    (folder / "plain").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (folder / "more").symlink_to(folder.parent)
    for X in (folder, f"{folder}/*"):
        with pytest.warns(ImageReadWarning) as caught:
            assert len(resolve(X).value) == 4
        (message,) = [str(w.message) for w in caught]
        for part in ("3 .heic: pip install pillow-heif", "1 .jxl: pip install pillow-jxl-plugin",
                     "1 .nef: read them with rawpy", "1 .dcm: read them with pydicom"):  # fmt: skip
            assert part in message
        assert "txt" not in message


def test_without_images_the_error_says_what_is_there(tmp_path, without_plugins):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path} holds no image files: nothing is there"):
        read(tmp_path)
    for name in ("0.heic", "1.heic", "2.mp4", "a/3", "4.npy"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "up").symlink_to("/usr")
    with pytest.raises(ValueError, match="holds no image files: it has ") as raised:
        read(tmp_path)
    for part in ("2 .heic: pip install pillow-heif", "1 .mp4", "1 .npy", "1 without a suffix",
                 "1 linked folder, not followed"):  # fmt: skip
        assert part in str(raised.value)
    with pytest.raises(ImageReadError, match=r"no image files match .*: it has 2 \.heic: pip inst"):
        read(f"{tmp_path}/*.heic")
    with pytest.raises(ImageReadError, match=r"match .*: it has .*1 folders \(a pattern for what"):
        read(f"{tmp_path}/a*")


def test_a_list_with_patterns_warns_once(folder, without_plugins):
    (folder / "a.heic").write_bytes(b"?")
    (folder / "b.heic").write_bytes(b"?")
    with pytest.warns(ImageReadWarning, match=r"2 \.heic") as caught:
        files = resolve([f"{folder}/[0-9a]*", f"{folder}/0.png", f"{folder}/[1b]*"]).value
    assert len(caught) == 1
    assert names(files, folder) == ["0.png", "1.png", "2.png", "3.png", "0.png", "1.png"]


@pytest.mark.parametrize("content", [b"\0\0\0\x18ftypheic\0\0\0\0mif1", b"\0?"])
def test_a_file_that_needs_a_plugin_is_told_which_in_a_list(tmp_path, content, without_plugins):
    for name in ("a.heic", "a.jpg", "a"):
        (tmp_path / name).write_bytes(content)
    known = content != b"\0?"
    for X, hint in (
        ([tmp_path / "a.heic"], True),
        ([str(tmp_path / "a.heic")] * 3, True),
        ([tmp_path / "a.jpg"], known),
        ([tmp_path / "a"], known),
        ([content], known),
        ([io.BytesIO(content)], known),
    ):
        with pytest.raises(ImageReadError, match="cannot identify the format") as raised:
            read(X)
        assert ("pip install pillow-heif" in str(raised.value)) == hint


# -- plugins of Pillow ----------------------------------------------------------------------


@pytest.fixture
def own_registries(monkeypatch):
    """Let a test register formats with Pillow for itself alone."""
    Image.init()
    for name in ("OPEN", "EXTENSION", "MIME", "SAVE", "SAVE_ALL"):
        monkeypatch.setattr(Image, name, dict(getattr(Image, name)))
    for name in [name for name in Image.OPEN if name == "HEIF"]:
        del Image.OPEN[name]
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    heif = [suffix for suffix, name in Image.EXTENSION.items() if name == "HEIF"]
    for suffix in heif:
        del Image.EXTENSION[suffix]


@pytest.fixture
def without_plugins(own_registries, monkeypatch):
    """As if no plugin were installed."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if "pillow" in name else find(name, *a)
    )


class Late(ImageFile.ImageFile):
    format = format_description = "LATE"

    def _open(self):
        self._mode, self._size = "RGB", (4, 4)
        self.tile = [("raw", (0, 0, 4, 4), 4, ("RGB", 0, 1))]


@pytest.mark.parametrize("suffix", [".late", ".heic"])
def test_a_plugin_that_is_registered_later_counts_at_once(folder, suffix, without_plugins):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    for i in range(4):
        (folder / f"{i}.png").unlink()
        (folder / f"{i}{suffix}").write_bytes(b"LATE" + pixels.tobytes())
    files = sorted(folder.iterdir())
    assert suffix not in decoding.suffixes()
    with pytest.raises(ValueError, match=f"holds no image files: it has 4 {suffix}"):
        read(folder)
    with pytest.raises(ImageReadError, match="cannot identify"):
        read(files)
    Image.register_open("LATE", Late, lambda start: start.startswith(b"LATE"))
    Image.register_extension("LATE", suffix)
    assert suffix in decoding.suffixes()
    assert "LATE" in decoding.formats()
    for X in (folder, files, [f.read_bytes() for f in files], f"{folder}/*"):
        np.testing.assert_array_equal(read(X)[0].samples, [pixels] * 4)


def test_a_plugin_that_is_registered_later_counts_with_a_cache(folder, tmp_path, without_plugins):
    (folder / "4.late").write_bytes(b"LATE" + bytes(48))
    files = sorted(folder.iterdir())
    assert list(read(files, cache_dir=tmp_path, on_error="warn")[0].invalid) == [4]
    Image.register_open("LATE", Late, lambda start: start.startswith(b"LATE"))
    store, fmt = read(files, cache_dir=tmp_path, on_error="warn")
    assert store.invalid == {}
    assert fmt == read(files)[1]


@pytest.mark.skipif(
    parse_version(PIL.__version__) < parse_version("11.1"),
    reason="pillow-heif needs a newer Pillow",
)
def test_heic_files_are_read_when_the_plugin_is_installed(folder, own_registries, tmp_path):
    heif = pytest.importorskip("pillow_heif")
    picture = Image.linear_gradient("L").resize((32, 24)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(picture).save(folder / "x.HEIC", quality=100)
    content = (folder / "x.HEIC").read_bytes()
    for name in ("y.jpg", "z"):  # phones and messengers rename them
        (folder / name).write_bytes(content)
    assert "HEIF" not in Image.OPEN, "not before it is needed"
    for i in range(4):
        (folder / f"{i}.png").unlink()
    files = [folder / name for name in ("x.HEIC", "y.jpg", "z")]
    for X in (folder, files, [content] * 3, [io.BytesIO(content)] * 3, f"{folder}/*"):
        for cache_dir in (None, tmp_path / "cache"):
            store, _ = read(X, cache_dir=cache_dir)
            error = np.abs(store.samples.numpy().astype(int) - np.asarray(picture))
            assert error.max() < 16
        Image.OPEN.pop("HEIF")  # the next kind of X has to register it again
        Image.ID.remove("HEIF")
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    heif.from_pillow(turned).save(folder / "x.HEIC", exif=exif.tobytes(), quality=100)
    samples = read([folder / "x.HEIC"])[0].samples[0].numpy().astype(int)
    assert np.abs(samples - np.asarray(picture)).max() < 16, "upright"
    (folder / "x.HEIC").write_bytes(content[:300])
    with pytest.raises(ImageReadError, match=r"cannot read .*x\.HEIC as an image"):
        read(folder)


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
