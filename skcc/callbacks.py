"""Progress of training: on the terminal, for scikit-learn's callbacks, and in log files.

Only this file uses scikit-learn's callbacks, which are experimental. They need scikit-learn 1.9;
with older releases everything except `set_callbacks` works.
"""

import contextlib
import csv
import math
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
        """Replacement for the class of the same name in scikit-learn 1.9."""

        def set_callbacks(self, *callbacks):
            """Raise an error if any callbacks are given.

            Parameters
            ----------
            *callbacks : callback instances
                Not supported before scikit-learn 1.9.

            Returns
            -------
            self : object
                The estimator.

            Raises
            ------
            ImportError
                If any callbacks are given.
            """
            if callbacks:
                raise ImportError(
                    "set_callbacks needs sklearn.callback, which scikit-learn has since 1.9; "
                    f"this is {sklearn.__version__}. verbose=1 shows progress without it."
                )
            return self

        def _init_callback_context(self, **task):
            return _NullContext()

    class _NullContext:
        """A callback context without callbacks."""

        def subcontext(self, **task):
            return self

        def call_on_fit_task_begin(self, **arguments):
            return self

        def call_on_fit_task_end(self, **arguments):
            return False

    def with_callbacks(method: Callable) -> Callable:
        """Return a method unchanged.

        Parameters
        ----------
        method : callable
            A method that fits.

        Returns
        -------
        method : callable
            The same method.
        """
        return method


# A short bar, so that the terms of the loss are not cut off.
_BAR = "{desc} {n_fmt}/{total_fmt} |{bar:10}| {elapsed}<{remaining}{postfix}"
_LINE_SECONDS = 5.0  # between two lines without tqdm


def announce(title: str, settings: dict[str, object], verbose: int) -> None:
    """Print the resolved settings to standard error.

    Parameters
    ----------
    title : str
        Name of the estimator.

    settings : dict of str to object
        As `skcc.training.settings.resolve_settings` returns them.

    verbose : int
        0 prints nothing.
    """
    if _is_shown(verbose):
        text = ", ".join(f"{name}={value}" for name, value in settings.items())
        print(f"{title}: {text}", file=sys.stderr, flush=True)


def _is_shown(verbose):
    """Whether there is a standard error to print to; programs without a console have none."""
    return bool(verbose) and not getattr(sys.stderr, "closed", True)


