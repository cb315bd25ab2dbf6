"""``skcc bench augment``: speed of the augmentation."""

import torch
from PIL import Image

from skcc.augment import AUGMENTATIONS, Views
from skcc.benchmarks.baselines import pillow_transform
from skcc.benchmarks.timing import medians
from skcc.benchmarks.workload import synthetic_images
from skcc.training.settings import resolve_device


def augment(
    *, size: int = 32, source: int | None = None, batch: int = 64, repeats: int = 11, device: str
) -> dict:
    """Two views per image: our batches against Pillow and torchvision, image by image.

    Parameters
    ----------
    size : int, default=32
        Side of the views in pixels. From 64 on, half of them are blurred, as for ImageNet-10.

    source : int, default=None
        Side of the images. None stands for that of the views if it is below 64, and for 8/7 of it
        otherwise.

    batch : int, default=64
        Images per call.

    repeats : int, default=11
        Timed calls.

    device : str
        Device that computes our views.

    Returns
    -------
    record : dict
        Milliseconds per image of both, and their ratio.
    """
    where = resolve_device(device)
    blur = size >= 64
    source = source or (round(size * 8 / 7) if blur else size)
    images = synthetic_images(batch, source)
    ours = _batched_views(images, size, blur, where)
    pillow = _pillow_views(images, size, blur)
    with torch.inference_mode(), torch.random.fork_rng([]):
        if where.type == "cpu":
            seconds = medians({"ours": ours, "pillow": pillow}, repeats=repeats, device=where)
        else:
            seconds = medians({"ours": ours}, repeats=repeats, device=where)
            seconds |= medians({"pillow": pillow}, repeats=repeats, device=torch.device("cpu"))
    return {
        "bench": "augment",
        "size": size,
        "source": source,
        "blur": blur,
        "ms_per_image": 1000 * seconds["ours"] / batch,
        "ms_per_image_pillow": 1000 * seconds["pillow"] / batch,
        "times_faster": seconds["pillow"] / seconds["ours"],
        "gigabytes_per_second": 2 * batch * 3 * (source**2 + 4 * size**2) / seconds["ours"] / 1e9,
    }


def _batched_views(images, size, blur, device):
    """Make a function that draws two views of all images on the device."""
    views = Views(AUGMENTATIONS["natural-strong-blur" if blur else "natural"], (size, size))
    samples = torch.from_numpy(images).to(device)
    index = torch.arange(len(images), device=device)
    generator = torch.Generator().manual_seed(0)

    def draw():
        tables = views.draw(len(images), images.shape[1:], generator, device)
        return views(samples, tables, index)

    return draw


def _pillow_views(images, size, blur):
    """Make a function that draws two views of all images with Pillow."""
    transform = pillow_transform(size, 1.0 if blur else 0.5, blur=blur)
    pillow_images = [Image.fromarray(image) for image in images]
    return lambda: [torch.stack([transform(i) for i in pillow_images]) for _ in range(2)]
