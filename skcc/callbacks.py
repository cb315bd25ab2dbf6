"""Progress of training, for people.

A bar if tqdm is installed, otherwise a line every few seconds; on standard error.
"""

import sys
import time

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
        self._bar = None
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
        shown = {name: f"{value:.3f}" for name, value in terms.items()}
        shown["images/s"] = f"{self.n / max(seconds, 1e-9):.0f}"
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(epoch + 1 - self._bar.n)
            return
        now = time.monotonic()
        if now - self._shown >= _LINE_SECONDS or epoch in (0, self.epochs - 1):
            self._shown = now
            left = (now - self._started) / (epoch + 1) * (self.epochs - epoch - 1)
            words = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(
                f"{self.title}  epoch {epoch + 1}/{self.epochs}  {words}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
