"""The cache: whole or rebuilt, quick to start from, and larger than memory."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from skcc import ContrastiveClustering
from skcc.data import cache, decoding, read
from skcc.exceptions import ImageReadError, ImageReadWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]


@pytest.fixture
def files(tmp_path, colours):
    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{i:02}.png" for i in range(len(colours))]
    for path, colour in zip(paths, colours, strict=True):
        Image.fromarray(colour).save(path)
    return paths


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch):
    """Which images were looked at, by header or as a whole."""
    seen = []
    for name in ("decode", "header"):
        work = getattr(decoding, name)
        monkeypatch.setattr(
            decoding, name, lambda s, *out, work=work: seen.append(str(s)) or work(s, *out)
        )
    return seen


def pixels(files, folder, **how):
    return read(files, cache_dir=folder, **how)[0].samples.numpy()


def pixel_file(folder):
    (path,) = folder.glob("*.pixels")
    return path


# -- kept and found again -------------------------------------------------------------------


def test_the_second_time_no_image_is_opened(files, folder, colours, opened):
    np.testing.assert_array_equal(pixels(files, folder), colours)
    assert len(opened) == 2 * len(files)
    assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".pixels"]
    opened.clear()
    for again in (files, [str(f) for f in files], files[0].parent):
        np.testing.assert_array_equal(pixels(again, folder), colours)
    assert opened == []


def test_pixels_are_mapped_and_not_to_be_written(files, folder):
    array = pixels(files, folder)
    with pytest.raises(ValueError, match="read-only"):
        cache.load_pixels(pixel_file(folder), trailer(folder)["key"])[0][0] = 1
    pixel_file(folder).unlink()  # while it is in use
    assert array.sum() > 0


def test_other_order_other_files_and_other_sizes_have_files_of_their_own(files, folder, colours):
    pixels(files, folder)
    np.testing.assert_array_equal(pixels(files[::-1], folder), colours[::-1])
    np.testing.assert_array_equal(pixels(files[:7], folder), colours[:7])
    assert pixels(files, folder, side=lambda short: 5).shape == (60, 6, 5, 3)
    np.testing.assert_array_equal(pixels(files, folder), colours)
    assert len(list(folder.glob("*.pixels"))) == 4


def test_after_fit_the_cache_is_used_but_not_filled(files, folder, colours, opened):
    _, fmt = read(files, cache_dir=folder)
    opened.clear()
    store, _ = read(files, cache_dir=folder, known=fmt)
    np.testing.assert_array_equal(store.samples.numpy(), colours)
    assert opened == []
    store, _ = read(files[:9], cache_dir=folder, known=fmt)
    np.testing.assert_array_equal(store.batch(np_range(9)).numpy(), colours[:9])
    assert len(list(folder.glob("*.pixels"))) == 1


def np_range(n):
    import torch

    return torch.arange(n)


def test_what_has_no_name_takes_space_in_the_folder_but_leaves_nothing(folder, colours):
    images = [Image.fromarray(c) for c in colours]
    np.testing.assert_array_equal(pixels(images, folder), colours)
    assert list(folder.iterdir()) == []


# -- never trusted --------------------------------------------------------------------------


def trailer(folder):
    with open(pixel_file(folder), "rb") as file:
        return cache._read_trailer(file)[0]


def changed_file(files, folder):
    stat = files[3].stat()
    Image.new("RGB", (10, 12), "red").save(files[3])
    os.utime(files[3], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def same_size_other_time(files, folder):
    data = files[4].read_bytes()
    files[3].write_bytes(data)
    os.utime(files[3], ns=(1, 1))


def truncated(files, folder):
    data = pixel_file(folder).read_bytes()
    pixel_file(folder).write_bytes(data[:-9])


def cut_by_a_row(files, folder):
    data = pixel_file(folder).read_bytes()
    pixel_file(folder).write_bytes(data[360:])


def flipped_pixel(files, folder):
    data = bytearray(pixel_file(folder).read_bytes())
    data[1000] ^= 4
    pixel_file(folder).write_bytes(data)


def flipped_trailer(files, folder):
    data = bytearray(pixel_file(folder).read_bytes())
    data[-40] ^= 4
    pixel_file(folder).write_bytes(data)


def hole(files, folder):
    data = bytearray(pixel_file(folder).read_bytes())
    data[4000:9000] = bytes(5000)
    pixel_file(folder).write_bytes(data)


def empty(files, folder):
    pixel_file(folder).write_bytes(b"")


def foreign(files, folder):
    pixel_file(folder).write_bytes(b"something else " * 9999)


def a_folder(files, folder):
    path = pixel_file(folder)
    path.unlink()


def of_other_files(files, folder):
    path = pixel_file(folder)
    read(files[::-1], cache_dir=folder)
    (other,) = set(folder.glob("*.pixels")) - {path}
    os.replace(other, path)


def broken_note(files, folder):
    for note in folder.glob("*.json"):
        note.write_text('{"key": ')


def other_note(files, folder):
    for path in folder.glob("*.json"):
        note = json.loads(path.read_text())
        note["key"] = "of another time"
        note["note"]["size"] = [3, 3]
        path.write_text(json.dumps(note))


@pytest.mark.parametrize(
    "harm",
    [changed_file, same_size_other_time, truncated, cut_by_a_row, flipped_pixel, flipped_trailer,
     hole, empty, foreign, a_folder, of_other_files, broken_note, other_note],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_stale_damaged_and_foreign_files_are_made_again(files, folder, opened, harm):
    pixels(files, folder)
    harm(files, folder)
    expected, fmt = read(files)
    opened.clear()
    np.testing.assert_array_equal(pixels(files, folder), expected.samples)
    assert opened
    opened.clear()
    np.testing.assert_array_equal(pixels(files, folder), expected.samples)
    assert not opened, "it is whole again"
    harm(files, folder)
    store, _ = read(files, cache_dir=folder, known=fmt)
    np.testing.assert_array_equal(next(store.sweep(lambda b, i: b, 60)), read(files)[0].samples)


def test_another_decoder_decodes_again(files, folder, opened, monkeypatch):
    pixels(files, folder)
    opened.clear()
    monkeypatch.setattr(decoding, "_RULES_VERSION", 10**6)
    pixels(files, folder)
    assert len(opened) == 2 * len(files)


def test_files_that_change_while_they_are_decoded_are_not_kept(files, folder, monkeypatch):
    decode = decoding.decode

    def touch(source, *out):
        if source == files[9]:
            os.utime(files[0])
        return decode(source, *out)

    monkeypatch.setattr(decoding, "decode", touch)
    expected = read(files)[0].samples
    np.testing.assert_array_equal(pixels(files, folder), expected)
    assert not list(folder.glob("*.pixels"))


def test_a_folder_that_cannot_be_written_to_is_named(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        read(files, cache_dir=tmp_path / "file")
    assert not isinstance(caught.value, ImageReadError)


# -- crashes and company --------------------------------------------------------------------

FILL = """
import sys, time
from skcc.data import decoding, read

