"""Every public error and warning of the package, and the function that issues warnings."""

import sys
import warnings


class ImageReadError(OSError, ValueError):
    """An image file is missing, or cannot be decoded."""


class ImageReadWarning(UserWarning):
    """Some images could not be read; they have no cluster."""


class WeightsNotFoundError(OSError):
    """Weights of a pre-trained network are not on this machine, and cannot be downloaded."""


class TrainingInterruptedWarning(UserWarning):
    """Ctrl-C ended training early. If a filter makes it an error, `fit` ends without a result."""


class DivergenceWarning(UserWarning):
    """A loss term or a weight was not finite; the epoch is repeated once from its beginning."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be read or written, comes from another torch, or follows SIGTERM."""


class LostRankError(RuntimeError):
    """Another process of the group ended or does not answer, so that this one cannot go on."""


class OtherRankError(RuntimeError):
    """A step that all processes take together failed in another process."""


_PASSED_OVER = {"skcc", "sklearn", "contextlib", "torch"}


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points at the user's line, however deep the call is.

    Parameters
    ----------
    message : str
        Text of the warning.

    category : type of Warning, default=UserWarning
        Its class.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_OVER:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
