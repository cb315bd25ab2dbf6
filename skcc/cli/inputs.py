"""Models and images that a user names on the command line."""

from pathlib import Path

import skcc
from skcc import data, persistence


def load(path, device: str | None = None):
    """Load a fitted estimator of any class.

    Parameters
    ----------
    path : str or Path
        File that the estimator's `save` wrote.

    device : str or None, default=None
        Device that it computes on; None stands for "auto".

    Returns
    -------
    estimator : BaseDeepClusterer
        The fitted estimator.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    ValueError
        If the file holds no estimator of this version of skcc.
    """
    header, _ = persistence.read(path, {})
    name = header.get("estimator")
    if name not in skcc.__all__:
        raise ValueError(f"{path} holds a {name}; this skcc knows {', '.join(skcc.__all__)}")
    return getattr(skcc, name).load(path, device=device or "auto")


def find_images(path, *, exclude: Path | None = None) -> tuple[list[Path], list[str]]:
    """Find the image files below a folder.

    Parameters
    ----------
    path : str or Path
        A folder, searched recursively, or one image file.

    exclude : Path or None, default=None
        Folder of results; images in it are left out.

    Returns
    -------
    files : list of Path
        Image files.

    names : list of str
        Path of each file relative to `path`.

    Raises
    ------
    ValueError
        If there is no such folder, no image in it, or it is inside `exclude`.
    """
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
