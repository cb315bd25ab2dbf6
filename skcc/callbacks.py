"""Progress of training: for people, for scikit-learn's callbacks, and in files.

scikit-learn has callbacks since 1.9; they are experimental there, and this is the only file that
knows of them. With older releases everything but `set_callbacks` works.
"""

import csv
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import sklearn

from skcc import distributed

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:
        """What stands in for scikit-learn's class of this name before 1.9."""

        def set_callbacks(self, *callbacks):
            """Refuse callbacks.

            Parameters
            ----------
            *callbacks : callback instances
                None can be taken.

            Returns
            -------
            self : object
                The estimator, if there are no callbacks.

            Raises
            ------
            ImportError
                If there are; says which scikit-learn has them.
            """
            if callbacks:
                raise ImportError(
                    "set_callbacks needs sklearn.callback, which scikit-learn has since 1.9; "
                    f"this is {sklearn.__version__}. verbose=1 shows progress without it."
                )
            return self

        def _init_callback_context(self, **task):
            return _NoTask()

    class _NoTask:
        """A task that nobody is told of."""

        def subcontext(self, **task):
            return self

        def call_on_fit_task_begin(self, **told):
            return self

        def call_on_fit_task_end(self, **told):
            return False

    def with_callbacks(method: Callable) -> Callable:
        """Leave a method as it is.

        Parameters
        ----------
        method : callable
            One that fits.

        Returns
        -------
        method : callable
            The same.
        """
        return method


_LINE_SECONDS = 5.0


def announce(title: str, settings: dict[str, object], verbose: int) -> None:
    """Show what every "auto" came to.

    Parameters
    ----------
    title : str
        Name of what is trained.

    settings : dict of str to object
        What was chosen.

    verbose : int
        0 shows nothing.
    """
    if verbose:
        words = ", ".join(f"{name}={value}" for name, value in settings.items())
        print(f"{title}: {words}", file=sys.stderr, flush=True)


class Progress:
    """What ``verbose=1`` shows.

    Parameters
    ----------
    title : str
        Name of what is trained.

    epochs : int
        Passes over the samples.

    n : int
        Samples per pass.

    verbose : int
        0 shows nothing.
    """

    def __init__(self, title: str, epochs: int, n: int, verbose: int):
        self.title, self.epochs, self.n = title, epochs, n
        self._bar = self._first = None
        self._shown = self._started = time.monotonic()
        self._verbose = verbose
        if verbose:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=epochs, desc=title, unit="epoch", dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, epoch: int, terms: dict[str, float], seconds: float) -> None:
        """Show the end of an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 0.

        terms : dict of str to float
            Mean terms of the loss.

        seconds : float
            What the epoch took.
        """
        if not self._verbose:
            return
        if self._first is None:  # a resumed run took no time for what it did not do
            self._first = epoch
            if self._bar is not None:
                self._bar.initial = self._bar.n = epoch
        shown = {name: f"{value:.3f}" for name, value in terms.items()}
        shown["images/s"] = f"{self.n / max(seconds, 1e-9):.0f}"
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(epoch + 1 - self._bar.n)
            return
        now = time.monotonic()
        if now - self._shown >= _LINE_SECONDS or epoch in (0, self.epochs - 1):
            self._shown = now
            pace = (now - self._started) / (epoch + 1 - self._first)
            left = pace * (self.epochs - epoch - 1)
            words = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(
                f"{self.title}  epoch {epoch + 1}/{self.epochs}  {words}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


class FitTasks:
    """The tasks of one fit, as scikit-learn's callbacks see them: the fit, and below it its epochs.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Being fitted.

    X, y : object, object
        What `fit` was given.

    epochs : int
        How many are planned.
    """

    def __init__(self, estimator, X, y, epochs: int):
        self._told = {"estimator": estimator, "X": X, "y": y}
        self._fit = estimator._init_callback_context(max_subtasks=epochs)
        self._fit.call_on_fit_task_begin(**self._told)

    def begin_epoch(self) -> None:
        """Tell that an epoch begins."""
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._told)

    def end_epoch(self, fitted: Callable[[], dict[str, object]]) -> bool:
        """Tell that the epoch has ended.

        Parameters
        ----------
        fitted : callable
            Gives the attributes of an estimator fitted until now; called if somebody asks.

        Returns
        -------
        stop : bool
            Whether a callback wants training to end.
        """
        return self._epoch.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted)

    def end(self, fitted: Callable[[], dict[str, object]]) -> None:
        """Tell that the fit has ended.

        Parameters
        ----------
        fitted : callable
            Gives the attributes of the fitted estimator.
        """
        self._fit.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted)


