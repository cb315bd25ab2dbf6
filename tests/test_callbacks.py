"""What verbose shows, what scikit-learn's callbacks see, and what loggers write."""

import csv
import io
import pickle
import re
import sys

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skcc import ContrastiveClustering
from skcc.callbacks import CSVLogger, Progress, TensorBoardLogger

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
HAS_CALLBACKS = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)
with_callbacks = pytest.mark.skipif(not HAS_CALLBACKS, reason="scikit-learn before 1.9")


def quick(**parameters):
    return ContrastiveClustering(
        **{
            "n_clusters": 3,
            "readout": "head",
            "max_epochs": 3,
            "batch_size": 40,
            "random_state": 0,
            "device": "cpu",
        }
        | {"image_size": 8}
        | parameters
    )


def epochs(progress, n=3):
    with progress as report:
        for epoch in range(n):
            report(epoch, {"instance": 2.5, "cluster": 1.25}, 0.5)


@pytest.mark.parametrize("tqdm", [True, False])
def test_verbose_where_there_is_no_standard_error(capfd, shapes, monkeypatch, tqdm):
    """As under pythonw, or where a program has closed it."""
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    closed = io.StringIO()
    closed.close()
    for stderr in (None, closed):
        with monkeypatch.context() as m:
            m.setattr(sys, "stderr", stderr)
            model = quick(max_epochs=2, verbose=1).fit(shapes[0][:40])
        assert model.n_iter_ == 2
    assert capfd.readouterr() == ("", "")


def test_silent(capfd):
    epochs(Progress("X", 3, 100, 0))
    assert capfd.readouterr() == ("", "")


def test_a_bar_shows_epoch_terms_speed_and_time_left(capfd):
    epochs(Progress("Fit", 3, 100, 1))
    out, err = capfd.readouterr()
    assert out == ""
    for word in ("Fit", "3/3", "instance=2.500", "cluster=1.250", "images/s=200", "00:00"):
        assert word in err


