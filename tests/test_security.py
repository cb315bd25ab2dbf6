"""Files from strangers: nothing in them is executed, and nothing is written where it should not be.

docs/security.md says what is promised, and names the test that holds each promise.
"""

import ast
import io
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import skcc
from skcc import ContrastiveClustering, datasets
from skcc.cli import main
from skcc.cli.output import printable
from skcc.data import cache, decoding, files, read
from skcc.exceptions import ImageReadError
from skcc.experiments import records
from skcc.report import outputs
from skcc.training.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]
HOME = Path(__file__).parents[1]
DEEP = "[" * 200_000 + "]" * 200_000  # JSON whose nesting no parser that calls itself survives


class Evil:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def trap(tmp_path):
    """A file that is made if anything is executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def everything(folder):
    """All files below a folder and what is in them, and where links point to."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def photos(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pile") / "photos"
    folder.mkdir()
    for i, image in enumerate(shapes[0][:12]):
        Image.fromarray(image[::2, ::2]).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The files of a finished run."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(["fit", str(photos), "-k", "3", "--epochs", "1", "-o", str(out), "--quiet"]) == 0
    return everything(out)


@pytest.fixture
def run(finished, tmp_path):
    """A finished run that a test may spoil."""
    out = tmp_path / "out"
    out.mkdir()
    for path, content in finished.items():
        (out / Path(path).name).write_bytes(content)
    return out


