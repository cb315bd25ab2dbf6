"""Anything a user has, made into one store of samples."""

from skcc.data.reading import Format, holds_sources, is_table, read
from skcc.data.sources import image_files, resolve
from skcc.data.stores import HostStore, SourceStore, Store
from skcc.exceptions import ImageReadError, ImageReadWarning

__all__ = [
    "Format",
    "HostStore",
    "ImageReadError",
    "ImageReadWarning",
    "SourceStore",
    "Store",
    "holds_sources",
    "image_files",
    "is_table",
    "read",
    "resolve",
]