def test_lines_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    epochs(Progress("Fit", 3, 100, 1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["epoch 1/3", "epoch 3/3"]
    assert "instance 2.500" in lines[0]
    assert "images/s 200" in lines[0]
    assert lines[-1].endswith("0 s left")


def test_a_resumed_bar_counts_what_was_done(capfd):
    with Progress("Fit", 10, 100, 1) as report:
        report(7, {}, 1.0)
    assert "8/10" in capfd.readouterr().err


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_no_more_time_is_left_than_the_limit_allows(capfd, monkeypatch, has_tqdm):
    """A hundred epochs of ten seconds, but only a minute."""
    now = [0.0]
    monkeypatch.setattr("skcc.callbacks.time.monotonic", lambda: now[0])
    if not has_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with Progress("Fit", 100, 100, 1, end=60) as report:
        now[0] += 10
        report(0, {}, 10.0)
    assert ("at most=50s" if has_tqdm else "50 s left") in capfd.readouterr().err


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_a_resumed_run_has_the_time_left_that_its_own_epochs_tell(capfd, monkeypatch, has_tqdm):
    """Two epochs in twenty seconds, and ninety are left: fifteen minutes."""
    now = [0.0]
    monkeypatch.setattr("skcc.callbacks.time.monotonic", lambda: now[0])
    if has_tqdm:
        monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with Progress("Fit", 100, 100, 1) as report:
        for epoch in (8, 9):
            now[0] += 10
            report(epoch, {}, 10.0)
    err = capfd.readouterr().err
    assert ("15:00" if has_tqdm else "900 s left") in err


@pytest.mark.parametrize("verbose", [1, True])
def test_fit_shows_progress(capfd, shapes, verbose):
    ContrastiveClustering(1, max_epochs=2, random_state=0, device="cpu", verbose=verbose).fit(
        shapes[0]
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("ContrastiveClustering: backbone=conv4, augment=gray, max_epochs=2, ")
    assert "2/2" in err


@pytest.mark.skipif(HAS_CALLBACKS, reason="scikit-learn has callbacks")
def test_without_callbacks_the_error_says_what_has_them(shapes):
    assert quick().set_callbacks().fit(shapes[0]).n_iter_ == 3
    with pytest.raises(ImportError, match=r"since 1\.9; this is 1\.\d"):
        quick().set_callbacks(CSVLogger("logs"))


# -- scikit-learn's callbacks ---------------------------------------------------------------


class Recorder:
    """Keeps what it is told; stops training when `stop` says so."""

    def __init__(self, stop=lambda estimator: False):
        self.stop, self.told, self.fitted = stop, [], []

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.told.append(f"end {context.task_name}")
        self.X, self.y = X, y
        self.fitted.append(fitted_estimator)
        return context.task_name == "epoch" and self.stop(estimator)


@with_callbacks
def test_hooks_are_called_in_order_and_change_nothing(shapes):
    X, kinds = shapes
    alone = quick().fit(X)
    recorder = Recorder()
    watched = quick().set_callbacks(recorder).fit(X, kinds)
    epochs = ["begin epoch", "end epoch"] * 3
    assert recorder.told == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert recorder.X is X
    assert recorder.y is kinds
    assert watched.history_ == alone.history_
    for name, weight in alone.weights_.items():
        np.testing.assert_array_equal(watched.weights_[name], weight)
    assert not [name for name in vars(watched) if "callback" in name and name != "_skl_callbacks"]


@with_callbacks
@pytest.mark.parametrize("readout", ["head", "kmeans"])
def test_the_estimator_handed_to_callbacks_is_as_if_training_had_stopped(shapes, readout):
    X = shapes[0]
    recorder = Recorder()
    settings = {"schedule": "constant", "readout": readout}  # any other depends on max_epochs
    model = quick(**settings).set_callbacks(recorder).fit(X)
    for epochs, seen in zip([1, 2, 3], recorder.fitted[:3], strict=True):
        short = quick(**settings, max_epochs=epochs).fit(X)
        assert seen.n_iter_ == epochs
        assert seen.history_ == short.history_
        np.testing.assert_array_equal(seen.labels_, short.labels_)
        np.testing.assert_array_equal(seen.predict_proba(X), short.predict_proba(X))
        np.testing.assert_array_equal(seen.transform(X), short.transform(X))
    np.testing.assert_array_equal(recorder.fitted[3].predict(X), model.labels_)


@with_callbacks
def test_a_callback_stops_training(shapes):
    recorder = Recorder(stop=lambda estimator: len(estimator.history_) == 2)
    model = quick(max_epochs=50, schedule="constant").set_callbacks(recorder).fit(shapes[0])
    assert model.n_iter_ == len(model.history_) == 2
    expected = quick(max_epochs=2, schedule="constant").fit(shapes[0])
    np.testing.assert_array_equal(model.predict_proba(shapes[0]), expected.predict_proba(shapes[0]))


@with_callbacks
def test_a_stopped_run_is_in_the_checkpoint(shapes, tmp_path):
    stopped = quick(max_epochs=5, checkpoint_dir=tmp_path)
    stopped.set_callbacks(Recorder(lambda estimator: len(estimator.history_) == 2)).fit(shapes[0])
    recorder = Recorder()
    resumed = quick(max_epochs=5, checkpoint_dir=tmp_path).set_callbacks(recorder).fit(shapes[0])
    assert recorder.told.count("end epoch") == 3
    assert recorder.fitted[0].history_ == resumed.history_[:3]
    assert resumed.history_ == quick(max_epochs=5).fit(shapes[0]).history_


@with_callbacks
def test_a_callback_that_fails_leaves_the_estimator_as_it_was(shapes):
    X = shapes[0]
    model = quick().fit(X)
    before = model.predict_proba(X)

    def fail(estimator):
        raise RuntimeError("full disk")

    recorder = Recorder(fail)
    with pytest.raises(RuntimeError, match="full disk"):
        model.set_callbacks(recorder).set_params(n_clusters=2).fit(X)
    assert recorder.told[-1] == "teardown"
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert set(vars(model)) == {*vars(quick().fit(X)), "_skl_callbacks"}


@with_callbacks
def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match="FitCallback protocol"):
        quick().set_callbacks(print)


@with_callbacks
def test_callbacks_are_no_parameters_and_survive_clone_and_pickle(shapes, tmp_path):
    recorder = Recorder()
    model = quick().set_callbacks(recorder)
    assert "callbacks" not in str(model.get_params())
    clone(model).fit(shapes[0])
    assert recorder.told[-1] == "teardown"
    logged = quick().set_callbacks(CSVLogger(tmp_path / "logs")).fit(shapes[0])
    packed = pickle.loads(pickle.dumps(logged))
    np.testing.assert_array_equal(packed.predict(shapes[0]), logged.labels_)
    logged.save(tmp_path / "m")
    assert "_skl_callbacks" not in vars(ContrastiveClustering.load(tmp_path / "m"))


@with_callbacks
def test_progress_bar_and_scoring_monitor(shapes, capfd):
    from sklearn.callback import ProgressBar, ScoringMonitor

    X, kinds = shapes
    monitor = ScoringMonitor(scoring=["adjusted_rand_score", "v_measure_score"])
    model = quick().set_callbacks(ProgressBar(), monitor).fit(X, kinds)
    assert "ContrastiveClustering - fit" in capfd.readouterr().out
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == 3
    expected = adjusted_rand_score(kinds, model.labels_)
    assert rows[-1]["adjusted_rand_score"] == pytest.approx(expected)


@with_callbacks
@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.processes)])
def test_callbacks_in_a_search_over_a_pipeline(shapes, tmp_path, n_jobs, capfd):
    from sklearn.callback import ProgressBar, ScoringMonitor

    X, kinds = shapes
    monitor, logger = ScoringMonitor(scoring="adjusted_rand_score"), CSVLogger(tmp_path)
    model = quick(image_shape=(16, 16)).set_callbacks(monitor, logger)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model),
        {"contrastiveclustering__n_clusters": [2, 3]},
        cv=2, n_jobs=n_jobs, error_score="raise",
    ).set_callbacks(ProgressBar(max_propagation_depth=None))  # fmt: skip
    search.fit(X.reshape(120, -1), kinds)
    rows = monitor.get_logs().data
    assert sum(row["task_name"] == "epoch" for row in rows) == (2 * 2 + 1) * 3
    assert len(list(tmp_path.iterdir())) == 2 * 2 + 1
    shown = capfd.readouterr().out
    assert "GridSearchCV" in shown
    assert "ContrastiveClustering" in shown


