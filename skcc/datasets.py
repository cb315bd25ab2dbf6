"""Data sets with known classes for benchmarks and examples, with the splits of the papers.

Each function returns a Bunch with ``images`` (an argument of `fit`), ``target`` (class of each
image, or None) and ``target_names``. STL-10 has ``unlabeled`` as well.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn.datasets
from sklearn.utils import Bunch

from skcc.data import image_files

# The 20 super-classes of CIFAR-100 and their fine classes, ordered by name.
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

# Subsets of ImageNet by synset, from the lists of the authors of Contrastive Clustering.
_IMAGENET10 = (
    *("n02056570", "n02085936", "n02128757", "n02690373", "n02692877"),
    *("n03095699", "n04254680", "n04285008", "n04467665", "n07747607"),
)
_IMAGENET_DOGS = (
    *("n02085936", "n02086646", "n02088238", "n02091467", "n02097130"),
    *("n02099601", "n02101388", "n02101556", "n02102177", "n02105056"),
    *("n02105412", "n02105855", "n02107142", "n02110958", "n02112137"),
)
_SYNSET = "n" + "[0-9]" * 8


def load_digits() -> Bunch:
    """Load the handwritten digits of scikit-learn: 1,797 gray images of 8 x 8 pixels.

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
    """List the image files in a folder; the class of a file is the name of its parent folder.

    Parameters
    ----------
    root : str or Path
        Folder, searched recursively.

    Returns
    -------
    files : Bunch
        ``images`` is a list of paths. ``target`` is None if no file is in a subfolder.

    Raises
    ------
    ValueError
        If the folder does not exist or has no image.
    """
    root = Path(root)
    files = image_files(root)
    if all(file.parent == root for file in files):
        return Bunch(images=files, target=None, target_names=None)
    names, target = np.unique([file.parent.name for file in files], return_inverse=True)
    return Bunch(images=files, target=target, target_names=names.tolist())


def fetch_cifar10(root, *, download: bool = False) -> Bunch:
    """Load CIFAR-10, train and test set together: 60,000 colour images of 32 x 32 pixels.

    Parameters
    ----------
    root : str or Path
        Folder of torchvision's data sets.

    download : bool, default=False
        Whether torchvision downloads the data set if it is missing.

    Returns
    -------
    cifar10 : Bunch
        ``images`` of shape (60000, 32, 32, 3) and dtype uint8; ten classes.

    Raises
    ------
    RuntimeError
        If the data set is missing and `download` is False.
    """
    from torchvision.datasets import CIFAR10

    parts = [CIFAR10(root, train=train, download=download) for train in (True, False)]
    return Bunch(
        images=np.concatenate([part.data for part in parts]),
        target=np.concatenate([part.targets for part in parts]),
        target_names=list(parts[0].classes),
    )


