"""What users have, and what becomes of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from skcc.data import Format, Input, Store, decoding, image_files, read, resolve
from skcc.exceptions import ImageReadError


def stored(X, **how):
    return read(X, **how)[0].samples.numpy()


@pytest.fixture
def files(tmp_path, colours):
    paths = []
    for i, image in enumerate(colours[:6]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


# -- arrays and tensors ---------------------------------------------------------------------


def test_uint8_images_are_not_copied(colours):
    for X in (
        colours,
        colours.transpose(0, 3, 1, 2),
        colours[..., 0],
        colours[::2],
        colours[:, 1:],
    ):
        store, fmt = read(X)
        assert np.shares_memory(store.samples.numpy(), X)
        assert store.samples.dtype == torch.uint8
        assert fmt.shape == store.shape


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_channels_are_found_first_or_last(channels):
    last = np.random.default_rng(0).integers(0, 256, (4, 9, 9, channels), dtype=np.uint8)
    np.testing.assert_array_equal(stored(last), last)
    np.testing.assert_array_equal(stored(last.transpose(0, 3, 1, 2)), last)


def test_image_shape_tells_where_the_channels_are():
    last = np.random.default_rng(0).integers(0, 256, (4, 7, 9, 11), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"cannot tell which axis.*\(7, 9, 11\).*image_shape"):
        read(last)
    np.testing.assert_array_equal(stored(last, image_shape=(7, 9, 11)), last)
    first = last.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(stored(first, image_shape=(7, 9, 11)), last)


def test_all_kinds_of_numbers_mean_the_same_images(colours):
    expected = colours
    for X in (
        colours.astype(np.int64),
        colours.astype(np.uint16),
        colours / 255,
        (colours / 255).astype(np.float32),
        torch.from_numpy(colours),
        torch.from_numpy(colours).float() / 255,
        list(torch.from_numpy(colours)),
        list(colours),
        colours.tolist(),
        np.asfortranarray(colours),
        colours[:, :, ::-1][:, :, ::-1],
    ):
        np.testing.assert_array_equal(stored(X), expected)
    np.testing.assert_array_equal(
        stored(torch.from_numpy(colours / 255).bfloat16()) // 32 >= 0, True
    )


def test_booleans_are_black_and_white():
    X = np.eye(4, dtype=bool)[None].repeat(2, 0)
    np.testing.assert_array_equal(stored(X)[..., 0], X * 255)


def test_the_users_array_is_never_changed(colours):
    for X in (colours, colours / 255, colours.reshape(60, -1) / 7.0):
        before = X.copy()
        X.flags.writeable = False
        read(X, image_shape=(12, 10, 3))
        np.testing.assert_array_equal(X, before)


def test_rows_with_image_shape_are_images(colours):
    rows = colours.reshape(60, -1)
    np.testing.assert_array_equal(stored(rows, image_shape=(12, 10, 3)), colours)
    np.testing.assert_array_equal(stored(rows, image_shape=(12, 10)), colours)
    gray = colours[..., 0].reshape(60, -1)
    np.testing.assert_array_equal(stored(gray, image_shape=(12, 10))[..., 0], colours[..., 0])


def test_rows_of_any_range_are_scaled_by_the_range_of_fit(colours):
    scaled = (colours.reshape(60, -1) - 100.0) / 37
    store, fmt = read(scaled, image_shape=(12, 10, 3))
    assert np.abs(store.samples.numpy().astype(int) - colours).max() <= 1
    again, _ = read(scaled[:5] * 2, known=fmt)
    assert again.samples.min() == 0
    assert again.samples.max() == 255


def test_vectors_are_standardised_by_fit():
    X = np.random.default_rng(0).normal(5, 3, (50, 4))
    X[:, 2] = 7
    store, fmt = read(X)
    expected = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
    np.testing.assert_allclose(store.samples.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(read(X[:3], known=fmt)[0].samples.numpy(), expected[:3], atol=1e-5)
    assert not fmt.is_image


def test_no_float_copy_of_the_set_is_made(tmp_path):
    """Reading 300 MB of float images from disk takes their 75 MB as uint8, and little else."""
    import tracemalloc

    X = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (24000, 56, 56))
    tracemalloc.start()
    store, _ = read(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.35 * store.samples.numel()


# -- files and PIL images -------------------------------------------------------------------


def test_paths_of_all_kinds(files, colours):
    for X in (files, [str(f) for f in files], np.array([str(f) for f in files]), tuple(files),
              np.array(files, dtype=object), files[0].parent, str(files[0].parent),
              pd.Series([str(f) for f in files]), pd.DataFrame({"path": [str(f) for f in files]}),
              np.array([[str(f)] for f in files], dtype=object), [[f] for f in files]):  # fmt: skip
        np.testing.assert_array_equal(stored(X), colours[:6])
    np.testing.assert_array_equal(stored(files, n_jobs=2), colours[:6])


def test_pil_images_of_any_sizes_share_one_square():
    sizes = [(30, 20), (21, 40), (25, 25)]
    store, fmt = read([Image.new("RGB", size, "red") for size in sizes])
    assert fmt.shape == (21, 21, 3)
    assert (store.samples == torch.tensor([255, 0, 0], dtype=torch.uint8)).all()
    store, _ = read([Image.new("RGB", (300, 200), "red")] * 2, side=lambda short: 32)
    assert store.shape == (32, 48, 3)


def test_later_files_are_brought_to_the_shape_of_fit(files):
    fmt = Format((5, 5, 1))
    assert read(files, known=fmt)[0].shape == (5, 5, 1)
    with pytest.raises(ValueError, match="2 channels"):
        read(files, known=Format((5, 5, 2)))


def test_modes_become_gray_or_rgb():
    level = {"1": 1, "L": 128, "LA": (128, 255), "I;16": 128 * 257, "F": 128.0}
    gray = [Image.new(mode, (4, 4), value) for mode, value in level.items()]
    assert read(gray)[1].shape == (4, 4, 1)
    np.testing.assert_array_equal(stored(gray)[:, 0, 0, 0], [255, 128, 128, 128, 128])
    colour = [Image.new("RGBA", (4, 4), (255, 0, 0, 0)), Image.new("CMYK", (4, 4)),
              Image.new("P", (4, 4)), gray[1]]  # fmt: skip
    np.testing.assert_array_equal(
        stored(colour)[:, 0, 0], [[255] * 3, [255] * 3, [0] * 3, [128] * 3]
    )


def test_images_are_turned_upright(tmp_path):
    wide = Image.new("L", (8, 4))
    wide.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    wide.save(tmp_path / "x.png", exif=exif)
    upright, _ = read([tmp_path / "x.png"])
    assert upright.shape == (8, 4, 1)
    assert upright.samples[0, 0, 3, 0] == 255


def test_image_files_are_found_in_sub_folders_and_sorted(tmp_path):
    for name in ("b/2.png", "a/1.JPG", "notes.txt", "0.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [str(f.relative_to(tmp_path)) for f in image_files(tmp_path)] == [
        *("0.webp", str(Path("a/1.JPG")), str(Path("b/2.png"))),
    ]


@pytest.mark.parametrize("error", [OSError, ValueError, ImageReadError])
def test_broken_and_missing_files_are_named(files, tmp_path, error):
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:200])
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"no image")
    for bad in (broken, junk, tmp_path / "missing.png", tmp_path):
        with pytest.raises(error, match=str(bad)):
            read([files[0], bad])


# -- batches --------------------------------------------------------------------------------


def test_a_sweep_keeps_order_and_calls_with_one_size():
    store = Store(torch.arange(10, dtype=torch.float32)[:, None])
    sizes, indices = [], []

    def twice(batch, index):
        sizes.append(len(batch))
        indices.extend(index.tolist())
        return 2 * batch

    out = torch.cat(list(store.sweep(twice, 4)))
    assert out[:, 0].tolist() == [2 * i for i in range(10)]
    assert sizes == [4, 4, 4]
    assert indices == [*range(10), 9, 9]


# -- files after fit ------------------------------------------------------------------------


def test_files_are_decoded_batch_by_batch_after_fit(files, colours, monkeypatch):
    decoded = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda s, out: decoded.append(s) or decode(s, out))
    _, fmt = read(files)
    assert decoded == files
    store, same = read(files, known=fmt)
    assert same is fmt
    assert (len(store), store.shape, store.device.type) == (6, colours.shape[1:], "cpu")
    assert decoded == files, "nothing is decoded before it is needed"
    pieces = list(store.sweep(lambda batch, index: batch, 4))
    assert [len(p) for p in pieces] == [4, 2]
    np.testing.assert_array_equal(torch.cat(pieces).numpy(), colours[:6])
    assert decoded == files * 2, "padding decodes nothing twice"
    np.testing.assert_array_equal(store.to(torch.device("cpu")).samples, colours[:6])


def test_x_is_classified_once(files, colours):
    paths = [str(f) for f in files]
    frame = pd.DataFrame({"path": paths})
    images = [Image.fromarray(c) for c in colours]
    for kind, cases in {
        "files": (files, paths[0], files[0].parent, frame["path"], np.array(paths), images),
        "path column": (frame, np.array(paths, dtype=object)[:, None], [[f] for f in files]),
        "table": (colours[0, 0], frame.isna(), [[1, 2], [3, 4]], list(colours[0, 0])),
        "tensor": (torch.from_numpy(colours), torch.zeros(3, 2)),
        "lazy": (Lazy(colours), torch.utils.data.TensorDataset(torch.from_numpy(colours))),
        "array": (colours, list(colours), [torch.from_numpy(c) for c in colours], [], 3.0, None),
    }.items():
        for X in cases:
            assert resolve(X).kind == kind
    source = resolve(files[0].parent)
    assert read(source)[1] == read(files[0].parent)[1]
    assert read(Input(list(images), "files"))[1].shape == (12, 10, 3)


def test_classifying_copies_no_array(colours, monkeypatch):
    monkeypatch.setattr(np, "stack", None)
    X = list(colours)
    assert resolve(X).value is X
    frame = pd.DataFrame({"path": ["a.png", 3]})
    for mixed in ([*X, "a.png"], np.array(["a.png", 3], dtype=object), frame):
        with pytest.raises(TypeError, match="X mixes paths or PIL images with"):
            resolve(mixed)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:batches of")
@pytest.mark.parametrize("as_column", [pd.DataFrame, lambda paths: [[path] for path in paths]])
def test_a_column_of_paths_is_one_feature(files, as_column):
    from skcc import ContrastiveClustering

    X = as_column({"path": [str(f) for f in files]} if as_column is pd.DataFrame else files)
    model = ContrastiveClustering(2, max_epochs=1, random_state=0, device="cpu").fit(X)
    assert model.n_features_in_ == 1
    assert hasattr(model, "feature_names_in_") == isinstance(X, pd.DataFrame)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_a_missing_file_is_found_before_the_first_is_decoded(files, monkeypatch):
    _, fmt = read(files)
    monkeypatch.setattr(decoding, "decode", None)
    with pytest.raises(ImageReadError, match=r"no such file: missing\.png"):
        read([*files, "missing.png"], known=fmt)


# -- arrays that are read in parts ----------------------------------------------------------


class Lazy:
    """Indexing with scikit-learn's tuples gives another lazy view; images are read one by one."""

    def __init__(self, base, index=None, reads=None):
        self.base, self.reads = base, [] if reads is None else reads
        self.index = np.arange(len(base)) if index is None else index

    @property
    def shape(self):
        return (len(self.index), *self.base.shape[1:])

    def __len__(self):
        return len(self.index)

    def __getitem__(self, key):
        if isinstance(key, (int, np.integer)):
            self.reads.append(int(self.index[key]))
            return self.base[self.index[key]]
        if isinstance(key, tuple):
            assert key[1] is Ellipsis
            key = key[0]
        return Lazy(self.base, self.index[key], self.reads)