@with_callbacks
def test_bars_reach_into_pipelines(shapes, capfd):
    from sklearn.callback import ProgressBar

    pipeline = make_pipeline(StandardScaler(), quick(image_shape=(16, 16)))
    pipeline.set_callbacks(ProgressBar()).fit(shapes[0].reshape(120, -1))
    assert "ContrastiveClustering - fit" in capfd.readouterr().out
    assert not hasattr(pipeline[-1], "_skl_callbacks")


# -- loggers --------------------------------------------------------------------------------


@with_callbacks
def test_csv_holds_the_terms_of_each_epoch(shapes, tmp_path):
    model = quick().set_callbacks(CSVLogger(tmp_path / "new" / "logs")).fit(shapes[0])
    (path,) = (tmp_path / "new" / "logs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-ContrastiveClustering-[0-9a-f]{6}\.csv", path.name)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    seconds = [float(row["seconds"]) for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    terms = [{name: float(row[name]) for name in model.history_[0]} for row in rows]
    assert terms == model.history_
    model.fit(shapes[0])
    assert len(list(path.parent.iterdir())) == 2, "each fit is a run of its own"


@with_callbacks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_terms_of_each_epoch(shapes, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = quick().set_callbacks(TensorBoardLogger(tmp_path)).fit(shapes[0])
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert set(events.Tags()["scalars"]) == {f"loss/{name}" for name in model.history_[0]}
    scalars = events.Scalars("loss/instance")
    assert [event.step for event in scalars] == [1, 2, 3]
    assert [event.value for event in scalars] == pytest.approx(
        [terms["instance"] for terms in model.history_], rel=1e-6
    )


@with_callbacks
def test_loggers_take_only_what_they_can_log(tmp_path):
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(TypeError, match="CSVLogger logs the training of skcc's estimators; got Lo"):
        LogisticRegression().set_callbacks(CSVLogger(tmp_path)).fit([[0.0], [1.0]], [0, 1])


@with_callbacks
def test_tensorboard_missing_is_said(shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        quick().set_callbacks(TensorBoardLogger(tmp_path)).fit(shapes[0])