if sys.argv[3] == "slow":
    decode = decoding.decode
    decoding.decode = lambda *a: time.sleep(0.05) or decode(*a)
    print("on its way", flush=True)
print(read(sys.argv[1], cache_dir=sys.argv[2])[0].samples.long().sum().item())
"""


def fill(files, folder, how="fast"):
    return subprocess.Popen(
        [sys.executable, "-c", FILL, str(files[0].parent), str(folder), how],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_process_that_is_killed_leaves_nothing_that_is_believed(files, folder, colours):
    process = fill(files, folder, "slow")
    assert process.stdout.readline()
    while not list(folder.glob("*.pixels*.tmp")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = folder.glob("*.pixels*.tmp")
    assert not list(folder.glob("*.pixels"))
    np.testing.assert_array_equal(pixels(files, folder), colours)
    assert left.exists()
    os.utime(left, (1, 1))  # long ago
    pixels(files[:5], folder)
    assert not left.exists()


@pytest.mark.processes
def test_two_processes_at_once(files, folder, colours):
    both = [fill(files, folder) for _ in range(2)]
    for process in both:
        out, _ = process.communicate()
        assert process.returncode == 0
        assert int(out) == colours.astype(int).sum()
    np.testing.assert_array_equal(pixels(files, folder), colours)
    assert not list(folder.glob("*.tmp"))


def test_many_threads_at_once(files, folder, colours):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(pixels(files, folder))) for _ in range(6)
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 6
    for result in results:
        np.testing.assert_array_equal(result, colours)


# -- images that cannot be read -------------------------------------------------------------


def test_broken_files_are_left_out_and_tried_again(files, folder, colours):
    good = files[7].read_bytes()
    files[7].write_bytes(good[:150])
    os.utime(files[7], ns=(5, 5))
    for _ in range(2):
        store, _ = read(files, cache_dir=folder, on_error="warn")
        assert list(store.invalid) == [7]
        np.testing.assert_array_equal(store.samples.numpy(), np.delete(colours, 7, axis=0))
    with pytest.raises(ImageReadError, match=r"07\.png"):
        read(files, cache_dir=folder)
    # As if a failing disk had come back: same size, same time.
    files[7].write_bytes(good[:150])
    key = trailer(folder)["key"]
    os.utime(files[7], ns=(5, 5))
    assert cache.load_pixels(pixel_file(folder), key) is not None


def test_what_could_not_be_read_then_but_can_be_now_makes_the_file_again(
    files, folder, colours, monkeypatch
):
    decode = decoding.decode

    def fail(source, *out):
        if source == files[7]:
            raise ImageReadError("the disk is away")
        return decode(source, *out)

    monkeypatch.setattr(decoding, "decode", fail)
    store, fmt = read(files, cache_dir=folder, on_error="warn")
    assert store.invalid == {7: "the disk is away"}
    monkeypatch.setattr(decoding, "decode", decode)
    later, _ = read(files, cache_dir=folder, on_error="warn", known=fmt)
    assert len(later) == 60
    np.testing.assert_array_equal(pixels(files, folder), colours)


def test_a_header_that_could_not_be_read_then_but_can_be_now_makes_the_note_again(
    files, folder, monkeypatch
):
    """The shape is that of all images, not only of those that could be read at first."""
    for file in files[5:]:
        Image.new("L", (4, 4)).save(file)
    header = decoding.header

    def fail(source):
        if source in files[5:]:
            raise ImageReadError("the disk is away")
        return header(source)

    monkeypatch.setattr(decoding, "header", fail)
    monkeypatch.setattr(decoding, "decode", lambda source, *out: fail(source))
    for _ in range(2):
        store, fmt = read(files, cache_dir=folder, on_error="warn")
        assert len(store) == 5
        assert fmt.shape == (12, 10, 3)
    monkeypatch.undo()
    expected, fmt = read(files)
    assert fmt.shape == (4, 4, 3)
    store, same = read(files, cache_dir=folder, on_error="warn")
    assert same == fmt
    np.testing.assert_array_equal(store.samples, expected.samples)


@pytest.mark.parametrize("failed", [3, "x", [60], [-1], [True], [1.0], None, {}])
def test_notes_with_failures_that_cannot_be_are_not_believed(files, folder, failed):
    pixels(files, folder)
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text())
    content["note"] |= {"failed": failed, "size": [3, 3]}
    path.write_text(json.dumps(content))
    assert pixels(files, folder).shape == (60, 12, 10, 3)


# -- estimators -----------------------------------------------------------------------------


def model(**how):
    return ContrastiveClustering(
        3, max_epochs=2, readout="head", batch_size=30, random_state=0, device="cpu", **how
    )


def test_an_estimator_gives_the_same_with_a_cache_and_without(files, folder, tmp_path):
    plain = model().fit(files)
    first = model(cache_dir=folder).fit(files)
    second = model(cache_dir=str(folder), checkpoint_dir=tmp_path / "run").fit(files[0].parent)
    for other in (first, second):
        assert other.history_ == plain.history_
        for name in ("predict", "predict_proba", "transform"):
            np.testing.assert_array_equal(getattr(other, name)(files), getattr(plain, name)(files))
        assert other.score(files) == plain.score(files)
    again = model(checkpoint_dir=tmp_path / "run").fit(files)  # a finished run, merely loaded
    np.testing.assert_array_equal(again.labels_, plain.labels_)


@pytest.mark.parametrize("value", [3, True, ["a"]])
def test_other_kinds_of_folders_are_refused(files, value):
    with pytest.raises(ValueError, match="cache_dir must be a path or None; got"):
        model(cache_dir=value).fit(files)


def test_broken_files_in_the_cache_are_broken_for_every_method(files, folder):
    files[7].write_bytes(b"")
    plain, cached = model(on_error="warn"), model(on_error="warn", cache_dir=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageReadWarning)
        plain.fit(files)
        for _ in range(2):
            cached.fit(files)
            assert [i for i, _ in cached.invalid_] == [7]
            np.testing.assert_array_equal(cached.labels_, plain.labels_)
            np.testing.assert_array_equal(cached.predict(files), plain.labels_)
            np.testing.assert_array_equal(cached.transform(files), plain.transform(files))
            assert cached.score(files) == plain.score(files)


# -- memory -------------------------------------------------------------------------------


def photos(folder, n, side):
    """Files of `side` pixels that differ, written quickly."""
    folder.mkdir()
    rng, kinds = np.random.default_rng(0), []
    for _ in range(20):
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        file = io.BytesIO()
        image.resize((side, side), Image.Resampling.BICUBIC).save(file, "jpeg")
        kinds.append(file.getvalue())
    for i in range(n):
        (folder / f"{i:05}.jpg").write_bytes(kinds[i % 20])
    return folder


BOUNDED = """
import resource, sys, warnings
import numpy as np
import torch
import skcc.training.sweep
from skcc import ContrastiveClustering

