"""Batches of images to random views, on whatever device the batch is.

Every sample gets its own draw. The draws of a whole epoch are made at once, from one generator,
into a table with one row per sample (`Views.draw`); applying them (`Views.__call__`) is pure
tensor arithmetic. So the views of an image depend on the seed, the epoch and the image, not on
how the images were batched. This file knows no method and no network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
_BLUR_RADIUS = 11  # the 23 taps of Contrastive Clustering
_CROP_TRIES = 10
_CONTRAST = 1  # its place among the colour operations
_NOISE_BANK = 2048
_MIN_FEATURES_TO_DROP = 8


def resize_matrix(
    start: Tensor, length: Tensor, n_in: int, n_out: int, flip: Tensor | None = None
) -> Tensor:
    """Matrices that cut an interval out of a row of pixels and resample it.

    The filter is Pillow's antialiased bilinear one: a triangle as wide as the larger of an
    input and an output pixel, restricted to the interval, its weights summing to one.

    Parameters
    ----------
    start, length : Tensor of shape (b,)
        The interval, in input pixels; ``length >= 1`` and inside ``[0, n_in]``.

    n_in, n_out : int
        Pixels of the input and output row.

    flip : Tensor of bool of shape (b,), default=None
        Which outputs are mirrored.

    Returns
    -------
    matrix : Tensor of shape (b, n_out, n_in)
        ``matrix[i] @ row`` is the resampled row.
    """
    scale = (length / n_out)[:, None]
    out = torch.arange(n_out, device=start.device) + 0.5
    out = out.expand(len(start), -1)
    if flip is not None:
        out = torch.where(flip[:, None], n_out - out, out)
    centre = start[:, None] + out * scale
    pixel = torch.arange(n_in, device=start.device) + 0.5
    distance = (pixel - centre[..., None]).abs() / scale[..., None].clamp_min(1)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    weight = (1 - distance).clamp_min(0) * inside[:, None]
    return weight / weight.sum(-1, keepdim=True)


def crop_resize(images: Tensor, box: Tensor, size: tuple[int, int], flip: Tensor | None = None):
    """Cut one box out of each image and resize it, antialiased.

    Parameters
    ----------
    images : Tensor of shape (b, h, w, c)
        Floating-point images.

    box : Tensor of shape (b, 4)
        Top, left, height and width of the box, as fractions of the image.

    size : tuple of (int, int)
        Height and width of the result.

    flip : Tensor of bool of shape (b,), default=None
        Which results are mirrored left to right.

    Returns
    -------
    crops : Tensor of shape (b, c, height, width)
        Within one gray level of what Pillow's ``crop`` and ``resize`` give.
    """
    b, h, w, c = images.shape
    top, left, height, width = box.unbind(1)
    rows = resize_matrix(top * h, height * h, h, size[0])
    columns = resize_matrix(left * w, width * w, w, size[1], flip)
    x = rows @ images.reshape(b, h, w * c)
    x = x.view(b, size[0], w, c).transpose(1, 2).reshape(b, w, size[0] * c)
    x = columns @ x
    return x.view(b, size[1], size[0], c).permute(0, 3, 2, 1)


def plain_view(batch: Tensor, size: tuple[int, int] | None) -> Tensor:
    """What a network sees of a stored batch when nothing is random.

    Parameters
    ----------
    batch : Tensor of shape (b, h, w, c) and dtype uint8, or of shape (b, d)
        Images as they are stored, or vectors.

    size : tuple of (int, int) or None
        Height and width of the view; None for vectors.

    Returns
    -------
    view : Tensor of shape (b, c, height, width) in [0, 1], or of shape (b, d)
        Floating-point images, or the vectors unchanged.
    """
    if size is None:
        return batch
    images = batch.float() / 255
    if tuple(batch.shape[1:3]) == tuple(size):
        return images.permute(0, 3, 1, 2)
    whole = torch.zeros(len(batch), 4, device=batch.device)
    whole[:, 2:] = 1
    return crop_resize(images, whole, size)


@dataclass(frozen=True)
class ImageAugmentation:
    """Random views of images: warp, crop, flip, colour, blur.

    Parameters
    ----------
    scale : tuple of (float, float), default=(0.08, 1.0)
        Range of the share of the image that a crop keeps.

    ratio : tuple of (float, float), default=(3/4, 4/3)
        Range of the crop's width over height, drawn uniformly in the logarithm.

    flip : float, default=0.5
        Probability of a left-right flip.

    rotation : float, default=0.0
        Largest rotation either way, in degrees.

    shear : float, default=0.0
        Largest horizontal shear either way, in degrees.

    brightness, contrast, saturation : float, default=0.0
        A factor is drawn from ``[max(0, 1 - value), 1 + value]``. Saturation acts on colour
        images only.

    hue : float, default=0.0
        Largest rotation of the hue either way, as a fraction of a full turn. Colour only.

    jitter : float, default=0.8
        Probability that the four colour operations are applied, in an order drawn per image.

    grayscale : float, default=0.0
        Probability that colour is removed.

    blur : float, default=0.0
        Probability of a Gaussian blur.

    sigma : tuple of (float, float), default=(0.1, 2.0)
        Range of the blur's standard deviation, in pixels of the view.

    Notes
    -----
    Crops are drawn as torchvision's ``RandomResizedCrop`` draws them, but not rounded to whole
    pixels. Hue turns the colours about the gray axis, a linear map, where torchvision goes
    through HSV; values are clipped once, at the end.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 0.8
    grayscale: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)

    def draw(self, n: int, shape: tuple, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the parameters of one view of each of `n` images.

        Parameters
        ----------
        n : int
            Number of images.

        shape : tuple of (int, int, int)
            Height, width and channels of the stored images.

        generator : torch.Generator
            Where the random numbers come from; on the CPU.

        Returns
        -------
        table : dict of str to Tensor of shape (n, ...)
            Row ``i`` belongs to image ``i``.
        """

        def uniform(low, high, *columns):
            return torch.rand(n, *columns, generator=generator) * (high - low) + low

        def chance(probability):
            return torch.rand(n, generator=generator) < probability

        def factor(strength):
            return uniform(max(0.0, 1 - strength), 1 + strength)

        # Every column is always drawn, so that changing one strength leaves the others' draws.
        return {
            "box": _random_box(uniform, self.scale, self.ratio, shape),
            "flip": chance(self.flip),
            "rotation": uniform(-1, 1) * math.radians(self.rotation),
            "shear": uniform(-1, 1) * math.radians(self.shear),
            "brightness": factor(self.brightness),
            "contrast": factor(self.contrast),
            "saturation": factor(self.saturation),
            "hue": uniform(-1, 1) * self.hue,
            "order": torch.rand(n, 4, generator=generator).argsort(dim=1),
            "jitter": chance(self.jitter),
            "grayscale": chance(self.grayscale),
            "sigma": uniform(*self.sigma) * chance(self.blur),
        }

    def __call__(
        self, batch: Tensor, table: dict[str, Tensor], index: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Apply drawn parameters to a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) and dtype uint8
            Images as they are stored.

        table : dict of str to Tensor of shape (n, ...)
            What `draw` made.

        index : Tensor of shape (b,)
            Their rows in `table`.

        size : tuple of (int, int)
            Height and width of the view.

        Returns
        -------
        view : Tensor of shape (b, c, height, width)
            Values in [0, 1].
        """
        rows = {name: column[index] for name, column in table.items()}
        images = batch.float() / 255
        if self.rotation or self.shear:
            images = _warp(images, rows["rotation"], rows["shear"])
        x = crop_resize(images, rows["box"], size, rows["flip"])
        x = _jitter_colour(x, rows) if x.shape[1] in (3, 4) else _jitter_intensity(x, rows)
        if self.blur and x.device.type == "cpu":  # elsewhere, knowing which would stop the device
            blurred = rows["sigma"].nonzero()[:, 0]
            x[blurred] = _blur(x[blurred], rows["sigma"][blurred])
        elif self.blur:
            x = _blur(x, rows["sigma"])
        return x


def _random_box(uniform, scale, ratio, shape):
    """Boxes as torchvision's RandomResizedCrop: the first of ten tries that fits, else central."""
    h, w = shape[:2]
    area = uniform(*scale, _CROP_TRIES) * (h * w)
    aspect = uniform(math.log(ratio[0]), math.log(ratio[1]), _CROP_TRIES).exp()
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (width <= w) & (height <= h)
    tries = torch.arange(_CROP_TRIES)
    first = torch.where(fits, tries, _CROP_TRIES).amin(dim=1, keepdim=True)
    chosen = first.clamp_max(_CROP_TRIES - 1)
    central = min(max(w / h, ratio[0]), ratio[1])
    none_fits = first[:, 0] == _CROP_TRIES
    width = torch.where(none_fits, min(w, h * central), width.gather(1, chosen)[:, 0])
    height = torch.where(none_fits, min(h, w / central), height.gather(1, chosen)[:, 0])
    width, height = width.clamp(1, w), height.clamp(1, h)  # never less than a pixel
    top, left = uniform(0, 1), uniform(0, 1)
    top = torch.where(none_fits, 0.5, top) * (h - height)
    left = torch.where(none_fits, 0.5, left) * (w - width)
    return torch.stack([top / h, left / w, height / h, width / w], dim=1)


def _warp(images, rotation, shear):
    """Rotate and shear about the centre; what comes from outside repeats the border."""
    _, h, w, _ = images.shape
    cos, sin, slant = rotation.cos(), rotation.sin(), shear.tan()
    zero = torch.zeros_like(cos)
    # affine_grid counts in half sides, hence the aspect ratio.
    theta = torch.stack(
        [
            torch.stack([cos, (cos * slant - sin) * h / w, zero], dim=1),
            torch.stack([sin * w / h, sin * slant + cos, zero], dim=1),
        ],
        dim=1,
    )
    x = images.permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return x.permute(0, 2, 3, 1)


def _jitter_intensity(x, rows):
    """Brightness and contrast of images whose channels are not colours."""
    applied = rows["jitter"]
    bright = torch.where(applied, rows["brightness"], 1.0)[:, None, None, None]
    contrast = torch.where(applied, rows["contrast"], 1.0)[:, None, None, None]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    # Affine, so either order of the two gives this product.
    return ((x - mean) * contrast + mean).mul_(bright).clamp_(0, 1)


def _jitter_colour(x, rows):
    """Brightness, contrast, saturation, hue in random order, then grayscale: one affine map.

    Each operation is a 4 x 4 matrix on (r, g, b, 1). Contrast pulls towards the mean luma of the
    image as the operations before it left it, which is that of the mean colour.
    """
    b = len(x)
    colour = x[:, :3].flatten(2)
    luma = torch.cat([colour.new_full((1,), weight) for weight in LUMA])  # no copy from the host
    eye = torch.eye(4, device=x.device)
    mean = F.pad(colour.mean(dim=2), (0, 1), value=1.0)[..., None]
    operations = torch.stack(
        [
            _scaling(rows["brightness"]),
            _scaling(rows["contrast"]),
            _saturation(rows["saturation"], luma),
            _hue(rows["hue"]),
        ],
        dim=1,
    )
    pull = (1 - rows["contrast"])[:, None]
    matrix = eye.expand(b, 4, 4)
    for step in range(4):
        kind = rows["order"][:, step]
        operation = operations.gather(1, kind[:, None, None, None].expand(b, 1, 4, 4))[:, 0]
        grey = ((matrix @ mean)[:, :3, 0] @ luma)[:, None]
        offset = F.pad((pull * grey * (kind == _CONTRAST)[:, None]).expand(b, 3), (0, 1))
        matrix = (operation + F.pad(offset[..., None], (3, 0))) @ matrix
    matrix = torch.where(rows["jitter"][:, None, None], matrix, eye)
    grey = F.pad(luma.expand(3, 3), (0, 1, 0, 1))
    grey[3, 3] = 1
    matrix = torch.where(rows["grayscale"][:, None, None], grey, eye) @ matrix
    colour = torch.baddbmm(matrix[:, :3, 3:], matrix[:, :3, :3], colour).clamp_(0, 1)
    colour = colour.view(b, 3, *x.shape[2:])
    return colour if x.shape[1] == 3 else torch.cat([colour, x[:, 3:]], dim=1)


def _scaling(factor):
    matrix = torch.diag_embed(factor[:, None].expand(-1, 4))
    matrix[:, 3, 3] = 1
    return matrix


def _saturation(factor, luma):
    towards_grey = F.pad(luma.expand(3, 3), (0, 1, 0, 1))
    matrix = _scaling(factor) + (1 - factor)[:, None, None] * towards_grey
    return matrix


def _hue(turn):
    """Rotation of the colour space about its gray axis; red goes to green, green to blue."""
    third = 2 * math.pi / 3
    angle = 2 * math.pi * turn[:, None, None]
    steps = torch.arange(3, device=turn.device)
    apart = (steps[None, :] - steps[:, None]) * third
    matrix = F.pad((1 + 2 * torch.cos(angle + apart)) / 3, (0, 1, 0, 1))
    matrix[:, 3, 3] = 1
    return matrix


def _blur(x, sigma):
    """Gaussian blur, one standard deviation per image; sigma 0 leaves the image as it is.

    The border is reflected without repeating its pixel.
    """
    reach = [min(_BLUR_RADIUS, side - 1) for side in x.shape[2:]]
    rows, columns = (
        _blur_matrix(sigma, side, radius)[:, None]
        for side, radius in zip(x.shape[2:], reach, strict=True)
    )
    x = F.pad(x, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    return rows @ x @ columns.transpose(2, 3)


def _blur_matrix(sigma, side, radius):
    """Banded matrices (b, side, side + 2 * radius), each row the kernel one further right."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    return F.pad(kernel, (side - 1, side - 1)).unfold(1, side + 2 * radius, 1).flip(1)


@dataclass(frozen=True)
class VectorAugmentation:
    """Random views of vectors: Gaussian noise, and features replaced by their mean.

    Parameters
    ----------
    noise : float, default=0.3
        Standard deviation of the noise, in standard deviations of each feature
        (vectors are stored standardised).

    drop : float, default=0.2
        Probability that a feature is replaced by its mean. Not below 8 features, where each
        is a large part of what there is to know.

    Notes
    -----
    Noise is drawn per epoch as a bank of rows; a sample's noise is the sum of two of them, so
    that the table stays small whatever the number of features.
    """

    noise: float = 0.3
    drop: float = 0.2

    def draw(self, n: int, shape: tuple, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the parameters of one view of each of `n` vectors.

        Parameters
        ----------
        n : int
            Number of vectors.

        shape : tuple of (int,)
            Number of features.

        generator : torch.Generator
            Where the random numbers come from; on the CPU.

        Returns
        -------
        table : dict of str to Tensor of shape (n, ...)
            Two banks of random rows, and for each vector which of those rows it gets.
        """
        size = min(_NOISE_BANK, n)
        return {
            "noise_row": torch.randint(size, (n, 2), generator=generator),
            "drop_row": torch.randint(size, (n,), generator=generator),
            "noise_bank": torch.randn(size, *shape, generator=generator),
            "drop_bank": torch.rand(size, *shape, generator=generator) < self.drop,
        }

    def __call__(
        self, batch: Tensor, table: dict[str, Tensor], index: Tensor, size: None
    ) -> Tensor:
        """Apply drawn parameters to a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, d)
            Vectors as they are stored.

        table : dict of str to Tensor
            What `draw` made.

        index : Tensor of shape (b,)
            Their rows in `table`.

        size : None
            Vectors have none.

        Returns
        -------
        view : Tensor of shape (b, d)
            Vectors of the same scale.
        """
        noise = table["noise_bank"][table["noise_row"][index]].sum(dim=1) * math.sqrt(0.5)
        x = batch + self.noise * noise
        if batch.shape[1] < _MIN_FEATURES_TO_DROP:
            return x
        return x.masked_fill(table["drop_bank"][table["drop_row"][index]], 0.0)


@dataclass(frozen=True)
class NoAugmentation:
    """The image or vector itself, as the paper's ablation without augmentation has it."""

    def draw(self, n: int, shape: tuple, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw nothing.

        Parameters
        ----------
        n : int
            Number of samples.

        shape : tuple of int
            Shape of a stored sample.

        generator : torch.Generator
            Left alone.

        Returns
        -------
        table : dict
            Empty.
        """
        return {}

    def __call__(self, batch: Tensor, table: dict, index: Tensor, size) -> Tensor:
        """Return the plain view.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) or (b, d)
            Samples as they are stored.

        table : dict
            What `draw` made.

        index : Tensor of shape (b,)
            Not used.

        size : tuple of (int, int) or None
            Height and width of the view.

        Returns
        -------
        view : Tensor of shape (b, c, height, width) or (b, d)
            See `plain_view`.
        """
        return plain_view(batch, size)


class CallableAugmentation:
    """A user's function as an augmentation.

    Parameters
    ----------
    function : callable
        From a float batch, ``(b, c, h, w)`` in [0, 1] at the size of the views or ``(b, d)``,
        to a batch of views. It may draw from torch's global generator, which the engine seeds
        anew for each epoch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    draw = NoAugmentation.draw

    def __call__(self, batch: Tensor, table: dict, index: Tensor, size) -> Tensor:
        """Apply the function to the plain view.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) or (b, d)
            Samples as they are stored.

        table : dict
            Empty.

        index : Tensor of shape (b,)
            Not used.

        size : tuple of (int, int) or None
            Height and width of the plain view.

        Returns
        -------
        view : Tensor of shape (b, c, h, w) or (b, d)
            What the function made.

        Raises
        ------
        ValueError
            If that is not a batch of as many samples and channels, in floating point.
        """
        plain = plain_view(batch, size)
        view = self.function(plain)
        wanted = f"a float tensor of shape {tuple(plain.shape[:2])} + (height, width)"
        if size is None:
            wanted = f"a float tensor of shape {tuple(plain.shape)}"
        if not isinstance(view, Tensor) or not view.is_floating_point():
            raise ValueError(f"augment returned {type(view).__name__}; wanted {wanted}")
        if view.shape[:2] != plain.shape[:2] or view.ndim != plain.ndim:
            raise ValueError(f"augment returned shape {tuple(view.shape)}; wanted {wanted}")
        return view


class Views:
    """The views of each sample that an objective is trained on.

    Parameters
    ----------
    augmentation : ImageAugmentation, VectorAugmentation, NoAugmentation or CallableAugmentation
        Every augmented view is an independent draw of it.

    size : tuple of (int, int) or None
        Height and width of the views; None for vectors.

    n_views : int, default=2
        Views per sample. 0 stands for the plain view alone.

    n_augmented : int or None, default=None
        How many of them are augmented; the last ones are plain. None means all.
    """

    def __init__(
        self,
        augmentation,
        size: tuple[int, int] | None,
        n_views: int = 2,
        n_augmented: int | None = None,
    ):
        if n_augmented is None:
            n_augmented = n_views
        plain = NoAugmentation()
        self.families = [augmentation] * n_augmented
        self.families += [plain] * (max(1, n_views) - n_augmented)
        self.size = size

    def draw(
        self, n: int, shape: tuple, generator: torch.Generator, device: torch.device
    ) -> list[dict[str, Tensor]]:
        """Draw an epoch: one table per view.

        Parameters
        ----------
        n : int
            Number of samples.

        shape : tuple of int
            Shape of a stored sample.

        generator : torch.Generator
            Where the random numbers come from; on the CPU.

        device : torch.device
            Where the tables are needed.

        Returns
        -------
        tables : list of dict of str to Tensor
            For `__call__`.
        """
        tables = [family.draw(n, shape, generator) for family in self.families]
        return [{name: column.to(device) for name, column in t.items()} for t in tables]

    def __call__(self, batch: Tensor, tables: list, index: Tensor) -> tuple[Tensor, ...]:
        """Make the views of a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) and dtype uint8, or of shape (b, d)
            Samples as they are stored.

        tables : list of dict
            What `draw` made.

        index : Tensor of shape (b,)
            Which samples these are.

        Returns
        -------
        views : tuple of Tensor
            Each of shape (b, c, height, width), channels last in memory, or (b, d).
        """
        return tuple(
            _channels_last(family(batch, table, index, self.size))
            for family, table in zip(self.families, tables, strict=True)
        )

    def plain(self, batch: Tensor, index: Tensor) -> Tensor:
        """Make the view of a batch in which nothing is random.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) and dtype uint8, or of shape (b, d)
            Samples as they are stored.

        index : Tensor of shape (b,)
            Not used.

        Returns
        -------
        view : Tensor of shape (b, c, height, width) or (b, d)
            See `plain_view`.
        """
        return _channels_last(plain_view(batch, self.size))


def _channels_last(view):
    return view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view


def _natural(strength=0.5, blur=0.0):
    return ImageAugmentation(
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grayscale=0.2,
        blur=blur,
    )


AUGMENTATIONS = {
    # Natural colour images: the family of Contrastive Clustering, by jitter strength and blur.
    "natural": _natural(),
    "natural-strong": _natural(1.0),
    "natural-strong-blur": _natural(1.0, blur=0.5),
    # Of momentum contrast: milder crops, colours always and widely jittered.
    "natural-moco": ImageAugmentation(
        scale=(0.2, 1.0),
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.4,
        jitter=1.0,
        grayscale=0.2,
    ),
    # Gray images, where a mirrored or upside-down shape is another shape.
    "gray": ImageAugmentation(
        scale=(0.5, 1.0), flip=0.0, rotation=15.0, shear=10.0, brightness=0.6, contrast=0.6
    ),
    "vector": VectorAugmentation(),
    "none": NoAugmentation(),
}
