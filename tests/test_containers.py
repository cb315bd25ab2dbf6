"""Whatever holds the images: lists, columns, data sets, contents of files; and missing entries."""

import collections
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from skcc import ContrastiveClustering
from skcc.data import read, resolve
from skcc.exceptions import ImageReadError, ImageReadWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]
N = 12


@pytest.fixture(scope="module")
def arrays():
    return np.random.default_rng(0).integers(0, 256, (N, 12, 10, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pictures(arrays):
    return [Image.fromarray(a) for a in arrays]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return sorted(folder.iterdir())


class PathLike:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


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


class Unindexed:
    """A collection with an order and a length that cannot be indexed."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def samples(X, **how):
    return read(X, **how)[0].samples.numpy()


def model(**how):
    return ContrastiveClustering(
        2, max_epochs=1, readout="head", random_state=0, device="cpu", **how
    )


# -- collections and paths ------------------------------------------------------------------


@pytest.mark.parametrize(
    "collect",
    [
        list, tuple, collections.deque, collections.UserList, Unindexed, Items, pd.Series, pd.Index,
        lambda x: dict(enumerate(x)).values(),
        lambda x: {item: 0 for item in x}.keys() if isinstance(x[0], Path) else x,
        lambda x: pd.Series(x).array,
    ],
)  # fmt: skip
def test_collections_with_an_order_are_lists(collect, files, pictures, arrays):
    for items in (files, pictures):
        np.testing.assert_array_equal(samples(collect(items)), arrays)


def test_names_of_files_and_folders_of_all_types(folder, files, arrays):
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for X in (
        PathLike(str(folder)), PathLike(os.fsencode(folder)), os.fsencode(folder), np.str_(folder),
        np.array(str(folder)), f"{folder}/*.png", os.fsencode(f"{folder}/*.png"),
        entries, [PathLike(str(f)) for f in files], [os.fsencode(f) for f in files],
        np.array([os.fsencode(f) for f in files]), pd.Series([PathLike(str(f)) for f in files]),
        pl.Series([str(f) for f in files]), [(PathLike(str(f)), 1) for f in files],
        Items([os.fsencode(f) for f in files]),
    ):  # fmt: skip
        np.testing.assert_array_equal(samples(X), arrays)


def test_paths_of_all_types_are_found_in_the_cache(files, arrays, tmp_path):
    read(files, cache_dir=tmp_path)
    for X in ([os.fsencode(f) for f in files], [PathLike(str(f)) for f in files]):
        np.testing.assert_array_equal(samples(X, cache_dir=tmp_path), arrays)
    assert len(list(tmp_path.glob("*.pixels"))) == 1


# -- contents of files ----------------------------------------------------------------------


def test_contents_and_open_files_are_images(files, arrays, tmp_path):
    contents = [f.read_bytes() for f in files]
    opened = [f.open("rb") for f in files]
    opened[0].seek(7)
    buffers = [io.BytesIO(c) for c in contents]
    held = [contents, [bytearray(c) for c in contents], [memoryview(c) for c in contents], buffers]
    held += [opened, pd.Series(contents), pd.DataFrame({"a": contents}), Items(contents)]
    held += [pl.Series(contents), [(c, 1) for c in contents], [[c] for c in contents]]
    for X in held:
        for how in ({}, {"n_jobs": 3}, {"cache_dir": tmp_path}):
            np.testing.assert_array_equal(samples(X, **how), arrays)
    assert list(tmp_path.iterdir()) == []
    assert opened[0].tell() == 7
    assert buffers[0].tell() == 0
    twice = [opened[3], opened[5]] * 40
    expected = np.stack([arrays[3], arrays[5]] * 40)
    np.testing.assert_array_equal(samples(twice, n_jobs=4), expected)
    for file in opened:
        file.close()


def test_contents_are_decoded_as_files_are(tmp_path):
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((600, 500)).save(tmp_path / f"{i}.jpg")
    files = sorted(tmp_path.iterdir())
    expected = samples(files, side=lambda short: 40)
    contents = [f.read_bytes() for f in files]
    np.testing.assert_array_equal(samples(contents, side=lambda short: 40), expected)
    buffers = [io.BytesIO(c) for c in contents]
    np.testing.assert_array_equal(samples(buffers, side=lambda short: 40), expected)


def test_contents_that_cannot_be_read_are_named_by_their_place(files, pictures):
    good = [f.read_bytes() for f in files]
    closed, text = io.BytesIO(good[0]), io.StringIO("text")
    closed.close()
    with Image.open(files[0]) as left:
        pass  # the usual mistake: its pixels are loaded later
    for bad, reason in (
        (good[0][:200], "200 bytes as an image"),
        (io.BytesIO(b"\0no image"), "cannot identify"),
        (closed, "closed file"),
        (text, "opened as text"),
        (left, "closed before the pixels were loaded"),
    ):
        for at in (0, 3, len(good)):
            X = [*good[:at], bad, *good[at:]]
            with pytest.raises(ImageReadError, match=f"(?s)item {at} of X: .*{reason}"):
                read(X)
            assert list(read(X, on_error="warn")[0].invalid) == [at]
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(read_end, "rb") as pipe, pytest.raises(ImageReadError, match="read only once"):
        read([*pictures, pipe])


# -- missing entries ------------------------------------------------------------------------

MISSING = (None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", b"")


def with_missing(arrays, pictures, files, missing, at):
    """The images in all containers that can have gaps, with a gap."""

    def gap(items):
        items = list(items)
        return [*items[:at], missing, *items[at:]]

    tensors = list(torch.from_numpy(arrays.transpose(0, 3, 1, 2).copy()))
    return {
        "paths": gap(files),
        "strings": gap(map(str, files)),
        "PIL": gap(pictures),
        "arrays": gap(arrays),
        "tensors": gap(tensors),
        "nested lists": gap(arrays.tolist()),
        "tuple": tuple(gap(arrays)),
        "object array": as_objects(gap(arrays)),
        "Series of paths": pd.Series(gap(map(str, files)), dtype=object),
        "Series of arrays": pd.Series(as_objects(gap(arrays))),
        "Series of PIL": pd.Series(as_objects(gap(pictures))),
        "column of paths": pd.DataFrame({"x": pd.Series(gap(map(str, files)), dtype=object)}),
        "column of PIL": pd.DataFrame({"x": as_objects(gap(pictures))}),
        "column of arrays": pd.DataFrame({"x": as_objects(gap(arrays))}),
        "rows of one path": [[x] for x in gap(files)],
        "data set of PIL": Items(gap(pictures)),
        "data set of paths": Items(gap(files)),
        "data set of arrays": Items(gap(arrays)),
        "data set with labels": Items([(x, 1) for x in gap(pictures)]),
        "data set of dicts": Items([{"image": x, "label": 1} for x in gap(pictures)]),
        "tuples with labels": [(x, 1) for x in gap(pictures)],
        "tuples of arrays": [(x, 1) for x in gap(arrays)],
        "dicts": [{"image": x, "label": 1} for x in gap(pictures)],
        "contents": gap(f.read_bytes() for f in files),
    }


def as_objects(items):
    out = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        out[i] = item
    return out


@pytest.mark.parametrize("at", [0, 5, N])
@pytest.mark.parametrize("missing", MISSING, ids=repr)
def test_a_missing_entry_is_an_image_that_cannot_be_read(arrays, pictures, files, missing, at):
    fmt = read(arrays)[1]
    for kind, X in with_missing(arrays, pictures, files, missing, at).items():
        with pytest.raises(ImageReadError, match=f"item {at} of X is missing") as raised:
            read(X)
        assert 'on_error="warn"' in raised.value.__notes__[0], kind
        store, _ = read(X, on_error="warn")
        assert list(store.invalid) == [at], kind
        assert store.invalid[at].startswith(f"item {at} of X is missing ("), kind
        np.testing.assert_array_equal(store.samples.numpy(), arrays, err_msg=kind)
        assert store.sample_indices.tolist() == [i for i in range(N + 1) if i != at], kind
        later, _ = read(X, known=fmt, on_error="warn")
        for _ in later.sweep(lambda batch, index: batch, 4):
            pass
        assert list(later.invalid) == [at], kind
        assert later.n_images == N + 1, kind
        with pytest.raises(ImageReadError, match=f"item {at} of X is missing"):
            read(X, known=fmt)[0].sweep(lambda batch, index: batch, 64).__next__()


def test_the_message_says_what_stands_there(pictures):
    for missing, shown in ((None, "None"), (float("nan"), "nan"), (pd.NA, "<NA>"), ("", "''")):
        with pytest.raises(ImageReadError, match=rf"^item 12 of X is missing \({shown}\)"):
            read([*pictures, missing])


def test_where_all_are_missing_none_can_be_read():
    for X in ([None] * 5, pd.Series([None] * 5, dtype=object), Items([None] * 5),
              pd.DataFrame({"path": [None] * 5}, dtype=object)):  # fmt: skip
        with pytest.raises(ImageReadError, match=r"item 0 of X is missing \(None\)"):
            read(X)
        with pytest.raises(ImageReadError, match="none of the 5 images of X could be read"):
            read(X, on_error="warn")


@pytest.mark.parametrize("container", ["PIL", "arrays", "column of paths", "data set of arrays"])
def test_estimators_leave_missing_entries_out_in_place(
    container, arrays, pictures, files, tmp_path
):
    alone = model().fit(arrays)
    X = with_missing(arrays, pictures, files, None, 4)[container]
    expected = np.insert(alone.labels_, 4, -1)
    for how in ({}, {"n_jobs": 2, "cache_dir": tmp_path}):
        with pytest.warns(ImageReadWarning, match="1 of 13 images could not be read: item 4 of X"):
            fitted = model(on_error="warn", **how).fit(X)
        assert fitted.invalid_ == [(4, "item 4 of X is missing (None)")]
        assert fitted.history_ == alone.history_
        np.testing.assert_array_equal(fitted.labels_, expected)
        with pytest.warns(ImageReadWarning, match="1 of 13 images could not be read: item 4 of X"):
            np.testing.assert_array_equal(fitted.predict(X), expected)
        with pytest.warns(ImageReadWarning):
            assert np.isnan(fitted.transform(X)).any(axis=1).tolist() == (expected < 0).tolist()
    with pytest.raises(ImageReadError, match="item 4 of X is missing"):
        model().fit(X)
    with pytest.raises(ImageReadError, match="item 4 of X is missing"):
        fitted.set_params(on_error="raise").predict(X)


def test_missing_entries_among_unlabeled_images(arrays, pictures, files):
    alone = model().fit(arrays, unlabeled=arrays)
    for kind in ("PIL", "arrays", "paths", "tensors"):
        U = with_missing(arrays, pictures, files, None, 0)[kind]
        with pytest.warns(ImageReadWarning, match="1 of 13 images could not be read"):
            fitted = model(on_error="warn").fit(arrays, unlabeled=U)
        assert fitted.history_ == alone.history_, kind
        with pytest.raises(ImageReadError, match="unlabeled: item 0 of X is missing"):
            model().fit(arrays, unlabeled=U)


def test_missing_vectors_are_left_out_as_well():
    rows = np.random.default_rng(0).normal(size=(20, 6))
    alone = model().fit(rows)
    gaps = [*rows[:7], None, *rows[7:]]
    expected = np.insert(alone.labels_, 7, -1)
    tensors = [row if row is None else torch.from_numpy(row) for row in gaps]
    for X in (gaps, [row if row is None else row.tolist() for row in gaps], tensors,
              pd.Series(as_objects(gaps)), Items([(row, 1) for row in gaps]), Items(tensors),
              [(row, 1) for row in gaps]):  # fmt: skip
        with pytest.warns(ImageReadWarning, match="1 of 21 images could not be read: item 7 of X"):
            fitted = model(on_error="warn").fit(X)
        np.testing.assert_array_equal(fitted.labels_, expected)
        with pytest.warns(ImageReadWarning, match="1 of 21"):
            np.testing.assert_array_equal(fitted.predict(X), expected)
        with pytest.raises(ImageReadError, match="item 7 of X is missing"):
            model().fit(X)


def test_a_cache_serves_a_list_with_gaps(files, arrays, tmp_path):
    X = [*files[:3], None, *files[3:]]
    for _ in range(2):
        store, _ = read(X, cache_dir=tmp_path, on_error="warn")
        np.testing.assert_array_equal(store.samples.numpy(), arrays)
        assert list(store.invalid) == [3]
    assert len(list(tmp_path.glob("*.pixels"))) == 1


# -- the first item is like any other -------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 6, N])
def test_the_place_of_a_bad_item_does_not_matter(at, arrays, pictures, files):
    broken = Image.open(io.BytesIO(files[0].read_bytes()[:200]))
    odd = np.zeros((5, 4, 3), np.uint8)
    for good, bad in (
        (pictures, broken),
        (pictures, None),
        (pictures, KeyError("gone")),
        (pictures, 3),
        (pictures, (1, 2)),
        (pictures, arrays[0]),
        ([(p, 1) for p in pictures], (None, 1)),
        ([(p, 1) for p in pictures], (broken, 1)),
        (list(arrays), odd),
        (list(arrays), None),
        (list(arrays), KeyError("gone")),
        (list(arrays), "name.png"),
    ):
        X = Items([*good[:at], bad, *good[at:]])
        with pytest.raises(ImageReadError, match=f"(item|image) {at} of X"):
            read(X)
        store, _ = read(X, on_error="warn")
        assert list(store.invalid) == [at]
        assert len(store.invalid[at]) < 200, "no pixels in messages"
        np.testing.assert_array_equal(store.samples.numpy(), arrays)
    X = [*pictures[:at], broken, *pictures[at:]]
    with pytest.raises(ImageReadError, match=f"item {at} of X: .*truncated"):
        read(X)
    assert list(read(X, on_error="warn")[0].invalid) == [at]


def test_mixed_lists_are_refused_wherever_the_other_item_is(arrays, pictures, files):
    for at in (0, 1, N):
        for good, other in ((pictures, arrays[0]), (files, 3), (list(arrays), files[0])):
            X = [*good[:at], other, *good[at:]]
            with pytest.raises(TypeError, match="X mixes paths or PIL images with"):
                read(X)


# -- columns of tables ----------------------------------------------------------------------


def frames(columns):
    yield pd.DataFrame({name: as_objects(list(values)) for name, values in columns.items()})
    yield pl.DataFrame({name: list(values) for name, values in columns.items()})


def test_a_column_of_images_is_a_list_of_images(arrays, pictures, files):
    contents = [f.read_bytes() for f in files]
    undecoded = [{"bytes": c, "path": None} for c in contents]
    for values in (pictures, [str(f) for f in files], contents):
        for frame in frames({"image": values}):
            np.testing.assert_array_equal(samples(frame), arrays)
            np.testing.assert_array_equal(samples(frame["image"]), arrays)
    for values in (list(arrays), undecoded, arrays.tolist(), list(torch.from_numpy(arrays))):
        frame = pd.DataFrame({"image": as_objects(values)})
        np.testing.assert_array_equal(samples(frame), arrays)
        np.testing.assert_array_equal(samples(frame["image"]), arrays)
    frame = pl.DataFrame({"image": undecoded})
    np.testing.assert_array_equal(samples(frame), arrays)
    np.testing.assert_array_equal(samples(frame["image"]), arrays)


def test_a_column_of_vectors_is_a_table():
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    expected = model().fit(rows).labels_
    for frame in (
        pd.DataFrame({"e": list(rows)}), pd.DataFrame({"e": rows.tolist()}),
        pl.DataFrame({"e": rows.tolist()}), pl.DataFrame({"e": rows}),
    ):  # fmt: skip
        for X in (frame, frame["e"]):
            fitted = model().fit(X)
            np.testing.assert_array_equal(fitted.labels_, expected)
            np.testing.assert_array_equal(fitted.predict(X), expected)


def test_estimators_take_columns_of_images(arrays, pictures):
    expected = model().fit(pictures).labels_
    for values in (pictures, list(arrays)):
        frame = pd.DataFrame({"image": as_objects(values)})
        fitted = model().fit(frame)
        np.testing.assert_array_equal(fitted.labels_, expected)
        np.testing.assert_array_equal(fitted.predict(frame), expected)


def test_tables_with_images_and_other_columns_tell_which_one_to_give(pictures, arrays, files):
    names = [f"{i}.png" for i in range(N)]
    for values in (pictures, names, [None, *names[1:]], [f.read_bytes() for f in files]):
        for frame in frames({"image": values, "label": range(N), "name": ["a"] * N}):
            for what in (read, model().fit):
                with pytest.raises(
                    ValueError, match=r"X is a DataFrame of 3 columns, .*give .*, X\['image'\]"
                ):
                    what(frame)
    both = pd.DataFrame({"a": names, "b": names, "c": 1})
    with pytest.raises(ValueError, match=r"images in \['a'\], \['b'\]; give one .*X\['a'\]"):
        resolve(both)
    table = np.array([[1, name] for name in names], dtype=object)
    with pytest.raises(
        ValueError, match=r"X is a ndarray of 2 columns.*give that column, X\[:, 1\]"
    ):
        resolve(table)


def test_tables_without_images_are_tables():
    words = pd.DataFrame({"a": ["x", "y", "z"], "b": [1.0, 2, 3]})
    assert resolve(words).kind == "table"
    with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
        model().fit(words)
    with pytest.raises(ValueError, match="NaN"):
        model().fit(pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": 1.0}))
    assert resolve(pd.DataFrame({"a": [1, 2]}, dtype=object)).kind == "table"


# -- what is refused ------------------------------------------------------------------------


class SizedStream(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter([])


class Loader:
    """Looks like the loader of another library."""

    batch_size, dataset = 4, []

    def __len__(self):
        return 1

    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (None, TypeError, "X is None; wanted an array, a folder, or a list"),
        (list, TypeError, "X is of type type; wanted an array"),
        ("", ImageReadError, "'' is not there; wanted a folder"),
        (memoryview(b"\x89PNG\0"), ValueError, "X is one image, 5 bytes"),
        (object(), TypeError, "X is of type object; wanted an array"),
        (len, TypeError, "X is of type builtin_function_or_method; wanted"),
        ({"a.png"}, TypeError, r"X is a set, which has no order; give a list, such as sorted\(X\)"),
        (frozenset(["a"]), TypeError, "X is a frozenset, which has no order"),
        (dict(enumerate("abcdefgh")), TypeError, "X is a dict of 0, 1, 2, 3, ...; wanted one of"),
        (DataLoader(TensorDataset(torch.zeros(4, 1))), TypeError, "give its data set, loader.data"),
        (Loader(), TypeError, "X is a Loader, which gives batches in any order; give its data set"),
        (SizedStream(), TypeError, "SizedStream, which can only be iterated over"),
        (map(str, []), TypeError, "X is a map, which can only be iterated over"),
        (Image.new("L", (4, 4)), ValueError, r"X is one image, .*give a list, \[image\]"),
        (io.BytesIO(b"x"), ValueError, "X is one image, BytesIO; wanted several"),
        (b"\x89PNG\r\n\0", ValueError, "X is one image, 7 bytes; wanted several"),
        ([object()] * 3, TypeError, "the items of X are of type object; wanted PIL images"),
        ([len] * 3, TypeError, "the items of X are of type builtin_function_or_method; wanted"),
        ([{"a": 1, "b": 2}] * 3, TypeError, "the items of X are of type dict of a, b; wanted PIL"),
        ([(1, "a.png")] * 3, TypeError, r"tuple of \(int, str\); .*give \[x\[1\] for x in X\]"),
        ([("cat", "a.png")] * 3, TypeError, r"tuple of \(str, str\); .*give \[x\[1\] for x in X\]"),
        ([["a.png", 1]] * 3, TypeError, r"list of \(str, int\); .*give \[x\[0\] for x in X\]"),
        (Items([(1, Path("a.png"))] * 3), TypeError, r"give \[x\[1\] for x in X\]"),
        ([[Image.new("L", (4, 4)), 1]] * 3, TypeError, r"list of \(Image, int\); .*give \[x\[0\]"),
        (Items([np.zeros((2, 3, 4, 5))] * 3), ValueError, r"items of X have shape \(2, 3, 4, 5\)"),
    ],
)  # fmt: skip
def test_what_is_not_recognised_is_refused_in_its_own_words(X, error, message):
    for what in (read, model().fit):
        with pytest.raises(error, match=message) as raised:
            what(X)
        assert "Reshape" not in str(raised.value)


def test_addresses_and_home_folders_say_what_to_give(folder, files, monkeypatch):
    url = f"file://{files[0]}".replace("png", "p%6Eg")
    path = str(files[0])
    for X in (url, [url, *files], Path(url), [Path(url)], Items([url])):
        with pytest.raises(ImageReadError, match=f"give the path, {path}"):
            read(X)
    for url in ("https://example.org/a.png?x=1", "s3://bucket/a.png", "http://example.org/*.png"):
        for X in (url, [url, *files], [Path(url)]):
            with pytest.raises(ImageReadError, match="addresses are not opened"):
                read(X)
    data = "data:image/png;base64," + "A" * 5000
    for X in (data, [data]):
        with pytest.raises(ImageReadError) as raised:
            read(X)
        assert len(str(raised.value)) < 400
    monkeypatch.setenv("HOME", str(folder.parent))
    with pytest.raises(ImageReadError, match=r"expanduser"):
        read(f"~/{folder.name}")


def test_a_warning_about_a_mixed_data_set_is_short(arrays, pictures):
    big = np.zeros((300, 300, 3), np.uint8)
    for X in (Items([*pictures, big]), Items([big, *pictures]), Items([*pictures, {"a": big}])):
        with pytest.warns(ImageReadWarning) as caught:
            model(on_error="warn").fit(X)
        assert all(len(str(w.message)) < 300 for w in caught)