folder, cache, limit, batch = *sys.argv[1:3], *map(int, sys.argv[3:])
skcc.training.sweep.INFERENCE_BATCH = batch
torch.set_num_threads(1)
warnings.simplefilter("ignore")
network = torch.nn.Sequential(
    torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3 * 64, 8)
)
model = ContrastiveClustering(
    2, backbone=network, augment="none", image_size=64, max_epochs=1, batch_size=batch,
    random_state=0, device="cpu",
)
model.fit(np.zeros((40, 128, 128, 3), np.uint8)).predict(np.zeros((40, 128, 128, 3), np.uint8))
# Libraries have what they need; from here on the system grants `limit` MiB more.
with open("/proc/self/status") as status:
    in_use = int(next(line for line in status if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (in_use + limit * 2**20,) * 2)
try:
    np.zeros(4 * limit * 2**20, np.uint8)
    raise SystemExit("the limit does not hold")
except MemoryError:
    pass
try:
    model.fit(folder)
    raise SystemExit("they fit into memory")
except MemoryError as error:
    assert "cache_dir keeps them in a file" in str(error), error
model.set_params(cache_dir=cache).fit(folder)
labels = model.labels_
assert (model.predict(folder) == labels).all()
model.set_params(cache_dir=None)
assert (model.predict(folder) == labels).all()
print(len(labels))
"""


# What is freed goes back to the system at once, so that its count is what is in use.
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def in_bounded_memory(tmp_path, limit, batch):
    n = 4 * limit * 2**20 // (128 * 128 * 3) + 1
    images = photos(tmp_path / "photos", n, 128)
    out = subprocess.run(
        [sys.executable, "-c", BOUNDED, *map(str, (images, tmp_path / "cache", limit, batch))],
        env={**os.environ, **FREED_AT_ONCE},
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) == n
    assert pixel_file(tmp_path / "cache").stat().st_size > 4 * limit * 2**20


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")


@on_linux
@pytest.mark.processes
def test_a_set_four_times_as_large_as_memory(tmp_path):
    in_bounded_memory(tmp_path, limit=10, batch=8)


@on_linux
@pytest.mark.long
def test_a_larger_set_four_times_as_large_as_memory(tmp_path):
    in_bounded_memory(tmp_path, limit=160, batch=128)


PEAK = """
import sys
import torch
from skcc.data import read

folder, few, cache = sys.argv[1:]
how = {"side": lambda short: 64, "cache_dir": cache}
files = sorted(__import__("pathlib").Path(folder).iterdir())
for n in (int(few), len(files)):
    store, fmt = read(files[:n], **how)
    for batch in read(files[:n], known=fmt)[0].sweep(lambda batch, index: batch[:, 0, 0], 128):
        pass
    with open("/proc/self/status") as status:
        print(next(int(l.split()[1]) for l in status if l.startswith("VmData")))
    del store
"""


@on_linux
@pytest.mark.long
def test_memory_is_flat_in_the_number_of_files(tmp_path):
    images = photos(tmp_path / "photos", 2400, 64)
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(images), "600", str(tmp_path / "cache")],
        env={**os.environ, **FREED_AT_ONCE},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    few, many = map(int, out.split())
    assert (many - few) * 1024 < 0.25 * 1800 * 64 * 64 * 3
