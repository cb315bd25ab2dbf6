"""What users have, and what becomes of it."""

import re
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
    monkeypatch.setattr(decoding, "decode", lambda s, *a: decoded.append(s) or decode(s, *a))
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
        "array": (colours, list(colours), [torch.from_numpy(c) for c in colours], [], 3.0),
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
    model = ContrastiveClustering(2, max_epochs=1, readout="head", random_state=0, device="cpu")
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


# -- what numbers mean ----------------------------------------------------------------------

RNG = np.random.default_rng(0)
DIGITS = RNG.integers(0, 17, (40, 64))  # whole numbers from 0 to 16


@pytest.mark.parametrize("fitted", [np.uint8, np.int64])
def test_numbers_of_fit_mean_the_same_later_whatever_type_brings_them(fitted):
    store, fmt = read(DIGITS.astype(fitted), image_shape=(8, 8))
    for later in (DIGITS.astype(float), DIGITS.astype(np.int16), DIGITS.astype(object),
                  DIGITS.astype(float).reshape(-1, 8, 8), pd.DataFrame(DIGITS).astype(float),
                  DIGITS.tolist(), torch.from_numpy(DIGITS).bfloat16()):  # fmt: skip
        np.testing.assert_array_equal(stored(later, known=fmt), store.samples)


