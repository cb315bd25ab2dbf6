"""skcc fit, predict and report, as a person at a shell meets them."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skcc import ContrastiveClustering, TwinContrastClustering, __version__
from skcc.cli import main, parsers
from skcc.cli.main import _build_parser

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = ("--epochs", "2", "--set", "batch_size=30")


@pytest.fixture(scope="module")
def photos(shapes, tmp_path_factory):
    """Sixty pictures in a folder per kind, and one of a hostile name."""
    root = tmp_path_factory.mktemp("pile") / "photos"
    for i, (image, kind) in enumerate(zip(*shapes, strict=True)):
        if i >= 60:
            break
        folder = root / f"kind {kind}"
        folder.mkdir(parents=True, exist_ok=True)
        name = "<script>alert(1)<&>.png" if i == 7 else f"{i:02}.png"
        Image.fromarray(image).save(folder / name)
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ["fit", str(photos), "-k", "3", "-o", str(out), "--quiet", *QUICK]
    assert main([*arguments, "--classes-from-folders"]) == 0
    return out


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_fit_writes_what_python_would_compute(run, photos):
    assert sorted(path.name for path in run.iterdir()) == [
        "history.csv", "labels.csv", "model.safetensors", "report.html", "run.json"
    ]  # fmt: skip
    files = sorted(photos.rglob("*.png"))
    model = ContrastiveClustering(3, max_epochs=2, batch_size=30, random_state=0).fit(files)
    rows = table(run / "labels.csv")
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert [int(row["cluster"]) for row in rows] == model.labels_.tolist()
    p = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(p, model.predict_proba(files).max(axis=1), atol=1e-6)
    history = table(run / "history.csv")
    assert [int(row.pop("epoch")) for row in history] == [1, 2]
    assert [{n: float(v) for n, v in row.items()} for row in history] == model.history_
    again = ContrastiveClustering.load(run / "model.safetensors")
    np.testing.assert_array_equal(again.predict(files), model.labels_)
    assert "<h1>photos</h1>" in (run / "report.html").read_text()


def test_the_record_and_the_summary(run, photos, tmp_path, capsys):
    record = json.loads((run / "run.json").read_text())
    assert (record["n"], record["epochs"], record["versions"]["skcc"]) == (60, 2, __version__)
    assert sum(record["sizes"]) == 60
    assert 0 < record["acc"] <= 1
    arguments = ["fit", str(photos), "-k", "3", "-o", str(tmp_path / "o ut"), *QUICK]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("60 images in 3 clusters")
    assert out.endswith(f"look at {tmp_path / 'o ut' / 'report.html'}\n")
    assert "ACC" not in out  # nobody said that folders are classes
    assert f"60 images in {photos}" in err
    assert "epoch" in err
    before = (tmp_path / "o ut" / "model.safetensors").read_bytes()
    assert main([*arguments, "--seed", "1"]) == 1  # a finished run is not replaced by mistake
    assert "holds a finished run: add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "o ut" / "model.safetensors").read_bytes() == before
    again = [*arguments, "--json", "--quiet", "--overwrite"]
    assert main(again) == 0
    out, err = capsys.readouterr()
    assert err == ""
    printed = json.loads(out)
    assert printed["sizes"] == record["sizes"]
    assert printed["acc"] is None
    assert shlex.split(printed["command"])[1:] == again


def test_options_reach_the_estimator(photos, tmp_path, capsys):
    method = "twin"
    arguments = [
        *("fit", str(photos), "-k", "2", "-o", str(tmp_path), "--method", method, "--epochs", "1"),
        *("--seed", "5", "--device", "cpu", "--backbone", "resnet18-small", "--jobs", "2"),
        *("--set", "image_size=8", "batch_size=60", "--json", "--quiet"),
    ]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["backbone"] == "resnet18-small"
    assert record["settings"]["image_size"] == [8, 8]
    assert record["run"]["parameters"]["random_state"] == 5
    assert record["estimator"].lower().startswith(method)


def test_weights_start_from_learned_features(run, photos, tmp_path, capsys):
    model = run / "model.safetensors"
    rate = ["--epochs", "1", "--set", "batch_size=30", "learning_rate=1e-12", "--quiet"]
    out = ["-o", str(tmp_path), "--weights", str(model), "--method", "twin"]
    assert main(["fit", str(photos), *out, *rate]) == 0
    old = ContrastiveClustering.load(model)
    new = TwinContrastClustering.load(tmp_path / "model.safetensors")
    assert new.n_clusters == 3  # as in the model
    for name, weights in old.weights_.items():
        if name.startswith("backbone.") and name.endswith("weight"):
            np.testing.assert_allclose(new.weights_[f"network.{name}"], weights, atol=1e-6)


def test_predict(run, photos, tmp_path, capfdbinary):
    model = str(run / "model.safetensors")
    expected = (run / "labels.csv").read_bytes()
    assert main(["predict", model, str(photos), "-o", str(tmp_path / "l.csv")]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"wrote " in err
    assert (tmp_path / "l.csv").read_bytes() == expected
    for paths in ([str(photos)], [str(photos / "kind*" / "*.png")], sorted(photos.iterdir())):
        assert main(["predict", str(run), *map(str, paths), "--quiet"]) == 0
        assert capfdbinary.readouterr() == (expected, b"")
    names = tmp_path / "names.json"
    names.write_text('{"0": "bars", "2": "bars"}')
    assert main(["predict", str(run), str(photos), "--quiet", "--rename", str(names)]) == 0
    named = list(csv.DictReader(capfdbinary.readouterr().out.decode().splitlines()))
    called = {"0": "bars", "1": "1", "2": "bars"}
    assert [r["cluster"] for r in named] == [
        called[r["cluster"]] for r in table(run / "labels.csv")
    ]
    for wrong, told in (('{"3": "x"}', b"cluster 3; the model has 0 to 2"), ("[1]", b"no file of"),
                        ('{"0": "=1"}', b"does not begin with"), ('{"a": "x"}', b"no file of"),
                        ('{"1": 2}', b"wanted text"), ("{", b"no file of")):  # fmt: skip
        names.write_text(wrong)
        assert main(["predict", str(run), str(photos), "--rename", str(names)]) == 1
        assert told in capfdbinary.readouterr().err
    assert main(["predict", str(photos), str(photos)]) == 1
    assert b"is a folder without model.safetensors" in capfdbinary.readouterr().err
    one = next(photos.rglob("07.png"), None) or next(photos.rglob("08.png"))
    assert main(["predict", model, str(one), "--quiet", "--json"]) == 0
    row = json.loads(capfdbinary.readouterr().out)
    assert row["path"] == str(one)
    wanted = next(r for r in table(run / "labels.csv") if r["path"] == str(one))
    assert row["cluster"] == int(wanted["cluster"])


def test_report_makes_the_page_again(run, photos, tmp_path, capsys, monkeypatch):
    before = (run / "report.html").read_bytes()
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"look at {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_bytes() == before
    moved = tmp_path / "moved"
    photos.rename(moved)
    try:
        assert main(["report", str(run)]) == 1
        assert "--images says where" in capsys.readouterr().err
        monkeypatch.chdir(tmp_path)
        assert main(["report", str(run), "--images", "moved", "--json"]) == 0
    finally:
        moved.rename(photos)
    assert json.loads(capsys.readouterr().out)["n"] == 60
    assert (run / "report.html").read_bytes() == before


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_images_are_sorted_and_never_overwritten(run, photos, tmp_path, capsys, how):
    out = tmp_path / "out"
    arguments = ["fit", str(photos), "-k", "3", "-o", str(out), "--sort", how, "--quiet", *QUICK]
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    for row in table(out / "labels.csv"):
        name = Path(row["path"]).relative_to(photos)
        target = out / "sorted" / row["cluster"] / name
        assert target.read_bytes() == before[Path(row["path"])]
        assert target.is_symlink() == (how == "symlink")
    mine = out / "sorted" / "0" / "mine.txt"
    mine.write_text("mine")
    assert main(arguments) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_a_finished_run_can_be_sorted_later(photos, tmp_path, capsys):
    arguments = ["fit", str(photos), "-k", "3", "-o", str(tmp_path), *QUICK, "--resume"]
    assert main(arguments) == 0
    assert "no run to resume" in capsys.readouterr().err
    assert main([*arguments, "--sort", "symlink"]) == 0
    out, err = capsys.readouterr()
    assert "is finished: nothing to resume" in err
    assert out.startswith("60 images in 3 clusters")
    assert sum(p.is_symlink() for p in (tmp_path / "sorted").rglob("*")) == 60
    assert main([*arguments, "--seed", "1"]) == 1
    assert "finished run with other settings" in capsys.readouterr().err


def test_earlier_results_among_the_images_are_no_images(photos, tmp_path, capsys):
    root = tmp_path / "photos"
    root.mkdir()
    for path in list(photos.rglob("*.png"))[:40]:
        (root / path.name).write_bytes(path.read_bytes())
    arguments = ["fit", str(root), "-k", "3", "-o", str(root / "out"), "--quiet", "--json", *QUICK]
    assert main([*arguments, "--sort", "copy"]) == 0
    n = json.loads(capsys.readouterr().out)["n"]
    assert main([*arguments, "--overwrite"]) == 1  # the sorted images would be those of before
    assert "sorted holds the images by their old clusters" in capsys.readouterr().err
    (root / "out" / "run.json").unlink()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["n"] == n
    assert main(["fit", str(root / "out" / "sorted"), "-k", "3", "-o", str(root / "out")]) == 1
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "/no/such", "-o", "out"], "/no/such is not a folder"),
        (["fit", ".", "-o", "out"], "holds no image"),
        (["fit", "a.npy", "-o", "out"], r"a\.npy holds an array; .* fit\('a\.npy'\)"),
        (["fit", "{photos}", "-o", "out", "-k", "0"], "n_clusters must be an int >= 1"),
        (["fit", "{photos}", "-o", "out", "-k", "100"], "n_samples=60 should be >= n_clusters=100"),
        (["fit", "{photos}", "-o", "out", "--backbone", "vgg"], "backbone must be one of"),
        (["fit", "{photos}", "-o", "out", "--set", "colour=3"], "no parameter 'colour'"),
        (["fit", "{photos}", "-o", "out", "--set", "max_epoch=2"], r"did you mean max_epochs\?"),
        (["fit", "{photos}", "-o", "out", "--device", "tpu"], "device='tpu' cannot be used"),
        (["fit", "{photos}", "-o", "out", "--weights", "no.safetensors"], "no such file"),
        (["fit", "{photos}", "-o", "file"], "[Ff]ile exists"),
        (["predict", "no.safetensors", "{photos}"], "no such file"),
        (["predict", "file", "{photos}"], "no safetensors file"),
        (["report", "{photos}"], "holds no finished run"),
    ],
)
def test_errors_are_one_line_and_status_1(
    photos, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    np.save(tmp_path / "a.npy", np.zeros((5, 8, 8)))
    assert main([a.format(photos=photos) for a in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf"^skcc: .*{message}", err, flags=re.MULTILINE | re.DOTALL)
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_status_2_and_help_has_examples(capsys):
    for wrong in (["fit"], ["fit", "x"], ["predict", "m"], ["report"],
                  ["fit", "x", "-o", "y", "--sort", "move"],
                  ["fit", "x", "-o", "y", "--on-error", "ignore"]):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    capsys.readouterr()
    for name in ("fit", "predict", "report"):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert f"examples:\n  skcc {name} " in capsys.readouterr().out


def documented_commands():
    """Commands of the pages and of the help, up to what is not the program's."""
    home = Path(__file__).parents[1]
    lines = (home / "docs" / "command-line.md").read_text().splitlines()
    lines += (home / "README.md").read_text().splitlines()
    for examples in (parsers.FIT_EXAMPLES, parsers.PREDICT_EXAMPLES, parsers.REPORT_EXAMPLES,
                     parsers.SUGGEST_EXAMPLES):  # fmt: skip
        lines += examples.splitlines()
    found = [re.split(r"  +(?![^ ]*=)|\||#", line.strip())[0] for line in lines]
    return sorted({line for line in found if re.match("skcc (fit|predict|report|suggest) ", line)})


