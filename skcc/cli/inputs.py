"""Models and images that a user names on the command line."""

from pathlib import Path

import skcc
from skcc import data, persistence


def load(path, device: str | None = None):
    """Load a fitted estimator of any class."""
    header, _ = persistence.read(path, {})
    name = header.get("estimator")
    if name not in skcc.__all__:
        raise ValueError(f"{path} holds a {name}; this skcc knows {', '.join(skcc.__all__)}")
    return getattr(skcc, name).load(path, device=device or "auto")


def find_images(path, *, exclude: Path | None = None) -> tuple[list[Path], list[str]]:
    """Find the image files below a folder."""
    root = Path(path)
    if root.is_file():
        return [root], [root.name]
    files = data.image_files(root)
    if exclude is not None:
        excluded = exclude.resolve()
        if root.resolve().is_relative_to(excluded):
            raise ValueError(f"the images are in {exclude} itself; choose another --out")
        if excluded.is_relative_to(root.resolve()):
            excluded = root / excluded.relative_to(root.resolve())
            files = [file for file in files if not file.is_relative_to(excluded)]
    return files, [str(file.relative_to(root)) for file in files]