@pytest.mark.parametrize("as_later", [lambda X: X, lambda X: X.reshape(-1, 8, 8)])
def test_numbers_that_contradict_fit_are_refused_as_rows_and_as_images(as_later):
    X = RNG.random((40, 64))
    _, fmt = read(X, image_shape=(8, 8))
    for wrong, message in (
        (X * 255, r"floats from .* to 25.*fitted on floats from 0 to 1.*X / 255"),
        (X - 1, "floats from -0.9"),
        (X - 0.3, "floats from -0.[23].*fitted on floats from 0 to 1"),
        ((X * 65535).astype(int), "integers from .* to 65"),
        ((X > 0.5).astype(np.uint8), r"cannot tell.*astype\(bool\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read(as_later(wrong), known=fmt)
    np.testing.assert_array_equal(
        stored(as_later(X > 0.5), known=fmt)[..., 0].reshape(40, -1), (X > 0.5) * 255
    )
    _, fmt = read((X * 255).astype(np.uint8), image_shape=(8, 8))
    with pytest.raises(ValueError, match=r"only the floats 0 and 1.*cannot tell"):
        read(as_later((X > 0.5).astype(float)), known=fmt)
    with pytest.raises(ValueError, match="integers from 0 to 510"):
        read(as_later(np.linspace(0, 510, 2560).astype(int).reshape(40, 64)), known=fmt)


def test_rows_of_a_learned_range_may_overshoot_but_not_be_on_another_scale():
    _, fmt = read(DIGITS / 1.0, image_shape=(8, 8))
    assert (fmt.low, fmt.high) == (0, 16)
    np.testing.assert_array_equal(stored(DIGITS.clip(4), known=fmt).min(), round(4 * 255 / 16))
    some = DIGITS / 1.0
    some[0, 0] = 300  # one number, as a scaler may give it
    assert stored(some, known=fmt)[0, 0, 0, 0] == 255
    for wrong in (DIGITS * 16, DIGITS - 16.0, DIGITS / 16, DIGITS > 7, DIGITS * 1000):
        with pytest.raises(ValueError, match="fitted on numbers from 0 to 16"):
            read(wrong, known=fmt)
    scaled = DIGITS / 16
    _, fmt = read(scaled, image_shape=(8, 8))
    scaled[0, :3] = 1.06, -0.02, 1.3  # MinMaxScaler, fitted on other rows
    assert stored(scaled, known=fmt)[0, 0, :3, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("value", [7.0, -7.0, 1e300, -1e300, 300])
def test_rows_of_one_number_or_of_huge_ones(value):
    X = np.full((40, 64), value)
    store, fmt = read(X, image_shape=(8, 8))
    assert (store.samples == 0).all()
    np.testing.assert_array_equal(stored(X, known=fmt), store.samples)
    X = X.astype(float)
    X[:20] *= 1 + RNG.random((20, 64))
    samples = stored(X, image_shape=(8, 8))
    expected = (X / value - X.min() / value) / (X.max() / value - X.min() / value) * 255
    assert np.abs(samples.reshape(40, -1) - expected).max() <= 1


def test_numbers_far_from_zero_keep_their_differences():
    X = DIGITS + 1_600_000_000
    samples = stored(X, image_shape=(8, 8)).reshape(40, -1)
    np.testing.assert_array_equal(samples, np.rint(DIGITS * 255 / 16))
    vectors = stored(X)
    expected = (DIGITS - DIGITS.mean(0)) / DIGITS.std(0)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_vectors_that_are_too_large_are_refused():
    X = RNG.normal(size=(40, 6))
    with pytest.raises(ValueError, match=r"too large to be standardised.*X / abs\(X\).max\(\)"):
        read(X * 1e300)
    read(X * 1e300 / abs(X * 1e300).max())
    _, fmt = read(X)
    with pytest.raises(ValueError, match="too large"):
        read(X * 1e300, known=fmt)


HINTS = {
    "normalised": (lambda x: x * 4.7 - 2.1, "(X - black) / (white - black)"),
    "minus one to one": (lambda x: x * 2 - 1, "(X + 1) / 2"),
    "overshoot": (lambda x: x * 1.06 - 0.03, "np.clip(X, 0, 1)"),
    "bytes": (lambda x: x * 254, "X / 255"),
    "large": (lambda x: x * 1234567.8, "X / white"),
    "to 16": (lambda x: x * 16, "X / white"),
    "reflectance": (lambda x: (x * 10000).astype(np.uint16), "X / white"),
    "all negative": (lambda x: x * 0 - 0.5, "np.clip(X, 0, 1)"),
    "12 bits": (lambda x: (x * 4095).astype(np.int16), "X / 4095"),
    "16 bits": (lambda x: (x * 65535).astype(np.uint16), "X / 65535"),
    "32 bits": (lambda x: (x * 1e9).astype(np.int32), "X / white"),
    "signed": (lambda x: np.linspace(-32768, 32767, x.size).astype(np.int16).reshape(x.shape),
               "(X - black) / (white - black)"),
    "one integer": (lambda x: np.full(x.shape, -5), "X.clip(0, 255)"),
}  # fmt: skip


@pytest.mark.parametrize("case", HINTS)
def test_the_line_that_an_error_gives_works(case):
    make, line = HINTS[case]
    X = make(RNG.random((9, 8, 8)))
    with pytest.raises(ValueError, match=r"must lie in|assumed to lie in") as error:
        read(X)
    assert line in str(error.value)
    assert not re.search(r"X\.(min|max)", str(error.value))  # those of new images are others
    space = {"X": X.astype(float), "np": np, "black": float(X.min()), "white": float(X.max())}
    exec(f"X = {line}", space)
    assert read(space["X"])[0].samples.max() <= 255


def test_masked_arrays_are_refused_unless_nothing_is_masked():
    X = RNG.random((9, 8, 8))
    masked = np.ma.masked_array(X, mask=X > 0.9)
    for wrong in (masked, list(masked), masked.reshape(9, 64)):
        with pytest.raises(ValueError, match=r"masked array with \d+ missing.*X\.filled\(0\)"):
            read(wrong, image_shape=(8, 8))
    np.testing.assert_array_equal(stored(np.ma.masked_array(X)), stored(X))
    read(masked.filled(0))


def test_bytes_on_an_accelerator_mean_the_same():
    """The part that does not depend on where a tensor is."""
    from skcc.data.reading import _tensor_levels

    for X in (DIGITS % 2, DIGITS % 2 * 255, DIGITS, DIGITS * 0):
        images = X.astype(np.uint8).reshape(40, 8, 8, 1)
        store, fmt = read(images)
        levels, same = _tensor_levels(torch.from_numpy(images), None)
        assert same == fmt
        np.testing.assert_array_equal(store.samples, images * np.uint8(255 / levels[1]))


# -- axes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3, 3, 60), (4, 4, 64), (1, 1, 200), (4, 4, 12), (3, 3, 5), (16, 16, 3), (9, 7, 3)]
)
def test_two_equal_axes_are_height_and_width(shape):
    X = RNG.integers(0, 256, (5, *shape), dtype=np.uint8)
    for given in (None, shape, shape[:2]):
        np.testing.assert_array_equal(stored(X, image_shape=given), X)
        np.testing.assert_array_equal(stored(X.transpose(0, 3, 1, 2), image_shape=given), X)
        tensor = torch.from_numpy(X).permute(0, 3, 1, 2)
        np.testing.assert_array_equal(stored(tensor, image_shape=given), X)


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 60, 3), (60, 3, 4), (3, 4, 60), (13, 64, 48)])
def test_where_two_readings_are_possible_the_user_is_asked(shape):
    X = RNG.integers(0, 256, (5, *shape), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"cannot tell which axis.*image_shape"):
        read(X)
    np.testing.assert_array_equal(stored(X, image_shape=shape), X)
    if len(set(shape)) > 1:
        np.testing.assert_array_equal(stored(X, image_shape=shape[:2]), X)
        first, last = shape[0], shape[1:]
        np.testing.assert_array_equal(stored(X, image_shape=last), X.transpose(0, 2, 3, 1))
        _, fmt = read(X, image_shape=last)
        assert fmt.shape == (*last, first)
        np.testing.assert_array_equal(stored(X, known=fmt), X.transpose(0, 2, 3, 1))