def test_documented_commands_are_commands():
    found = documented_commands()
    assert len(found) > 10
    for line in found:
        options = _build_parser().parse_args(shlex.split(line)[1:])
        assert options.command == line.split()[1]


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines_without_source_code(photos, tmp_path, capsys):
    arguments = ["fit", str(photos), "-k", "20", "-o", str(tmp_path), "--epochs", "1"]
    assert main([*arguments, "--set", "batch_size=30", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith("skcc: warning: ") for line in err.splitlines())
    assert "batches of 30 samples are small" in err


@pytest.mark.filterwarnings("default")
def test_broken_files_are_listed(photos, tmp_path, capsys):
    root, out = tmp_path / "photos", tmp_path / "out"
    root.mkdir()
    for path in list(photos.rglob("*.png"))[:40]:
        (root / path.name).write_bytes(path.read_bytes())
    whole = (root / "08.png").read_bytes()
    (root / "08.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["fit", str(root), "-k", "3", "-o", str(out), *QUICK]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "08.png" in err
    assert "--on-error warn" in err
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert main([*arguments, "--on-error", "warn", "--sort", "copy", *cache]) == 0
    summary = capsys.readouterr().out
    assert "39 images in 3 clusters" in summary
    assert "1 file could not be read" in summary
    rows = {Path(row["path"]).name: row for row in table(out / "labels.csv")}
    assert (rows["08.png"]["cluster"], rows["08.png"]["probability"]) == ("-1", "")
    assert sum(row["cluster"] == "-1" for row in rows.values()) == 1
    record = json.loads((out / "run.json").read_text())
    assert [name for name, _ in record["invalid"]] == ["08.png"]
    assert not list((out / "sorted").rglob("08.png"))
    page = (out / "report.html").read_text()
    assert "Not readable" in page
    assert "39 images in 3 clusters" in page
    model = str(out / "model.safetensors")
    capsys.readouterr()
    assert main(["predict", model, str(root), "--on-error", "warn", "--json", "--quiet"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["cluster"] for r in lines if r["path"].endswith("08.png")] == [-1]


# -- Ctrl-C ---------------------------------------------------------------------------------


def shell(arguments, **how):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "skcc", *arguments], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how,
    )  # fmt: skip


def interrupted_fit(arguments, epochs):
    """Send SIGINT after the second epoch; what the process said, if it was still in training."""
    process = shell([*arguments, "--epochs", str(epochs)])
    seen = ""
    while not re.search(rf" ([2-9]|\d\d+)/{epochs} ", seen):
        character = process.stderr.read(1)
        assert character, seen
        seen += character
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return (process.returncode, out, err) if process.returncode else None


@pytest.mark.processes
def test_ctrl_c_keeps_the_checkpoint_and_prints_the_command_that_resumes(photos, tmp_path, capsys):
    """A real signal to a real process; what goes on then ends as if nothing had happened."""
    how = ["-k", "3", "--set", "batch_size=60", "image_size=8"]
    for epochs in (25, 100, 400, 1600):  # on a busy machine we may be slower than the training
        folder = tmp_path / str(epochs)
        arguments = ["fit", str(photos), "-o", str(folder), *how]
        said = interrupted_fit(arguments, epochs)
        if said is not None:
            break
    status, out, err = said
    assert (status, out) == (130, "")
    assert "Traceback" not in err
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]
    reason, command = err.splitlines()[-2:]
    assert re.fullmatch(r"skcc: interrupted; .* is kept\. Go on with", reason)
    assert main([*arguments, "--epochs", str(epochs)]) == 1  # not thrown away by mistake

    program, resume = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == [sys.executable, "-m", "skcc"]
    assert main(resume) == 0
    assert "look at" in capsys.readouterr().out
    assert not (folder / "checkpoint").exists()
    whole = ContrastiveClustering(
        3, batch_size=60, image_size=8, max_epochs=epochs, random_state=0
    ).fit(sorted(photos.rglob("*.png")))
    cut = ContrastiveClustering.load(folder / "model.safetensors")
    assert cut.history_ == whole.history_
    np.testing.assert_array_equal(cut.labels_, whole.labels_)
    np.testing.assert_equal(cut.weights_, whole.weights_)


def test_ctrl_c_after_training_keeps_what_was_learned(photos, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **how):
        raise KeyboardInterrupt

    arguments = ["fit", str(photos), "-k", "3", "-o", str(tmp_path), *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr("skcc.report.write_page", interrupted)
        assert main(arguments) == 130
    said, command = capsys.readouterr().err.splitlines()[-2:]
    assert said == "skcc: interrupted; what was learned is kept. Go on with"
    assert command == f"  skcc {shlex.join(arguments)} --resume"
    assert main([*arguments, "--resume", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["epochs"] == 2
    assert "0/2" in err
    assert "1/2" not in err  # nothing was trained again


@pytest.mark.processes
def test_a_reader_that_has_had_enough_is_no_error(run, photos):
    with shell(["predict", str(run / "model.safetensors"), str(photos), "--quiet"]) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_ctrl_c_before_anything_is_learned(photos, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("skcc.data.image_files", interrupted)
    assert main(["fit", str(photos), "-k", "3", "-o", str(tmp_path)]) == 130
    assert capsys.readouterr().err == (
        "skcc: interrupted before an epoch was finished; nothing is kept\n"
    )
    assert main(["predict", str(tmp_path / "no"), str(photos)]) == 1
