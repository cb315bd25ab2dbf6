"""Images that cannot be read: named, or left out by every method, in place."""

import copy
import functools
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from estimators import FULL
from PIL import Image

import skcc
from skcc.data import decoding, read
from skcc.data.stores import HostStore, Reader, SampleStore, SourceStore, Store
from skcc.exceptions import ImageReadError, ImageReadWarning
from skcc.plotting import ClusterGridDisplay

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]
ESTIMATORS = FULL
HOW = {
    "n_clusters": 3,
    "readout": "head",
    "max_epochs": 2,
    "batch_size": 30,
    "random_state": 0,
    "device": "cpu",
}
BAD = (0, 7, 59)


@pytest.fixture
def files(tmp_path, colours):
    """Sixty files, of which one is no image, one is cut short and one is missing."""
    paths = [tmp_path / f"{i:02}.png" for i in range(len(colours))]
    for path, colour in zip(paths, colours, strict=True):
        Image.fromarray(colour).save(path)
    paths[0].write_text("no image")
    paths[7].write_bytes(paths[7].read_bytes()[:200])
    paths[59].unlink()
    return paths


@pytest.fixture
def good(files):
    return [file for i, file in enumerate(files) if i not in BAD]


def quietly(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageReadWarning)
        return function(*arguments)


def whole(rows, fill):
    """Rows of the good files in their places among all."""
    out = np.full((60, *rows.shape[1:]), fill, rows.dtype)
    out[[i for i in range(60) if i not in BAD]] = rows
    return out


# -- stores ---------------------------------------------------------------------------------


def test_a_store_knows_its_places():
    store = Store(torch.zeros(3, 2), {1: "a", 4: "b"})
    assert store.n_images == 5
    assert store.sample_indices.tolist() == [0, 2, 3]
    assert store.scatter_to_input(np.array([7, 8, 9]), -1).tolist() == [7, -1, 8, 9, -1]
    rows = store.scatter_to_input(np.ones((3, 2), np.float32), np.nan)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(rows).any(axis=1), [0, 1, 0, 0, 1])
    assert store.to(torch.device("cpu")) is store
    assert HostStore(store.samples, store.invalid).n_images == 5


def test_without_invalid_images_nothing_is_copied():
    rows = np.arange(3)
    assert Store(torch.zeros(3, 2)).scatter_to_input(rows, -1) is rows


