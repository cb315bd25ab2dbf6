"""The qualitative study: what is kept, what is drawn, and that it continues."""

import json

import numpy as np
import pytest
import sklearn
from PIL import Image
from sklearn.utils import Bunch

from skcc import ContrastiveClustering
from skcc.cli import main
from skcc.experiments import records, study
from skcc.metrics import clustering_scores

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(
        tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9),
        reason="scikit-learn before 1.9",
    ),
]
SETTINGS = {"n_clusters": 3, "max_epochs": 4, "batch_size": 40, "random_state": 0}
SETTINGS |= {"image_size": 8, "readout": "head"}


@pytest.fixture(autouse=True)
def _no_windows(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.fixture(scope="module")
def bunch(shapes):
    images, kinds = shapes
    return Bunch(name="shapes", images=images, target=kinds, unlabeled=None)


def observe(bunch, folder, snapshot_epochs, parameters=SETTINGS):
    return study.observe(bunch, folder, parameters=parameters, snapshot_epochs=snapshot_epochs)


@pytest.fixture(scope="module")
def finished(bunch, tmp_path_factory):
    """The folder of a finished study, and its record."""
    folder = tmp_path_factory.mktemp("study")
    return folder, observe(bunch, folder, (1, 2, 4))


@pytest.mark.filterwarnings("ignore:max_seconds=")
def test_what_is_kept_is_what_training_gave(bunch, finished):
    folder, record = finished
    model = ContrastiveClustering(**SETTINGS).fit(bunch.images)
    assert record["acc"] == clustering_scores(bunch.target, model.labels_)["acc"]
    assert [at["epoch"] for at in records.read(folder / "epochs.jsonl")] == [1, 2, 3, 4]
    with np.load(folder / "epoch-00004.npz") as last:
        np.testing.assert_array_equal(last["labels"], model.labels_)
        assert last["features"].shape == (120, 128)
    early = ContrastiveClustering(**SETTINGS, max_seconds=1e-9).fit(bunch.images)
    with np.load(folder / "epoch-00001.npz") as first:
        np.testing.assert_array_equal(first["labels"], early.labels_)


def test_it_is_trained_once_and_continues(bunch, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    save = study._Observer._save_features

    def dies(self, model, X, epoch):
        if epoch == 3:
            raise Killed
        save(self, model, X, epoch)

    monkeypatch.setattr(study._Observer, "_save_features", dies)
    monkeypatch.setattr("skcc.training.checkpoint._SECONDS", 0.0)
    with pytest.raises(Killed):
        observe(bunch, tmp_path / "cut", (1, 3))
    monkeypatch.setattr(study._Observer, "_save_features", save)
    continued = observe(bunch, tmp_path / "cut", (1, 3))
    straight = observe(bunch, tmp_path / "whole", (1, 3))
    assert continued["acc"] == straight["acc"]
    lines = [json.dumps(study._read_epochs(tmp_path / name)) for name in ("cut", "whole")]
    assert lines[0] == lines[1]
    monkeypatch.setattr(study, "make_estimator", None)  # nothing is trained again
    again = observe(bunch, tmp_path / "cut", (1, 3))
    assert again == json.loads(json.dumps(straight))


def test_a_folder_holds_one_study(bunch, finished):
    folder, _ = finished
    with pytest.raises(ValueError, match=r"holds another study: parameters was \{.*is \{"):
        observe(bunch, folder, (1, 2, 4), SETTINGS | {"random_state": 1})


def test_figures_come_from_the_folder_alone(finished):
    folder, _ = finished
    similarity = study.draw_similarity(folder)
    assert len(similarity.axes[0].get_lines()) == 4
    seen = study._read_epochs(folder)
    evolution = study.draw_evolution(folder)
    assert [ax.get_title() for ax in evolution.axes] == [
        f"epoch {epoch}, NMI {seen[epoch - 1]['nmi']:.3f}" for epoch in (1, 2, 4)
    ]
    for ax in evolution.axes:
        assert sum(len(points.get_offsets()) for points in ax.collections) == 120


@pytest.mark.parametrize(
    ("max_epochs", "epochs"),
    [(1000, [1, 100, 250, 1000]), (62, [1, 6, 16, 62]), (2, [1, 2]), (1, [1])],
)
def test_default_snapshot_epochs(max_epochs, epochs):
    assert study.default_snapshot_epochs(max_epochs) == epochs


def test_commands_draw_figures(tmp_path, capsys):
    arguments = ["--dataset", "digits", "--images", "60", "--out", str(tmp_path / "digits"),
                 "--set", "max_epochs=2", "readout=head"]  # fmt: skip
    for name in ("similarity", "evolution"):
        assert main(["reproduce", name, *arguments]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["epochs"] == 2
        with Image.open(told["figure"]) as image:
            assert image.size[0] > 600
    status = main(["reproduce", "similarity", *arguments, "--seed", "4"])
    assert status == 1
    assert "holds another study" in capsys.readouterr().err