def spoil(path, change):
    """Change the JSON of a file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# -- models and checkpoints -----------------------------------------------------------------


def with_header(path, change):
    """Rewrite the JSON at the head of a safetensors file; `change` sees head and state."""
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    head = json.loads(whole[8 : 8 + size])
    state = json.loads(head["__metadata__"]["state"])
    head["__metadata__"]["state"] = change(head, state) or json.dumps(state)
    packed = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + whole[8 + size :])


def hidden_method(head, state):
    assert "n_clusters" in state["dict"], "parameters are attributes of the class, and legal"
    state["dict"]["predict"] = "not what you think"


def hidden_private_method(head, state):
    state["dict"]["_phases"] = "not what you think"


def nested(head, state):
    return DEEP


def nested_kinds(head, state):
    return '{"list": [' * 5000 + "1" + "]}" * 5000


def parameters_that_are_none(head, state):
    state["dict"]["_fitted_with"] = {"list": [{"list": []}]}


def a_network_for_ten_million_clusters(head, state):
    state["dict"]["_fitted_with"]["dict"]["n_clusters"] = 10**7


def a_class_to_import(head, state):
    state["dict"]["labels_"] = {"os.system": {"list": ["true"]}}


def a_tensor_of_a_hostile_name(head, state):
    name = next(name for name in head if name.endswith("labels_"))
    head["../../../labels_"] = head.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hidden_method, "would replace predict"),
        (hidden_private_method, "would replace _phases"),
        (nested, "damaged: RecursionError"),
        (nested_kinds, "damaged: RecursionError"),
        (parameters_that_are_none, "would replace parameters"),
        (a_network_for_ten_million_clusters, r"has shape .* and should have \(10000000,"),
        (a_class_to_import, "damaged: KeyError"),
        (a_tensor_of_a_hostile_name, "damaged: KeyError"),
    ],
)
def test_a_hostile_model_is_refused(run, change, message):
    path, before = run / "model.safetensors", everything(run.parent)
    with_header(path, change)
    with pytest.raises(ValueError, match=message):
        ContrastiveClustering.load(path)
    del before[str(path)]
    assert everything(run.parent).items() >= before.items()
    assert len(everything(run.parent)) == len(before) + 1


@pytest.mark.parametrize("size", [2**62, 2**31, 10**8])
def test_a_header_that_claims_to_be_huge_is_refused(tmp_path, size):
    (tmp_path / "m").write_bytes(struct.pack("<Q", size) + b'{"a":')
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        ContrastiveClustering.load(tmp_path / "m")


def test_a_model_does_not_say_where_files_are_kept(run, photos, tmp_path):
    places = {"cache_dir": str(tmp_path / "a"), "checkpoint_dir": {"path": str(tmp_path / "b")}}

    def change(head, state):
        state["dict"].update(places)
        state["dict"]["_fitted_with"]["dict"].update(places)

    with_header(run / "model.safetensors", change)
    model = ContrastiveClustering.load(run / "model.safetensors")
    model.fit(str(photos)).predict(str(photos))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_checkpoint_executes_nothing(tmp_path, trap):
    content = {"version": 1, "settings": {}, "seed": 0, "history": [Evil(trap)]}
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        Checkpoint(tmp_path / "c.pt", {}, 0).load()


# -- caches ---------------------------------------------------------------------------------


def pixel_file(content, pixels=b"\0" * 12):
    """A file of pixels with any trailer, which the checksum fits."""
    trailer = content if isinstance(content, bytes) else json.dumps(content).encode()
    return pixels + trailer + cache._END.pack(len(trailer), zlib.crc32(trailer), cache._MAGIC)


@pytest.mark.parametrize(
    "content",
    [
        DEEP.encode(),
        b"[]",
        b"\xff",
        {"key": "k", "shape": [2**32, 2**32, 12], "checksum": 0, "invalid": []},
        {"key": "k", "shape": [2**62, 4, 1], "checksum": 0, "invalid": []},
        {"key": "k", "shape": [-3, -4], "checksum": 0, "invalid": []},
        {"key": "k", "shape": ["a"], "checksum": 0, "invalid": []},
        {"key": "k", "shape": [10**400], "checksum": 0, "invalid": []},
        {"key": "k", "shape": [3, 4], "checksum": zlib.crc32(b"\0" * 12), "invalid": [[{}, 1]]},
    ],
    ids=str,
)
def test_a_hostile_file_of_pixels_is_not_believed(tmp_path, content):
    path = tmp_path / "x.pixels"
    path.write_bytes(pixel_file({"key": "k", "shape": [3, 4], "checksum": zlib.crc32(b"\0" * 12),
                                 "invalid": []}))  # fmt: skip
    assert cache.load_pixels(path, "k")[0].shape == (3, 4)
    path.write_bytes(pixel_file(content))
    assert cache.load_pixels(path, "k") is None


@pytest.mark.parametrize(
    "note",
    [
        {"size": [3]}, {"size": "ab"}, {"size": [2.5, 3]}, {"size": [0, 3]}, {"size": [-1, 3]},
        {"short": 0}, {"short": None}, {"short": True}, {"channels": 4},
        {"failed": [-1]}, {"failed": [20]}, {"failed": 1}, {"high": "1"}, {"other": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_hostile_note_is_not_believed(note):
    whole = {"short": 8, "size": [8, 9], "channels": 3, "high": None, "failed": []}
    assert files._is_note(whole, 20)
    assert files._is_note(whole | {"size": None, "failed": [3, 19]}, 20)
    assert not files._is_note(whole | note, 20)


def test_notes_that_are_nested_too_deeply_are_not_believed(tmp_path):
    (tmp_path / "n.json").write_text(DEEP)
    assert cache.load_note(tmp_path / "n.json", "k") is None


def test_what_is_not_ours_stays_in_the_folder_of_the_cache(photos, tmp_path):
    folder, secret = tmp_path / "cache", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("mine")
    for name in ("thesis.tmp", "a.pixels.tmp", "b.json." + "g" * 32 + ".tmp"):
        (folder / name).write_text("mine")
        os.utime(folder / name, (1, 1))  # long ago
    left = folder / ("c.pixels." + "0" * 32 + ".tmp")
    left.write_text("of a process that was killed")
    os.utime(left, (1, 1))
    read(sorted(photos.iterdir()), cache_dir=folder)
    names = [path.name for path in folder.iterdir() if path.suffix in (".pixels", ".json")]
    for name in names:  # links in the place of ours
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
    read(sorted(photos.iterdir()), cache_dir=folder)
    assert secret.read_text() == "mine"
    assert not any((folder / name).is_symlink() for name in names)
    assert not left.exists()
    assert [path.read_text() for path in sorted(folder.glob("*.tmp"))] == ["mine"] * 3


# -- images and arrays ----------------------------------------------------------------------


def claims(width, height):
    """A tiny PNG file that claims a size."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "png")
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    head += struct.pack(">I", zlib.crc32(head))
    return file.getvalue()[:12] + head + file.getvalue()[33:]


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (10**5, 10**5)])
def test_an_image_that_claims_to_be_huge_is_refused(tmp_path, size):
    (tmp_path / "x.png").write_bytes(claims(*size))
    with pytest.raises(ImageReadError, match=r"cannot read .*x\.png"):
        decoding.decode(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))