@pytest.mark.filterwarnings("ignore")
def test_an_image_shape_that_contradicts_x_is_an_error(colours, files):
    for X, shape in (
        (colours, (28, 28)), (colours, (12, 10, 1)), (colours[..., 0], (28, 28)),
        (colours[..., 0], (12, 10, 3)), (torch.from_numpy(colours), (10, 12)),
        (Lazy(colours), (28, 28)), (colours[..., 0].tolist(), (28, 28)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"image_shape is \({shape[0]}, .*\(12, 10"):
            read(X, image_shape=shape)
    for X in (files, [Image.fromarray(x) for x in colours]):
        for shape in ((8, 8), (12, 10, 1)):
            with pytest.raises(ValueError, match=r"Did you mean image_size\?"):
                read(X, image_shape=shape)
        assert read(X, image_shape=(12, 10))[1].shape == (12, 10, 3)
        # The size of the files is right as well, if they are stored smaller.
        assert read(X, image_shape=(12, 10), side=lambda short: 5)[1].shape == (6, 5, 3)


def test_torchs_order_is_not_taken_for_height_width_channels(colours):
    first = colours.transpose(0, 3, 1, 2)
    rows = first.reshape(60, -1)
    for X in (first, torch.from_numpy(first.copy()), rows, Lazy(first), list(first)):
        with pytest.raises(ValueError, match=r"\(height, width, channels\); got \(3, 12, 10\)"):
            read(X, image_shape=(3, 12, 10))
    np.testing.assert_array_equal(stored(rows.reshape(-1, 3, 12, 10)), colours)
    _, fmt = read(first)
    with pytest.raises(ValueError, match=r"order.*X\.reshape\(-1, 3, 12, 10\)"):
        read(rows, known=fmt)


def test_one_image_is_no_batch(files, colours):
    picture = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    fitted = [None, read(picture[None])[1], read([Image.fromarray(picture)])[1]]
    for fmt in fitted:
        for one in (picture, list(picture), torch.from_numpy(picture), picture / 255,
                    picture.transpose(2, 0, 1)):  # fmt: skip
            if fmt is None and len(one) == 3:
                continue  # may be three gray images
            with pytest.raises(ValueError, match=r"shape of one image.*X\[None\]"):
                read(one, known=fmt)
        with pytest.raises(ValueError, match=r"X is one image.*\[image\]"):
            read(Image.fromarray(picture), known=fmt)
        assert len(read(picture[None], known=fmt)[0]) == 1
    assert read(picture, image_shape=(64, 3))[1].shape == (64, 3, 1)


# -- arrays after files ---------------------------------------------------------------------


def test_after_files_arrays_are_brought_to_their_shape_as_files_are():
    frames = RNG.integers(0, 256, (6, 60, 45, 3), dtype=np.uint8)
    images = [Image.fromarray(x) for x in frames]
    for fitted in (images, [*images, Image.new("RGB", (30, 30))]):
        _, fmt = read(fitted, side=lambda short: 20)
        expected = read(images, known=fmt)[0].read().samples
        for X in (frames, list(frames), frames / 255, frames.transpose(0, 3, 1, 2), Lazy(frames),
                  torch.from_numpy(frames.transpose(0, 3, 1, 2) / 255)):  # fmt: skip
            store, _ = read(X, known=fmt)
            samples = store.samples if hasattr(store, "samples") else store.read().samples
            np.testing.assert_array_equal(samples, expected)
        gray = [image.convert("L") for image in images]
        np.testing.assert_array_equal(
            stored(np.stack([np.asarray(g) for g in gray]), known=fmt),
            read(gray, known=fmt)[0].read().samples,
        )
    _, fmt = read(frames)
    with pytest.raises(ValueError, match=r"\(30, 30, 3\).*\(60, 45, 3\)"):
        read(frames[:, :30, :30], known=fmt)


# -- files of more than 8 bits --------------------------------------------------------------

RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


@pytest.fixture
def tiffs(tmp_path):
    def save(peaks, dtype=np.float32, n=0):
        for i, peak in enumerate(peaks):
            Image.fromarray((RAMP * peak).astype(dtype)).save(tmp_path / f"{i:03}.tif")
        return tmp_path

    return save


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ([1, 0.98, 0.5], [255, 250, 128]),
        ([1, 1.02, 0.98], [250, 255, 245]),
        ([255, 200, 0.9], [255, 200, 1]),
        ([200, 100, 50], [200, 100, 50]),
        ([300, 150, 3], [255, 128, 3]),
    ],
)
def test_float_files_share_one_scale(tiffs, tmp_path_factory, peaks, expected, cached, n_jobs):
    folder = tiffs(peaks)
    how = {"cache_dir": tmp_path_factory.mktemp("cache") if cached else None, "n_jobs": n_jobs}
    for _ in range(2):
        store, fmt = read(folder, **how)
        assert store.samples.amax(dim=(1, 2, 3)).tolist() == expected
    images = [Image.open(file) for file in sorted(folder.iterdir())]
    assert read(images)[1] == fmt
    for X in ([folder / "002.tif"], images[2:], np.stack([np.asarray(images[2])])):
        if max(peaks) >= 255 and isinstance(X, np.ndarray) and peaks[2] < 1:
            with pytest.raises(ValueError, match="fitted on numbers"):
                read(X, known=fmt)
            continue
        store, _ = read(X, known=fmt, **how)
        np.testing.assert_array_equal(store.batch(torch.arange(1)).amax(), expected[2])