class Sliced(Lazy):
    """Slices are arrays, as in h5py; scikit-learn's tuples are unknown."""

    def __getitem__(self, key):
        assert isinstance(key, slice)
        self.reads += range(*key.indices(len(self)))
        return self.base[key]


class Tupled(Lazy):
    """Nothing but scikit-learn's tuples."""

    def __getitem__(self, key):
        if not isinstance(key, tuple):
            raise TypeError("tuples only")
        self.reads += list(key[0])
        return self.base[key]


@pytest.mark.parametrize("cls", [Lazy, Sliced, Tupled])
def test_lazy_arrays_are_read_once_in_fit_and_batch_by_batch_afterwards(cls, colours, tmp_path):
    for base in (colours, colours / 255, colours.transpose(0, 3, 1, 2), colours[..., 0]):
        X = cls(base)
        store, fmt = read(X)
        np.testing.assert_array_equal(store.samples, stored(base))
        assert X.reads == list(range(60))
        np.testing.assert_array_equal(read(X, cache_dir=tmp_path)[0].samples, stored(base))
        assert list(tmp_path.iterdir()) == []
        X.reads.clear()
        later, _ = read(X, known=fmt)
        assert X.reads == []
        np.testing.assert_array_equal(later.batch(torch.arange(10, 20)), stored(base)[10:20])
        assert X.reads == list(range(10, 20)), "no more than is needed"