class Grays(Reader):
    """Gray levels by index; every third cannot be read."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def identity(self):
        return None

    def read_into(self, index, out):
        out[:] = np.array(index)[:, None, None, None] % 251
        failed = [i for i in index if i % 3 == 1]
        out[[at for at, i in enumerate(index) if i in failed]] = 0
        return {i: ImageReadError(f"bad {i}") for i in failed}


def test_stores_are_leaves_of_one_interface():
    """No store inherits from another one that can be made."""
    for cls in (Store, HostStore, SourceStore):
        assert [base for base in cls.__mro__[1:] if issubclass(base, SampleStore)
                and not base.__abstractmethods__] == []  # fmt: skip
        assert not cls.__subclasses__()


def test_all_stores_stream_the_same_batches():
    source = SourceStore(Grays(9), (1, 1, 1), "warn")
    samples = source.batch(torch.arange(9))
    order = [torch.tensor([3, 0, 4]), torch.tensor([8, 8, 1])]
    for store in (source, Store(samples), HostStore(samples)):
        for index, (at, batch) in zip(order, store.stream(order, torch.device("cpu")), strict=True):
            assert torch.equal(at, index)
            assert torch.equal(batch, samples[index])


@pytest.mark.parametrize("n", [2, 64, 65, 1000])
@pytest.mark.parametrize("on_disk", [False, True])
def test_blocks_are_put_together_in_order(n, on_disk, tmp_path):
    expected = [i % 251 for i in range(n) if i % 3 != 1]
    store = SourceStore(Grays(n), (2, 70, 1), "warn").read(tmp_path if on_disk else None)
    assert store.samples.shape == (len(expected), 2, 70, 1)
    assert store.samples[:, 1, 1, 0].tolist() == expected
    assert store.sample_indices.tolist() == [i for i in range(n) if i % 3 != 1]
    assert store.invalid[1] == "bad 1"


def test_the_first_failure_is_raised():
    with pytest.raises(ImageReadError, match=r"^bad 1\n"):
        SourceStore(Grays(100), (2, 2, 1), "raise").read()


def test_read_batch_by_batch_the_bad_ones_are_black():
    store = SourceStore(Grays(9), (1, 1, 1), "warn")
    assert store.invalid == {}
    assert store.batch(torch.tensor([4, 3, 4, 8])).flatten().tolist() == [0, 3, 0, 8]
    assert list(store.invalid) == [4]
    assert store.scatter_to_input(np.arange(9.0), -1).tolist() == [0, 1, 2, 3, -1, 5, 6, 7, 8]


# -- estimators -----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
def test_the_default_names_the_file_and_the_reason(cls, files, good):
    with pytest.raises(ImageReadError, match=r"00\.png as an image: cannot identify") as raised:
        cls(**HOW).fit(files)
    assert 'on_error="warn"' in raised.value.__notes__[0]
    model = cls(**HOW).fit(good)
    assert model.invalid_ == []
    for name in ("predict", "predict_proba", "transform", "score"):
        with pytest.raises(ImageReadError, match=r"no such file: .*59\.png"):
            getattr(model, name)(files)
        with pytest.raises(ImageReadError, match=r"07\.png as an image: .*truncated"):
            getattr(model, name)(files[3:9])


@pytest.mark.parametrize("readout", ["head", "kmeans"])
@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
def test_the_others_are_clustered_as_if_the_bad_ones_were_not_there(cls, files, good, readout):
    # Distances to centres are rounded by their place in a batch, all else is the same to the bit.
    close = np.testing.assert_array_equal
    if readout == "kmeans":
        close = functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-4)
    how = HOW | {"readout": readout}
    alone = cls(**how).fit(good)
    model = cls(**how, on_error="warn")
    with pytest.warns(ImageReadWarning, match=r"3 of 60 images could not be read: cannot read"):
        model.fit(files)
    assert [i for i, _ in model.invalid_] == list(BAD)
    for i, reason in model.invalid_:
        assert files[i].name in reason
    assert model.history_ == alone.history_
    np.testing.assert_array_equal(model.labels_, whole(alone.labels_, -1))
    for name, fill in (("predict", -1), ("predict_proba", np.nan), ("transform", np.nan)):
        answer = getattr(model, name)
        expected = whole(getattr(alone, name)(good), fill)
        with pytest.warns(ImageReadWarning, match="3 of 60 images"):
            close(answer(files), expected)
        close(quietly(answer, files[5:9]), expected[5:9])
        close(quietly(answer, files[:1]), expected[:1])
    assert [i for i, _ in model.invalid_] == list(BAD), "what fit learned stays"


def test_the_score_does_not_count_them(files):
    model = skcc.ContrastiveClustering(**HOW, on_error="warn")
    quietly(model.fit, files)
    with pytest.warns(ImageReadWarning):
        score = model.score(files)
    assert 0 <= score <= 1
    with (
        pytest.raises(ImageReadError, match="none of the 1 images of X could be read"),
        pytest.warns(ImageReadWarning),
    ):
        model.score(files[:1])


def test_fit_predict_and_the_display(files):
    model = skcc.ContrastiveClustering(**HOW, on_error="warn")
    labels = quietly(model.fit_predict, files)
    np.testing.assert_array_equal(labels, model.labels_)
    display = quietly(ClusterGridDisplay.from_estimator, model, files)
    assert sum(display.sizes) == 57


def test_with_nothing_left_there_is_an_error(files):
    for X in ([files[0]] * 5, [files[0], files[59]], [files[7]] * 5):
        model = skcc.ContrastiveClustering(**HOW, on_error="warn")
        with pytest.raises(ImageReadError, match=f"none of the {len(X)} images of X could be read"):
            model.fit(X)
        assert not hasattr(model, "invalid_")
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        quietly(skcc.ContrastiveClustering(**HOW, on_error="warn").fit, files[57:])


def test_files_that_vanish_between_header_and_decoding(files, good, monkeypatch):
    decode = decoding.decode

    def vanish(source, *out):
        good[20].unlink(missing_ok=True)
        return decode(source, *out)

    monkeypatch.setattr(decoding, "decode", vanish)
    content = good[20].read_bytes()
    with pytest.raises(ImageReadError, match=f"no such file: {good[20]}"):
        skcc.ContrastiveClustering(**HOW).fit(good)
    good[20].write_bytes(content)
    model = skcc.ContrastiveClustering(**HOW, on_error="warn")
    quietly(model.fit, good)
    assert model.invalid_ == [(20, f"no such file: {good[20]}")]


def test_a_broken_pil_image_is_left_out_wherever_it_is(files, colours):
    truncated = files[1].read_bytes()[:200]
    pictures = [Image.fromarray(c) for c in colours[1:]]
    for at in (0, 30):
        X = [*pictures[:at], Image.open(io.BytesIO(truncated)), *pictures[at:]]
        model = skcc.ContrastiveClustering(**HOW, on_error="warn")
        quietly(model.fit, X)
        assert [i for i, _ in model.invalid_] == [at]


def test_what_was_invalid_is_saved_and_pickled(files, tmp_path):
    model = skcc.ContrastiveClustering(**HOW, on_error="warn", cache_dir=tmp_path / "cache")
    quietly(model.fit, files)
    model.save(tmp_path / "model.safetensors")
    for again in (
        skcc.ContrastiveClustering.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        assert again.invalid_ == model.invalid_
        assert again.on_error == "warn"
        np.testing.assert_array_equal(quietly(again.predict, files), model.labels_)


@pytest.mark.parametrize("value", ["ignore", None, True])
def test_other_words_are_refused(good, value):
    with pytest.raises(ValueError, match="on_error must be one of 'raise', 'warn'; got"):
        skcc.ContrastiveClustering(**HOW, on_error=value).fit(good)


# -- a shape from a few headers -------------------------------------------------------------


def test_files_are_opened_once_where_a_guess_is_right(tmp_path, monkeypatch):
    seen = []
    for name in ("decode", "header"):
        work = getattr(decoding, name)
        monkeypatch.setattr(decoding, name, lambda *a, work=work: seen.append(0) or work(*a))
    pictures = [Image.new("L", (6, 6), i % 256) for i in range(300)]
    store, fmt = read(pictures)
    assert len(seen) == 300 + 64
    assert fmt.shape == (6, 6, 1)
    assert store.samples[:, 0, 0, 0].tolist() == [i % 256 for i in range(300)]


@pytest.mark.parametrize("odd", ["size", "colour", "both"])
def test_a_guess_that_is_wrong_changes_nothing(odd, tmp_path):
    size = (9, 7) if odd != "colour" else (6, 6)
    mode = "L" if odd == "size" else "RGB"
    pictures = [Image.new("L", (6, 6), i % 256) for i in range(300)]
    pictures[150] = Image.new(mode, size)  # not among those that are looked at
    with_guess, fmt = read(pictures)
    without, same = read(pictures, cache_dir=tmp_path)
    assert fmt == same
    np.testing.assert_array_equal(with_guess.samples, without.samples)
