"""Read what a user gives as X into one store of samples."""

from skcc.data.reading import Format, learn_format, read
from skcc.data.sources import Input, image_files, resolve
from skcc.data.stores import HostStore, SampleStore, SourceStore, Store
from skcc.exceptions import ImageReadError, ImageReadWarning

__all__ = [
    "Format",
    "HostStore",
    "ImageReadError",
    "ImageReadWarning",
    "Input",
    "SampleStore",
    "SourceStore",
    "Store",
    "image_files",
    "learn_format",
    "read",
    "resolve",
]