def test_lazy_arrays_are_checked_as_others_are(colours):
    for wrong, message in (
        (colours / 1.0, r"\[0, 1\]"),
        (colours * np.nan, "NaN"),
        (colours[:0], "0 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            read(Lazy(wrong))
    _, fmt = read(Lazy(colours))
    with pytest.raises(ValueError, match=r"\(5, 10, 3\).*\(12, 10, 3\)"):
        read(Lazy(colours[:, :5]), known=fmt)

    class Liar(Sliced):
        shape = property(lambda self: (60, 12, 10, 1))

    with pytest.raises(ImageReadError, match=r"X says that its shape is .*, but X\[0:1\] has"):
        read(Liar(colours))


def test_a_large_lazy_array_is_not_held_as_a_whole():
    import tracemalloc

    class Large(Sliced):
        def __init__(self):
            self.reads = []

        shape = property(lambda self: (20000, 50, 50))

        def __len__(self):
            return 20000

        def __getitem__(self, key):
            return np.zeros((key.stop - key.start, 50, 50), np.float32)

    tracemalloc.start()
    store, _ = read(Large(), known=Format((50, 50, 1)))
    for _ in store.sweep(lambda batch, index: batch[:, 0], 128):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.2 * 20000 * 50 * 50


def test_mapped_arrays_of_bytes_are_not_copied(tmp_path, colours):
    X = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, colours.shape)
    X[:] = colours
    for part in (X, X[3:], X[..., 0], X.transpose(0, 3, 1, 2)):
        assert np.shares_memory(read(part)[0].samples.numpy(), X)
    floats = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, colours.shape)
    floats[:] = colours / 255
    store, fmt = read(floats)
    np.testing.assert_array_equal(store.samples, colours)
    later, _ = read(floats, known=fmt)
    np.testing.assert_array_equal(later.batch(torch.tensor([9, 2])), colours[[9, 2]])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:batches of")
def test_estimators_know_what_these_are(colours, files, tmp_path):
    from sklearn.model_selection import cross_val_score

    from skcc import ContrastiveClustering

    np.save(tmp_path / "x.npy", colours)
    pictures = [(Image.fromarray(c), 1) for c in colours]
    model = ContrastiveClustering(2, max_epochs=1, random_state=0, device="cpu")
    expected = model.fit(colours).labels_
    for X, n_features in (
        (Lazy(colours), 360),
        (tmp_path / "x.npy", 360),
        (torch.utils.data.TensorDataset(torch.from_numpy(colours)), 360),
        (pictures, 1),
    ):
        np.testing.assert_array_equal(model.fit(X).labels_, expected)
        np.testing.assert_array_equal(model.predict(X), expected)
        assert model.n_features_in_ == n_features
        assert model.invalid_ == []
    assert model.fit(f"{files[0].parent}/*.png").labels_.shape == (6,)
    assert len(cross_val_score(model, Lazy(colours), cv=2)) == 2
    assert len(cross_val_score(model, np.array(files, dtype=str), cv=2)) == 2