class _Logger:
    """Writes the terms of the loss after each epoch; a run of its own for each fit.

    Handles are open from `setup` to `teardown`, and stay behind when a logger is pickled.
    """

    def __init__(self, folder):
        self.folder = folder
        self._open = {}

    def __getstate__(self):
        return {"folder": self.folder, "_open": {}}

    def setup(self, estimator, context):
        """Begin a run.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Being fitted.

        context : sklearn.callback.CallbackContext
            The task of its fit.

        Raises
        ------
        TypeError
            If the estimator is none of skcc's.
        """
        if not isinstance(estimator, CallbackSupportMixin) or not hasattr(estimator, "_phases"):
            raise TypeError(
                f"{type(self).__name__} logs the training of skcc's estimators; got "
                f"{type(estimator).__name__}"
            )
        if distributed.is_rank_zero():
            self._open[_key(context)] = self._start(Path(self.folder) / _run_name(context))

    def teardown(self, estimator, context):
        """End the run.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Was fitted.

        context : sklearn.callback.CallbackContext
            The task of its fit.
        """
        run = self._open.pop(_key(context), None)
        if run is not None:
            run.close()

    def on_fit_task_begin(self, estimator, context):
        """Nothing is logged at the beginning of a task.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Being fitted.

        context : sklearn.callback.CallbackContext
            The task.
        """

    def on_fit_task_end(self, estimator, context):
        """Log the terms of an epoch.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Being fitted.

        context : sklearn.callback.CallbackContext
            The task; anything but an epoch is passed over.
        """
        if context.task_name != "epoch" or not distributed.is_rank_zero():
            return
        seconds = (datetime.now(UTC) - context.parent.init_time).total_seconds()
        run = self._open[_key(context.parent)]
        self._write(run, len(estimator.history_), seconds, estimator.history_[-1])

    def _start(self, path):
        raise NotImplementedError

    def _write(self, run, epoch, seconds, terms):
        raise NotImplementedError


def _path(context):
    return [] if context is None else [*_path(context.parent), context]


def _key(context):
    return context.root_uuid, *(task.task_id for task in _path(context))


def _run_name(context):
    """When, of which estimator, and where in the fit of a search or pipeline."""
    root, *below = _path(context)
    when = root.init_time.strftime("%Y%m%d-%H%M%S")
    where = [str(task.task_id) for task in below]
    return "-".join([when, context.estimator_name, root.root_uuid.hex[:6], *where])


class CSVLogger(_Logger):
    """A callback that writes the terms of the loss to CSV files, one per fit.

    Give it to `set_callbacks`. A row per epoch holds the epoch, counted from 1, the seconds since
    the fit began, and each term.

    Parameters
    ----------
    folder : str or Path
        Where files are made, named by time, estimator and place in the fit of a search.

    See Also
    --------
    TensorBoardLogger : The same for TensorBoard.
    """

    def _start(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path.parent / f"{path.name}.csv", "w", newline="")

    def _write(self, run, epoch, seconds, terms):
        row = {"epoch": epoch, "seconds": f"{seconds:.3f}", **terms}
        writer = csv.DictWriter(run, row)
        if run.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        run.flush()


class TensorBoardLogger(_Logger):
    """A callback that writes the terms of the loss for TensorBoard, one run per fit.

    Give it to `set_callbacks`. Needs the package tensorboard; ``tensorboard --logdir folder``
    then shows the curves.

    Parameters
    ----------
    folder : str or Path
        Where runs are made, named by time, estimator and place in the fit of a search.

    See Also
    --------
    CSVLogger : The same as plain tables.
    """

    def _start(self, path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardLogger needs the package tensorboard: pip install tensorboard"
            ) from error
        return SummaryWriter(str(path))

    def _write(self, run, epoch, seconds, terms):
        for name, value in terms.items():
            run.add_scalar(f"loss/{name}", value, epoch)
        run.flush()