def test_formats_with_known_holes_are_not_decoded():
    """They call other programs, or old releases of Pillow read or inflate them without end."""
    refused = {"EPS", "WMF", "PDF"}
    if int(Image.__version__.split(".")[0]) < 13:
        refused |= {"DDS", "FITS"}
    assert not refused & set(decoding.formats())


def header_of(shape):
    file = io.BytesIO()
    how = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, how)
    return file.getvalue()


def in_npz(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", content)
    return file.getvalue()


def objects(trap, save):
    file = io.BytesIO()
    save(file, np.array([Evil(trap)], dtype=object))
    return file.getvalue()


ARRAYS = {
    "objects.npy": lambda trap: objects(trap, np.save),
    "objects.npz": lambda trap: objects(trap, lambda file, x: np.savez(file, images=x)),
    "pickle.npy": lambda trap: pickle.dumps(Evil(trap)),
    "pickle.npz": lambda trap: pickle.dumps(Evil(trap)),
    "huge.npy": lambda trap: header_of((2**40, 8, 8)),
    "huge.npz": lambda trap: in_npz(header_of((2**50, 8, 8))),
    "overflowing.npy": lambda trap: header_of((2**62, 2**62)),
    "overflowing.npz": lambda trap: in_npz(header_of((2**62, 2**62))),
    "code.npy": lambda trap: header_of((8,)).replace(b"(8,)", b"f()#"),
    "deep.npy": lambda trap: b"\x93NUMPY\x01\x00\xe8\x23" + b"(" * 9192,
    "cut.npz": lambda trap: in_npz(header_of((8, 8, 8)))[:-9],
}


@pytest.mark.filterwarnings("ignore:Reading")
@pytest.mark.parametrize("name", ARRAYS)
def test_a_hostile_file_of_arrays_is_refused(tmp_path, trap, name):
    path = tmp_path / name
    path.write_bytes(ARRAYS[name](trap))
    with pytest.raises(ImageReadError, match=r"cannot read .* as a file of NumPy"):
        read(str(path))
    if name.endswith(".npz"):
        with pytest.raises(ValueError, match=r"is not a \.npz file of arrays"):
            datasets.load_arrays(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pickles_that_are_not_cifar_are_not_unpickled(tmp_path, trap):
    """torchvision unpickles its files; before that it demands the checksums of the real ones."""
    for folder, names in {
        "cifar-10-batches-py": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch",
                                "batches.meta"],
        "cifar-100-python": ["train", "test", "meta"],
    }.items():  # fmt: skip
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(pickle.dumps(Evil(trap)))
    for fetch in (datasets.fetch_cifar10, datasets.fetch_cifar100):
        with pytest.raises(RuntimeError, match="not found or corrupted"):
            fetch(tmp_path)


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_no_image_is_sorted_through_a_link_that_sorting_made(tmp_path, how):
    """A name that is also the folder of another would be a link to a folder outside."""
    inside = tmp_path / "pile" / "a"
    inside.mkdir(parents=True)
    (inside / "b.png").write_bytes(b"b")
    before = everything(tmp_path)
    for paths in ([inside, inside / "b.png"], [inside]):
        names = [str(path.relative_to(tmp_path / "pile")) for path in paths]
        with pytest.raises(ValueError, match=r"is also the folder of another|is no file"):
            outputs.sort_files(paths, names, np.zeros(len(paths), int), tmp_path / "sorted", how)
    assert everything(tmp_path) == before


@pytest.mark.filterwarnings("default")
def test_links_among_the_images_that_are_no_images_are_not_copied(photos, tmp_path, capsys):
    (tmp_path / "secret").write_text("password")
    pile = tmp_path / "pile"
    pile.mkdir()
    for path in photos.iterdir():
        (pile / path.name).symlink_to(path)  # what --sort symlink makes, say
    (pile / "x.png").symlink_to(tmp_path / "secret")
    (pile / "y").symlink_to("/")  # folders that are links are not followed
    arguments = ["fit", str(pile), "-k", "3", "--epochs", "1", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--sort", "copy", "--on-error", "warn", "--quiet"]) == 0
    written = everything(tmp_path / "out")
    assert sum("/sorted/" in path for path in written) == 12
    assert not any(b"password" in content for content in written.values())
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/x.png", "photos/../../secret.png"])
def test_a_strangers_table_names_no_file_outside(run, photos, path, capsys):
    lines = (run / "labels.csv").read_text().splitlines()
    (run / "labels.csv").write_text("\n".join([*lines, f"{path},0,0.5"]) + "\n")
    before = everything(run.parent)
    again = ["fit", str(photos), "-k", "3", "--epochs", "1", "-o", str(run), "--resume"]
    for arguments in (["report", str(run)], [*again, "--sort", "copy"]):
        assert main(arguments) == 1
        assert "is not below" in capsys.readouterr().err
    assert everything(run.parent) == before


def no_record(record):
    record.clear()


def wrong_kinds(record):
    record["path"] = ["a"]


def no_root(record):
    record["run"] = {"parameters": {}}


def odd_failures(record):
    record["invalid"] = [["a", {}]]


@pytest.mark.parametrize("change", [no_record, wrong_kinds, no_root, odd_failures])
def test_a_strangers_record_is_refused(run, change, capsys):
    spoil(run / "run.json", change)
    before = everything(run)
    assert main(["report", str(run)]) == 1
    assert re.fullmatch(r"skcc: .*run\.json is damaged: .*\n", capsys.readouterr().err)
    assert everything(run) == before


def test_records_and_tables_of_strangers_take_no_memory_that_they_claim(run, capsys):
    (run / "labels.csv").write_text("path,cluster,probability\na.png,1000000000000,0.5\n")
    assert main(["report", str(run)]) == 1
    assert "has clusters that" in capsys.readouterr().err
    (run / "run.json").write_text(DEEP)
    assert main(["report", str(run)]) == 1
    assert "damaged: RecursionError" in capsys.readouterr().err
    (run / "digits.jsonl").write_text(DEEP + '\n{"a": 1}\n')
    with pytest.warns(UserWarning, match=r"digits\.jsonl, line 1"):
        assert records.read(run / "digits.jsonl") == [{"a": 1}]


def test_names_are_no_formulas_for_spreadsheets():
    names = ["=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@SUM(1).png", "\t=1.png", "a=1.png"]
    lines = outputs.labels_as_csv(names, [0] * 6, [0.5] * 6).decode().splitlines()[1:]
    assert all(line.lstrip('"').startswith(("./", "a")) for line in lines)


@pytest.mark.filterwarnings("default")
def test_names_are_no_commands_for_terminals(photos, tmp_path, capsys):
    pile = tmp_path / "pile"
    pile.mkdir()
    for path in photos.iterdir():
        (pile / path.name).symlink_to(path)
    (pile / "\x1b]0;title\x07\u202e.png").write_bytes(b"")
    arguments = ["fit", str(pile), "-k", "3", "--epochs", "1", "-o", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert main([*arguments, "--on-error", "warn", "--quiet"]) == 0
    said = capsys.readouterr().err
    assert r"\x1b]0;title\x07\u202e.png" in said
    assert "\x1b]" not in said
    assert printable("ä 猫\n\x9b\udcff") == "ä 猫\n\\x9b\\udcff"


# -- the package and the page ---------------------------------------------------------------

# What would execute what it is given; and loaders, which must be told not to.
NEVER = {"eval", "exec", "compile", "__import__", "system", "popen", "unpickle"}
TOLD = {("np", "load"): "allow_pickle=False", ("torch", "load"): "weights_only=True"}


def calls(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_the_package_has_no_way_to_execute_what_it_reads():
    for path in Path(skcc.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                    for alias in node.names}  # fmt: skip
        assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}, path
        for call in calls(path):
            text, function = ast.unparse(call), call.func
            if isinstance(function, ast.Name):
                assert function.id not in NEVER, (path, text)
            if isinstance(function, ast.Attribute):
                owner = ast.unparse(function.value)
                assert function.attr not in NEVER - {"compile", "eval"}, (path, text)
                assert "joblib.load" not in text, (path, text)
                assert TOLD.get((owner, function.attr), "") in text, (path, text)
            assert "shell=True" not in text, (path, text)


def names_of_tests(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}  # fmt: skip


def test_the_page_names_tests_that_exist_and_all_of_these():
    named = re.findall(r"`tests/(\w+\.py)::(\w+)`", (HOME / "docs" / "security.md").read_text())
    assert len(named) > 20
    for file, test in named:
        assert test in names_of_tests(HOME / "tests" / file), f"{file} has no {test}"
    own = names_of_tests(Path(__file__)) - {"test_the_page_names_tests_that_exist_and_all_of_these"}
    assert own <= {test for file, test in named if file == Path(__file__).name}