def test_many_float_files_share_one_scale(tiffs):
    folder = tiffs([1.0] * 299 + [1.5])
    samples = stored(folder)
    assert samples.max(axis=(1, 2, 3)).tolist() == [170] * 299 + [255]
    mixed = [Image.new("L", (8, 8), 9)] * 299 + [Image.fromarray(RAMP * 1.5)]
    samples = stored(mixed)
    assert samples.max(axis=(1, 2, 3)).tolist() == [9] * 299 + [255]


def test_numbers_without_a_meaning_are_unreadable_files(tiffs, tmp_path):
    folder = tiffs([1, -1, 600, 0.5])
    with pytest.raises(ImageReadError, match=r"001\.tif.*from -1 to 0; wanted"):
        read(folder)
    store, fmt = read(folder, on_error="warn")
    assert sorted(store.invalid) == [1, 2]
    assert (fmt.low, fmt.high) == (0, 1)
    with pytest.raises(ImageReadError, match=r"002\.tif.*from 0 to 600; wanted"):
        read([folder / "002.tif"], known=read(RAMP[None])[1])[0].read()


def test_files_of_16_and_32_bits_have_one_white(tiffs):
    for dtype in (np.uint16, np.int32):
        store, fmt = read(tiffs([65535, 257 * 9, 100], dtype))
        assert store.samples.amax(dim=(1, 2, 3)).tolist() == [255, 9, 0]
        with pytest.raises(ValueError, match="integers from 0 to 65535"):
            read((RAMP * 65535).astype(dtype)[None], known=fmt)
    with pytest.raises(ImageReadError, match=r"wanted \[0, 65535\]"):
        read(tiffs([70000], np.int32))


def test_float_files_mean_what_arrays_of_the_same_numbers_mean(tiffs):
    X = np.stack([RAMP, RAMP / 2, RAMP / 3])
    for fitted in (X, (X * 255).astype(np.uint8)):
        store, fmt = read(fitted)
        later = read(tiffs([1, 1 / 2, 1 / 3]), known=fmt)[0].read().samples
        assert (later.int() - store.samples.int()).abs().max() <= 1
    _, fmt = read(X)
    with pytest.raises(ImageReadError, match=r"000\.tif.*floats from 0 to 255"):
        read(tiffs([255]), known=fmt)[0].read()
    numbers = (X * 4095).astype(np.uint16)  # rows may have any range, and so may their files
    store, fmt = read(numbers.reshape(3, -1), image_shape=(8, 8))
    for kind in (np.uint16, np.float32):
        images = [Image.fromarray(x.astype(kind)) for x in numbers]
        np.testing.assert_array_equal(read(images, known=fmt)[0].read().samples, store.samples)


def test_images_of_one_x_do_not_choose_their_scales_one_by_one(tiffs, colours):
    _, fmt = read((RAMP[None] * 255).astype(np.uint8))
    store, _ = read(tiffs([255, 0.9]), known=fmt)
    assert store.read().samples.amax(dim=(1, 2, 3)).tolist() == [255, 1]
    store, _ = read(tiffs([0.9, 255]), known=fmt)
    with pytest.raises(ImageReadError, match="one scale for all images"):
        store.read()
    dark = colours / 1.0
    dark[:2] /= 256  # below 1, as if they were on another scale
    _, fmt = read(colours)
    large = np.repeat(dark[2:], 70, axis=0)
    store, _ = read(Lazy(np.concatenate([large, dark[:2]])), known=fmt)
    assert store.read().samples[-2:].max() <= 1


def test_arrays_of_integers_and_floats_are_not_mixed(colours):
    _, fmt = read(colours)
    mixed = [*colours[:5], *(colours[5:] / 255)]
    pairs = [(x, 1) for x in mixed]
    for X in (mixed, pairs, [torch.from_numpy(x) for x in mixed]):
        for known in (None, fmt):
            with pytest.raises(ValueError, match="different types, float64, uint8"):
                read(X, known=known)[0].read()
    np.testing.assert_array_equal(
        stored([*colours[:5], *colours[5:].astype(np.int16)], known=fmt), colours
    )
