"""Models and images that a user names on the command line."""

from pathlib import Path

from sklearn.base import BaseEstimator

from skcc import data, pipelines
from skcc.data.folders import is_pattern


def load(path, device: str | None = None, weights_file: str | None = None) -> BaseEstimator:
    """Load a fitted estimator of any class, or a pipeline of an embedder and one."""
    return pipelines.load(path, device=device or "auto", weights=weights_file)


def set_parameters(estimator: BaseEstimator, parameters: dict[str, object]) -> BaseEstimator:
    """Set parameters of an estimator, or of both steps of a pipeline as far as they have them."""
    for step in filter(None, pipelines.parts(estimator)):
        known = step.get_params(deep=False)
        step.set_params(**{name: v for name, v in parameters.items() if name in known})
    return estimator


def find_images(path, *, exclude: Path | None = None) -> tuple[list[Path], list[str]]:
    """Find the image files below a folder, or those that match a pattern."""
    root = Path(path)
    if root.is_file():
        if root.suffix in (".npy", ".npz"):
            raise ValueError(
                f"{path} holds an array; the command line reads image files. "
                f"Python reads it, as fit({str(path)!r}) of an estimator"
            )
        return [root], [root.name]
    if exclude is None and is_pattern(str(path)) and not root.exists():
        files = [Path(file) for file in data.resolve(str(path)).value]
        return files, [str(file) for file in files]
    files = data.image_files(root)
    if exclude is not None:
        excluded = exclude.resolve()
        if root.resolve().is_relative_to(excluded):
            raise ValueError(f"the images are in {exclude} itself; choose another --out")
        if excluded.is_relative_to(root.resolve()):
            excluded = root / excluded.relative_to(root.resolve())
            files = [file for file in files if not file.is_relative_to(excluded)]
    return files, [str(file.relative_to(root)) for file in files]