class Progress:
    """Progress of training on standard error: a bar of tqdm, or lines where it is not installed.

    Parameters
    ----------
    title : str
        Name of the estimator.

    epochs : int
        Number of epochs.

    n : int
        Samples per epoch.

    verbose : int
        0 shows nothing.

    end : float, default=None
        Time of the monotonic clock at which training ends in any case; None if it does not.
    """

    def __init__(self, title: str, epochs: int, n: int, verbose: int, end: float | None = None):
        self.title, self.epochs, self.n = title, epochs, n
        self.end = math.inf if end is None else end
        self._bar = self._first_epoch = None
        self._last_line = self._started = time.monotonic()
        self._verbose = _is_shown(verbose)
        if self._verbose:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=epochs, desc=title, dynamic_ncols=True, bar_format=_BAR)

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
            Mean loss terms.

        seconds : float
            Duration of the epoch.
        """
        if not self._verbose:
            return
        if self._first_epoch is None:  # a resumed run spent no time on earlier epochs
            self._first_epoch = epoch
            if self._bar is not None:
                self._bar.initial = self._bar.n = epoch
        values = {name: f"{value:.3f}" for name, value in terms.items()}
        values["images/s"] = f"{self.n / max(seconds, 1e-9):.0f}"
        if self._bar is not None:
            if self.end < math.inf:
                values["at most"] = f"{max(0, self.end - time.monotonic()):.0f}s"
            self._bar.set_postfix(values, refresh=False)
            self._bar.update(epoch + 1 - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_SECONDS or epoch in (0, self.epochs - 1):
            self._last_line = now
            self._print_line(epoch, values, now)

    def _print_line(self, epoch, values, now):
        seconds_per_epoch = (now - self._started) / (epoch + 1 - self._first_epoch)
        remaining = min(seconds_per_epoch * (self.epochs - epoch - 1), max(0, self.end - now))
        text = "  ".join(f"{name} {value}" for name, value in values.items())
        print(
            f"{self.title}  epoch {epoch + 1}/{self.epochs}  {text}  {remaining:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


class ImageProgress:
    """Progress over images on standard error: a bar of tqdm, or lines where it is not installed.

    Parameters
    ----------
    title : str
        Name of the estimator.

    n : int
        Number of images.

    verbose : int
        0 shows nothing.
    """

    def __init__(self, title: str, n: int, verbose: int):
        self._title, self._n, self._done, self._bar = title, n, 0, None
        self._last_line = time.monotonic()
        self._verbose = _is_shown(verbose) and n > 0
        if self._verbose:
            with contextlib.suppress(ImportError):
                from tqdm.auto import tqdm

                self._bar = tqdm(total=n, desc=title, unit="image", dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, n: int) -> None:
        """Show that further images are done.

        Parameters
        ----------
        n : int
            How many.
        """
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
            return
        now = time.monotonic()
        if self._verbose and (now - self._last_line >= _LINE_SECONDS or self._done == self._n):
            self._last_line = now
            line = f"{self._title}  {self._done:,} of {self._n:,} images"
            print(line, file=sys.stderr, flush=True)


class FitTasks:
    """Invokes scikit-learn's callbacks: a task for the fit, with a subtask for each epoch.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        The estimator that is fitted.

    X, y : object, object
        The arguments of `fit`.

    epochs : int or None
        Number of epochs of all phases; None if it is not known.
    """

    def __init__(self, estimator, X, y, epochs: int | None):
        self._arguments = {"estimator": estimator, "X": X, "y": y}
        self._fit = estimator._init_callback_context(max_subtasks=epochs)
        self._fit.call_on_fit_task_begin(**self._arguments)

    def begin_epoch(self) -> None:
        """Invoke the callbacks at the beginning of an epoch."""
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._arguments)

    def end_epoch(self, fitted: Callable[[], dict[str, object]]) -> bool:
        """Invoke the callbacks at the end of an epoch.

        Parameters
        ----------
        fitted : callable
            Returns the attributes of the estimator in the state after this epoch. It is called
            only if a callback needs them.

        Returns
        -------
        stop : bool
            Whether a callback requested the end of training.
        """
        return self._epoch.call_on_fit_task_end(**self._arguments, reconstruction_attributes=fitted)

    def end(self, fitted: Callable[[], dict[str, object]]) -> None:
        """Invoke the callbacks at the end of the fit.

        Parameters
        ----------
        fitted : callable
            Returns the attributes of the fitted estimator.
        """
        self._fit.call_on_fit_task_end(**self._arguments, reconstruction_attributes=fitted)


class _Logger:
    """Base of the loggers; it opens a file or run in `setup` and closes it in `teardown`."""

    def __init__(self, folder):
        self.folder = folder
        self._open = {}

    def __getstate__(self):
        # Open files cannot be pickled.
        return {"folder": self.folder, "_open": {}}

    def setup(self, estimator, context):
        """Open the log of a fit.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            Context of the fit.

        Raises
        ------
        TypeError
            If the estimator is not one of skcc.
        """
        if not isinstance(estimator, CallbackSupportMixin) or not hasattr(estimator, "_phases"):
            raise TypeError(
                f"{type(self).__name__} logs the training of skcc's estimators; got "
                f"{type(estimator).__name__}"
            )
        if distributed.is_rank_zero():
            self._open[_key(context)] = self._start(Path(self.folder) / _run_name(context))

    def teardown(self, estimator, context):
        """Close the log of a fit.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that was fitted.

        context : sklearn.callback.CallbackContext
            Context of the fit.
        """
        run = self._open.pop(_key(context), None)
        if run is not None:
            run.close()

    def on_fit_task_begin(self, estimator, context):
        """Do nothing at the beginning of a task; required by the protocol.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            Context of the task.
        """

    def on_fit_task_end(self, estimator, context):
        """Write the loss terms of an epoch.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            Context of the task; tasks other than epochs are ignored.
        """
        if context.task_name != "epoch" or not distributed.is_rank_zero():
            return
        seconds = (datetime.now(UTC) - context.parent.init_time).total_seconds()
        run = self._open[_key(context.parent)]
        self._write(run, len(estimator.history_), seconds, estimator.history_[-1])

    def _start(self, path):
        """Open the log at a path without suffix and return its handle."""
        raise NotImplementedError

    def _write(self, run, epoch, seconds, terms):
        """Write the loss terms of an epoch, counted from 1."""
        raise NotImplementedError


def _ancestors(context):
    """The contexts from the root to this one, such as those of a search, a pipeline and a fit."""
    return [] if context is None else [*_ancestors(context.parent), context]


def _key(context):
    """A hashable identifier of a context."""
    return context.root_uuid, *(task.task_id for task in _ancestors(context))


def _run_name(context):
    """Time, estimator, and the position of the fit in a search or pipeline."""
    root, *descendants = _ancestors(context)
    started = root.init_time.strftime("%Y%m%d-%H%M%S")
    position = [str(task.task_id) for task in descendants]
    return "-".join([started, context.estimator_name, root.root_uuid.hex[:6], *position])


class CSVLogger(_Logger):
    """Callback for `set_callbacks` that writes the loss terms to CSV files, one per fit.

    Each epoch is a row with the epoch, counted from 1, the seconds since the beginning of the fit,
    and the mean of each loss term.

    Parameters
    ----------
    folder : str or Path
        Folder of the files. Their names hold the time, the estimator and, within a search, the
        position of the fit.

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
    """Callback for `set_callbacks` that logs the loss terms to TensorBoard, one run per fit.

    It needs the package tensorboard; ``tensorboard --logdir folder`` shows the curves.

    Parameters
    ----------
    folder : str or Path
        Folder of the runs. Their names hold the time, the estimator and, within a search, the
        position of the fit.

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
