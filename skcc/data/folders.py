"""Find the image files of folders and patterns, and tell what was left out."""

import glob
import os
import stat
from collections import Counter
from pathlib import Path

from skcc import distributed
from skcc.data import decoding, plugins
from skcc.data.items import join_some, path_hint
from skcc.exceptions import ImageReadError, ImageReadWarning, warn

_WILDCARDS = "*?["


class Search:
    """Image files that were found, and what was passed over on the way."""

    def __init__(self):
        self._known = decoding.suffixes()
        self._passed_over = Counter()  # number of files by suffix
        self._linked: list[str] = []
        self._n_folders = 0

    def folder(self, root: str) -> list[str]:
        """Return the image files below a folder; links to folders are not followed."""
        if not os.path.isdir(root):
            raise ImageReadError(f"{root} is not a folder{path_hint(root)}")
        paths, unlisted = [], []
        for folder, subfolders, names in os.walk(root, onerror=unlisted.append):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            links = [os.path.join(folder, name) for name in subfolders]
            self._linked += [p for p in links if os.path.islink(p) and not _is_below(p, root)]
            paths += [os.path.join(folder, name) for name in names if not name.startswith(".")]
        if any(error.filename == root for error in unlisted):
            raise ImageReadError(f"{root} cannot be listed: {unlisted[0].strerror}")
        # A folder that cannot be listed counts as an image that cannot be read.
        files = self._select(paths) + [error.filename for error in unlisted]
        if not files:
            raise ValueError(f"{root} holds no image files: {self._contents()}")
        return sorted(files, key=_by_parts)

    def pattern(self, pattern: str) -> list[str]:
        """Return the image files that match a pattern."""
        files = self._select(glob.glob(pattern, recursive=True)) + _unlistable_folders(pattern)
        if not files:
            raise ImageReadError(f"no image files match {pattern}: {self._contents()}")
        return sorted(files, key=_by_parts)

    def warn(self, name: str) -> None:
        """Warn once about the images that were passed over."""
        left_out = [text for suffix, text in self._counts() if plugins.remedy(suffix)]
        if self._linked:
            left_out.append(self._describe_links())
        if left_out and distributed.is_rank_zero():
            warn(f"left out of {name}: {'; '.join(left_out)}", ImageReadWarning)

    def _select(self, paths):
        return [path for path in paths if self._is_image(path)]

    def _is_image(self, path):
        """Check whether a path is an image, or may be one but cannot be looked at."""
        suffix = os.path.splitext(path)[1].lower()
        if plugins.register(suffix):
            self._known = decoding.suffixes()
        try:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode):  # opening a pipe could block forever
                self._n_folders += stat.S_ISDIR(mode)
                return False
            is_image = suffix in self._known if suffix else decoding.is_image(path)
        except OSError:  # such as a link to a file that is not there
            is_image = not suffix or suffix in self._known or bool(plugins.remedy(suffix))
        if not is_image:
            self._passed_over[suffix or _content_suffix(path)] += 1
        return is_image

    def _counts(self):
        """Iterate over the suffixes that were passed over, with their number and a remedy."""
        for suffix, n in sorted(self._passed_over.items()):
            remedy = plugins.remedy(suffix)
            text = f"{n} {suffix or 'without a suffix'}"
            yield suffix, f"{text}: {remedy}" if remedy else text

    def _describe_links(self):
        n = len(self._linked)
        what = "1 linked folder" if n == 1 else f"{n} linked folders"
        return f"{what}, not followed: {join_some(sorted(self._linked))}"

    def _contents(self):
        """Describe what was found instead of images."""
        parts = [text for _, text in self._counts()]
        if self._linked:
            parts.append(self._describe_links())
        if self._n_folders:
            parts.append(f"{self._n_folders} folders (a pattern for what is in them ends in /*)")
        return f"it has {'; '.join(parts)}" if parts else "nothing is there"


def is_pattern(path: str) -> bool:
    """Check whether a path has wildcards."""
    return any(wildcard in path for wildcard in _WILDCARDS)


def _unlistable_folders(pattern):
    """Return the folders that may hold matches of a pattern, but cannot be listed."""
    folders, head = set(), pattern
    while head != os.path.dirname(head):
        head, tail = os.path.split(head)
        if head and is_pattern(tail):
            below = os.path.join(head, "**" if tail == "**" else "", "")
            folders.update(glob.glob(below, recursive=True))
    return [os.path.dirname(folder) for folder in folders if not _can_be_listed(folder)]


def _can_be_listed(folder):
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def _is_below(link, root):
    """Check whether a link leads to a folder that the search of the root meets anyway."""
    target, root = Path(link).resolve(), Path(root).resolve()
    if not target.is_relative_to(root):
        return False
    return not any(part.startswith(".") for part in target.relative_to(root).parts)


def _content_suffix(path):
    try:
        return plugins.suffix_of(path)
    except OSError:
        return ""


def _by_parts(path):
    return path.replace(os.sep, "\0")
