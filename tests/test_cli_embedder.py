"""skcc fit --embedder, predict and report, with random weights in a file."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.pipeline import make_pipeline

from skcc import ContrastiveClustering, ImageEmbedder, pipelines
from skcc.cli import main, parsers

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::skcc.exceptions.ImageReadWarning"),
]

NETWORK = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def folder(shapes, tmp_path_factory):
    """A folder with 30 photos, one broken one, and the weights of a network."""
    from torchvision import models

    root = tmp_path_factory.mktemp("embedder")
    for i, (image, kind) in enumerate(zip(*shapes, strict=True)):
        if i < 30:
            (root / "photos" / f"{kind}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((48, 40)).save(root / "photos" / f"{kind}" / f"{i}.png")
    (root / "photos" / "0" / "broken.png").write_bytes(b"broken")
    torch.manual_seed(0)
    torch.save(models.get_model(NETWORK[12:], weights=None).state_dict(), root / "weights.pth")
    return root


def arguments(folder, out):
    return [*("fit", str(folder / "photos"), "-k", "3", "-o", str(out), "--embedder", NETWORK),
            *("--weights-file", str(folder / "weights.pth"), "--on-error", "warn", "--jobs", "1"),
            *("--epochs", "2", "--set", "embedder__size=32", "batch_size=30")]  # fmt: skip


@pytest.fixture(scope="module")
def run(folder):
    """A finished run."""
    with pytest.MonkeyPatch.context():
        assert main([*arguments(folder, folder / "out"), "--quiet", "--classes-from-folders"]) == 0
    return folder / "out"


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def no_forward(*_):
    raise AssertionError("the network computes again")


def test_a_run_is_what_python_would_compute(run, folder):
    files = sorted((folder / "photos").rglob("*.png"))
    network = ImageEmbedder(NETWORK, weights=folder / "weights.pth", size=32, on_error="warn")
    clusters = ContrastiveClustering(3, max_epochs=2, batch_size=30, random_state=0,
                                     on_error="warn")  # fmt: skip
    labels = make_pipeline(network, clusters).fit_predict(files)
    table = rows(run / "labels.csv")
    assert [row["path"] for row in table] == [str(file) for file in files]
    assert [int(row["cluster"]) for row in table] == labels.tolist()
    assert labels.tolist().count(-1) == 1
    record = json.loads((run / "run.json").read_text())
    assert record["run"]["embedder"] == NETWORK
    assert record["estimator"] == "ContrastiveClustering"
    assert record["settings"]["embedder__size"] == 32
    assert [name for name, _ in record["invalid"]] == ["0/broken.png"]
    assert record["acc"] > 0
    weights = (folder / "weights.pth").stat().st_size
    assert (run / "model.safetensors").stat().st_size != weights
    assert pipelines.load(run / "model.safetensors")[0].weights == str(folder / "weights.pth")


def test_the_page_shows_the_photos_by_their_embeddings(run):
    page = (run / "report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', page)[1])
    assert len(data["points"]) == 30
    assert all(point["image"].startswith("data:image/") for point in data["points"])
    assert "--aspect:40/40" in page.replace(" ", "")
    for part in (NETWORK, "embedder__size", "broken.png",
                 f"ContrastiveClustering on embeddings of {NETWORK}"):  # fmt: skip
        assert part in page


def test_report_and_predict_take_the_embeddings_of_the_run(run, folder, monkeypatch, capsys):
    before = (run / "report.html").read_text()
    labels = (run / "labels.csv").read_text()
    monkeypatch.setattr("skcc.embedding.embedder.FrozenNetwork.__call__", no_forward)
    assert main(["report", str(run), "--quiet"]) == 0
    assert (run / "report.html").read_text() == before
    predict = ["predict", str(run / "model.safetensors"), str(folder / "photos"), "--quiet",
               "--on-error", "warn"]  # fmt: skip
    assert main([*predict, "--cache-dir", str(run / "embeddings")]) == 0
    assert capsys.readouterr().out == labels


def test_predict_embeds_new_photos_and_says_what_is_missing(run, folder, tmp_path, capsys):
    image = folder / "photos" / "1" / "1.png"
    shutil.copy(image, tmp_path / "new.png")
    predict = ["predict", str(run / "model.safetensors"), str(tmp_path / "new.png"), "--quiet"]
    assert main(predict) == 0
    cluster = next(row["cluster"] for row in rows(run / "labels.csv") if row["path"] == str(image))
    assert capsys.readouterr().out.splitlines()[1].split(",")[1] == cluster
    moved = (folder / "weights.pth").rename(folder / "moved.pth")
    try:
        assert main(predict) == 1
        assert f"{folder / 'weights.pth'}: no such file" in capsys.readouterr().err
        assert main([*predict, "--weights-file", str(moved)]) == 0
    finally:
        moved.rename(folder / "weights.pth")
    capsys.readouterr()
    state = torch.load(folder / "weights.pth", weights_only=True)
    torch.save({k: v + 1 if v.ndim == 4 else v for k, v in state.items()}, tmp_path / "other.pth")
    assert main([*predict, "--weights-file", str(tmp_path / "other.pth")]) == 1
    assert "has other weights here" in capsys.readouterr().err


def test_ctrl_c_while_embedding_keeps_embeddings(folder, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("skcc.embedding.embedder.FrozenNetwork.__call__", stop)
    assert main([*arguments(folder, tmp_path / "out"), "--quiet"]) == 130
    assert "embeddings are kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--embedder", "resnet50"], "there is no network 'resnet50'.*torchvision/resnet50"),
        (["--weights-file", "x"], "name it by --embedder"),
        (["--set", "embedder__size=3"], "name it by --embedder"),
        (["--embedder", NETWORK, "--weights", "model"], "choose one"),
        (["--embedder", NETWORK, "--weights-file", "x"], "x: no such file"),
        (["--embedder", NETWORK, "--set", "embedder__colour=1"], "Invalid parameter 'colour'"),
    ],
)
def test_errors_are_one_line_and_status_1(folder, tmp_path, capsys, options, message):
    photos = str(folder / "photos" / "1")
    assert main(["fit", photos, "-k", "2", "-o", str(tmp_path / "out"), *options]) == 1
    err = capsys.readouterr().err
    assert re.search(rf"^skcc: .*{message}", err, flags=re.MULTILINE | re.DOTALL)
    assert "Traceback" not in err


def test_the_help_shows_it():
    assert "--embedder torchvision/resnet50" in parsers.FIT_EXAMPLES
    assert np.all([part in parsers.FIT_EXAMPLES for part in ("embeddings/", "with --embedder")])
