"""Data sets with known classes, for benchmarks and examples.

Each function returns a Bunch with ``images`` (something that `fit` takes), ``target`` (class
of each image, or None) and ``target_names``.
"""

from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import sklearn.datasets
from sklearn.utils import Bunch

from skcc.data import image_files

# Fine classes of each of the 20 super-classes of CIFAR-100, in the order of their names.
_SUPERCLASSES = (
    ("aquatic_mammals", (4, 30, 55, 72, 95)),
    ("fish", (1, 32, 67, 73, 91)),
    ("flowers", (54, 62, 70, 82, 92)),
    ("food_containers", (9, 10, 16, 28, 61)),
    ("fruit_and_vegetables", (0, 51, 53, 57, 83)),
    ("household_electrical_devices", (22, 39, 40, 86, 87)),
    ("household_furniture", (5, 20, 25, 84, 94)),
    ("insects", (6, 7, 14, 18, 24)),
    ("large_carnivores", (3, 42, 43, 88, 97)),
    ("large_man-made_outdoor_things", (12, 17, 37, 68, 76)),
    ("large_natural_outdoor_scenes", (23, 33, 49, 60, 71)),
    ("large_omnivores_and_herbivores", (15, 19, 21, 31, 38)),
    ("medium_mammals", (34, 63, 64, 66, 75)),
    ("non-insect_invertebrates", (26, 45, 77, 79, 99)),
    ("people", (2, 11, 35, 46, 98)),
    ("reptiles", (27, 29, 44, 78, 93)),
    ("small_mammals", (36, 50, 65, 74, 80)),
    ("trees", (47, 52, 56, 59, 96)),
    ("vehicles_1", (8, 13, 48, 58, 90)),
    ("vehicles_2", (41, 69, 81, 85, 89)),
)


def load_digits() -> Bunch:
    """Scans of handwritten digits, bundled with scikit-learn: 1,797 of 8 x 8 pixels, gray.

    Returns
    -------
    digits : Bunch
        ``images`` of shape (1797, 8, 8) and dtype uint8; ten classes.
    """
    digits = sklearn.datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return Bunch(images=images, target=digits.target, target_names=names)


def load_folder(root) -> Bunch:
    """Image files below a folder; the class is the name of the folder that a file is in.

    Parameters
    ----------
    root : str or Path
        Searched recursively.

    Returns
    -------
    files : Bunch
        ``images`` is a list of paths. ``target`` is None if no file is in a sub-folder.

    Raises
    ------
    ValueError
        If there is no such folder, or no image in it.
    """
    root = Path(root)
    files = image_files(root)
    if all(file.parent == root for file in files):
        return Bunch(images=files, target=None, target_names=None)
    names, target = np.unique([file.parent.name for file in files], return_inverse=True)
    return Bunch(images=files, target=target, target_names=names.tolist())


def fetch_cifar10(root, *, download: bool = False) -> Bunch:
    """CIFAR-10, train and test together as in the papers: 60,000 of 32 x 32 pixels, colour.

    Parameters
    ----------
    root : str or Path
        Folder that torchvision keeps data sets in.

    download : bool, default=False
        Whether to download the data set if it is not there.

    Returns
    -------
    cifar10 : Bunch
        ``images`` of shape (60000, 32, 32, 3) and dtype uint8; ten classes.

    Raises
    ------
    RuntimeError
        If it is not there and may not be downloaded.
    """
    from torchvision.datasets import CIFAR10

    parts = [CIFAR10(root, train=train, download=download) for train in (True, False)]
    return Bunch(
        images=np.concatenate([part.data for part in parts]),
        target=np.concatenate([part.targets for part in parts]),
        target_names=list(parts[0].classes),
    )


def fetch_cifar100(root, *, download: bool = False) -> Bunch:
    """CIFAR-100 with its 20 super-classes, train and test together as in the papers.

    Parameters
    ----------
    root : str or Path
        Folder that torchvision keeps data sets in.

    download : bool, default=False
        Whether to download the data set if it is not there.

    Returns
    -------
    cifar100 : Bunch
        ``images`` of shape (60000, 32, 32, 3) and dtype uint8; 20 classes.

    Raises
    ------
    RuntimeError
        If it is not there and may not be downloaded.
    """
    from torchvision.datasets import CIFAR100

    parts = [CIFAR100(root, train=train, download=download) for train in (True, False)]
    coarse = np.empty(100, dtype=np.int64)
    for number, (_, fine) in enumerate(_SUPERCLASSES):
        coarse[list(fine)] = number
    return Bunch(
        images=np.concatenate([part.data for part in parts]),
        target=coarse[np.concatenate([part.targets for part in parts])],
        target_names=[name for name, _ in _SUPERCLASSES],
    )


def fetch_stl10(root, *, download: bool = False) -> Bunch:
    """STL-10, the 13,000 labelled images of train and test together, 96 x 96 pixels, colour.

    The papers train their instance head on the 100,000 unlabelled images as well; those are
    not part of this.

    Parameters
    ----------
    root : str or Path
        Folder that torchvision keeps data sets in.

    download : bool, default=False
        Whether to download the data set if it is not there.

    Returns
    -------
    stl10 : Bunch
        ``images`` of shape (13000, 3, 96, 96) and dtype uint8; ten classes.

    Raises
    ------
    RuntimeError
        If it is not there and may not be downloaded.
    """
    from torchvision.datasets import STL10

    parts = [STL10(root, split=split, download=download) for split in ("train", "test")]
    return Bunch(
        images=np.concatenate([part.data for part in parts]),
        target=np.concatenate([part.labels for part in parts]).astype(np.int64),
        target_names=list(parts[0].classes),
    )


def load_arrays(root) -> Bunch:
    """Images and classes in one file of NumPy.

    Parameters
    ----------
    root : str or Path
        A .npz file that holds ``images`` and, if classes are known, ``target``.

    Returns
    -------
    arrays : Bunch
        ``images`` as stored; ``target`` of shape (n_samples,) or None.

    Raises
    ------
    ValueError
        If it is no such file, or the two are not of one length.
    """
    try:
        with open(root, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, AttributeError, BadZipFile) as error:
        raise ValueError(f"{root} is not a .npz file of arrays: {error}") from error
    if "images" not in stored:
        raise ValueError(f"{root} must hold 'images'; it holds {', '.join(stored) or 'nothing'}")
    images, target = stored["images"], stored.get("target")
    if target is None:
        return Bunch(images=images, target=None, target_names=None)
    if target.shape != (len(images),):
        raise ValueError(
            f"{root}: target must have shape ({len(images)},), as there are so many images; got "
            f"{target.shape}"
        )
    names, target = np.unique(target, return_inverse=True)
    return Bunch(images=images, target=target, target_names=names.tolist())


# By the name on the command line: a function of the folder and of whether to download.
DATASETS: dict[str, Callable[..., Bunch]] = {
    "arrays": lambda root, download=False: load_arrays(root),
    "cifar10": fetch_cifar10,
    "cifar100": fetch_cifar100,
    "digits": lambda root, download=False: load_digits(),
    "folder": lambda root, download=False: load_folder(root),
    "stl10": fetch_stl10,
}