def fetch_cifar100(root, *, download: bool = False) -> Bunch:
    """Load CIFAR-100 with its 20 super-classes, train and test set together.

    Parameters
    ----------
    root : str or Path
        Folder of torchvision's data sets.

    download : bool, default=False
        Whether torchvision downloads the data set if it is missing.

    Returns
    -------
    cifar100 : Bunch
        ``images`` of shape (60000, 32, 32, 3) and dtype uint8; 20 classes.

    Raises
    ------
    RuntimeError
        If the data set is missing and `download` is False.
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
    """Load STL-10, train and test set together: 13,000 colour images of 96 x 96 pixels.

    The papers also use its 100,000 unlabelled images for the instance-level contrastive loss.

    Parameters
    ----------
    root : str or Path
        Folder of torchvision's data sets.

    download : bool, default=False
        Whether torchvision downloads the data set if it is missing.

    Returns
    -------
    stl10 : Bunch
        ``images`` of shape (13000, 3, 96, 96) and dtype uint8; ten classes. ``unlabeled`` of shape
        (100000, 3, 96, 96), for ``fit(images, unlabeled=unlabeled)``.

    Raises
    ------
    RuntimeError
        If the data set is missing and `download` is False.
    """
    from torchvision.datasets import STL10

    parts = [STL10(root, split=split, download=download) for split in ("train", "test")]
    return Bunch(
        images=np.concatenate([part.data for part in parts]),
        target=np.concatenate([part.labels for part in parts]).astype(np.int64),
        target_names=list(parts[0].classes),
        unlabeled=STL10(root, split="unlabeled", download=download).data,
    )


def load_imagenet10(root) -> Bunch:
    """List the images of ImageNet-10: ten classes of the ImageNet training set, 13,000 photos.

    Parameters
    ----------
    root : str or Path
        Folder of the training images, with a subfolder per synset; or its parent, where it is
        named "train".

    Returns
    -------
    imagenet10 : Bunch
        ``images`` is a list of paths; ten classes, named by their synsets.

    Raises
    ------
    ValueError
        If a class is missing.
    """
    return _load_synsets(_training_folder(root), _IMAGENET10)


def load_imagenet_dogs(root) -> Bunch:
    """List the images of ImageNet-Dogs: 15 breeds of the ImageNet training set, 19,500 photos.

    Parameters
    ----------
    root : str or Path
        Folder of the training images, with a subfolder per synset; or its parent, where it is
        named "train".

    Returns
    -------
    dogs : Bunch
        ``images`` is a list of paths; 15 classes, named by their synsets.

    Raises
    ------
    ValueError
        If a class is missing.
    """
    return _load_synsets(_training_folder(root), _IMAGENET_DOGS)


def load_tiny_imagenet(root) -> Bunch:
    """List the training images of Tiny-ImageNet: 100,000 colour images of 64 x 64 pixels.

    The papers use the training set only.

    Parameters
    ----------
    root : str or Path
        Folder of Tiny-ImageNet as distributed, or its parent.

    Returns
    -------
    tiny : Bunch
        ``images`` is a list of paths; 200 classes, named by their synsets.

    Raises
    ------
    ValueError
        If there are not 200 classes.
    """
    subfolder = Path(root) / "tiny-imagenet-200"
    folder = _training_folder(subfolder if subfolder.is_dir() else root)
    synsets = sorted(path.name for path in folder.glob(_SYNSET))
    if len(synsets) != 200:
        raise ValueError(
            f"{folder} must hold 200 folders with names such as n01443537; it holds {len(synsets)}"
        )
    return _load_synsets(folder, synsets)


def _training_folder(root):
    """The subfolder "train" if there is one, else the folder itself."""
    train = Path(root) / "train"
    return train if train.is_dir() else Path(root)


def _load_synsets(folder, synsets):
    """List the images of some classes of a folder with a subfolder per class."""
    missing = [name for name in synsets if not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"{folder} must hold a folder for each synset; missing {missing}")
    files_by_class = [image_files(folder / name) for name in synsets]
    return Bunch(
        images=[file for files in files_by_class for file in files],
        target=np.repeat(np.arange(len(synsets)), [len(files) for files in files_by_class]),
        target_names=list(synsets),
    )


def load_arrays(root) -> Bunch:
    """Load images and classes from a .npz file.

    Parameters
    ----------
    root : str or Path
        A .npz file with the array ``images`` and, if classes are known, ``target``; or ``X``, such
        as vectors, and ``y``.

    Returns
    -------
    arrays : Bunch
        ``images`` as stored; ``target`` of shape (n_samples,) or None.

    Raises
    ------
    ValueError
        If the file cannot be read, or the arrays differ in length.
    """
    try:
        with open(root, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = dict(arrays)
    except Exception as error:  # damaged files raise errors of many types
        reason = str(error) or type(error).__name__
        raise ValueError(f"{root} is not a .npz file of arrays: {reason}") from error
    samples, classes = ("images", "target") if "images" in stored else ("X", "y")
    if samples not in stored:
        held = ", ".join(stored) or "nothing"
        raise ValueError(f"{root} must hold 'images' or 'X'; it holds {held}")
    images, target = stored[samples], stored.get(classes)
    if target is None:
        return Bunch(images=images, target=None, target_names=None)
    if target.shape != (len(images),):
        raise ValueError(
            f"{root}: {classes} must have shape ({len(images)},), one class per image; got "
            f"{target.shape}"
        )
    names, target = np.unique(target, return_inverse=True)
    return Bunch(images=images, target=target, target_names=names.tolist())


# Loaders by their names on the command line, with the arguments root and download.
DATASETS: dict[str, Callable[..., Bunch]] = {
    "arrays": lambda root, download=False: load_arrays(root),
    "cifar10": fetch_cifar10,
    "cifar100": fetch_cifar100,
    "digits": lambda root, download=False: load_digits(),
    "folder": lambda root, download=False: load_folder(root),
    "imagenet-dogs": lambda root, download=False: load_imagenet_dogs(root),
    "imagenet10": lambda root, download=False: load_imagenet10(root),
    "stl10": fetch_stl10,
    "tiny-imagenet": lambda root, download=False: load_tiny_imagenet(root),
}


def load(name: str, root=None, *, download: bool = False, n_images: int | None = None) -> Bunch:
    """Load a data set by its name on the command line.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.

    root : str or Path, default=None
        Folder of the data set, or a .npz file for `load_arrays`. Only "digits" needs none.

    download : bool, default=False
        Whether torchvision downloads the data set if it is missing.

    n_images : int, default=None
        Size of a random subset, which is the same in each call; None takes all images.

    Returns
    -------
    data : Bunch
        ``name``, ``images``, ``target``, ``target_names`` and ``unlabeled``; the last three may be
        None. The name of "folder" and "arrays" is that of the folder or file.

    Raises
    ------
    ValueError
        If the name is unknown, `root` is missing, or there are fewer images than `n_images`.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}; there are {', '.join(sorted(DATASETS))}")
    if root is None and name != "digits":
        raise ValueError(f"the data set {name!r} needs --root, the folder where it is")
    if root is not None and Path(root).suffix == ".npz":
        bunch = load_arrays(root)
    else:
        bunch = DATASETS[name](root, download=download)
    named_by_path = name in ("arrays", "folder")
    bunch.name = Path(root).resolve().stem if named_by_path else name
    bunch.setdefault("unlabeled", None)
    if n_images is None:
        return bunch
    if not 0 < n_images <= len(bunch.images):
        raise ValueError(f"wanted {n_images} images of {name!r}; it has {len(bunch.images)}")
    indices = np.sort(np.random.default_rng(0).permutation(len(bunch.images))[:n_images])
    bunch.images = take(bunch.images, indices)
    bunch.target = None if bunch.target is None else bunch.target[indices]
    if bunch.unlabeled is not None:
        bunch.unlabeled = bunch.unlabeled[:n_images]
    return bunch


def take(images, indices: np.ndarray):
    """Select images by index.

    Parameters
    ----------
    images : ndarray or list
        All images.

    indices : ndarray of shape (m,)
        Indices of the images to select.

    Returns
    -------
    selected : ndarray or list
        The images in the order of the indices.
    """
    return images[indices] if isinstance(images, np.ndarray) else [images[i] for i in indices]
