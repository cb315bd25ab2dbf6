"""Random views of images and vectors, computed in batches on the device of the batch.

Every sample has its own random parameters. `Views.draw` samples those of a whole epoch at once,
from one generator, into a table with one row per sample; `Views.__call__` applies them with tensor
operations only. The views of an image therefore depend on the seed, the epoch and the image, not
on how the images are batched.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
_BLUR_RADIUS = 11  # a kernel of 23 taps, as in Contrastive Clustering
_CROP_TRIES = 10  # as in torchvision's RandomResizedCrop
_CONTRAST = 1  # index of contrast among the four colour operations
_NOISE_BANK = 2048
_CHUNK = 2**20  # values of images that a CPU computes at once; more memory is not reused
_BLOCK = 32  # outputs of a filter that are computed together, of large images
_MIN_FEATURES_TO_DROP = 8


def resample(
    rows: Tensor, start: Tensor, length: Tensor, n_out: int, flip: Tensor | None = None
) -> Tensor:
    """Crop an interval from each row of pixels and resample it.

    The filter is Pillow's antialiased bilinear filter: a triangle whose half-width is the larger
    of an input and an output pixel. Only pixels inside the interval count, and the weights of an
    output pixel sum to one.

    Parameters
    ----------
    rows : Tensor of shape (b, n_in, m)
        Rows of `n_in` pixels with `m` values each, floating-point.

    start, length : Tensor of shape (b,)
        The intervals, in input pixels; ``length >= 1``, and inside ``[0, n_in]``.

    n_out : int
        Number of pixels of an output row.

    flip : Tensor of bool of shape (b,), default=None
        Which outputs are mirrored. None mirrors none.

    Returns
    -------
    resampled : Tensor of shape (b, n_out, m)
        The new rows.
    """
    n_in = rows.shape[1]
    scale = (length / n_out)[:, None]
    out = torch.arange(n_out, device=start.device) + 0.5
    out = out.expand(len(start), -1)
    if flip is not None:
        out = torch.where(flip[:, None], n_out - out, out)
    centre = start[:, None] + out * scale
    largest = n_in / n_out
    block, n_blocks, width = _blocks(n_in, n_out, largest, 2 * max(1, largest) + 1)
    if n_blocks == 1:
        pixel = torch.arange(n_in, device=start.device) + 0.5
        return _triangle(pixel[None], centre, scale, start, length) @ rows
    centre = centre.view(-1, block)  # each block of outputs sees the pixels around it alone
    first = centre.amin(dim=1) - scale.clamp_min(1).expand(-1, n_blocks).flatten()
    first = first.floor().clamp(0, n_in - width).long()
    index = first[:, None] + torch.arange(width, device=first.device)
    scale, start, length = (x.repeat_interleave(n_blocks, dim=0) for x in (scale, start, length))
    weight = _triangle(index + 0.5, centre, scale, start, length)
    return _block_product(weight, index, rows)


def _triangle(pixel, centre, scale, start, length):
    """Weights of shape (b, n_out, n_in) of pixels in intervals, by distance from the outputs."""
    distance = (pixel[:, None] - centre[..., None]).abs() / scale[..., None].clamp_min(1)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    weight = (1 - distance).clamp_min(0) * inside[:, None]
    return weight / weight.sum(-1, keepdim=True)


def _blocks(n_in, n_out, scale, support):
    """Split outputs into equal blocks: size, number, and the inputs that one can depend on."""
    block = max(size for size in range(1, _BLOCK + 1) if n_out % size == 0)
    width = math.ceil((block - 1) * scale + support)
    if block < _BLOCK // 2 or 2 * width > n_in:
        return n_out, 1, n_in
    return block, n_out // block, width


def _block_product(weight, index, rows):
    """Multiply the rows that each block sees, (b * n_blocks, width), by its weights."""
    b, n_in, m = rows.shape
    offset = torch.arange(b, device=rows.device) * n_in
    index = index.view(b, -1) + offset[:, None]
    near = rows.flatten(0, 1).index_select(0, index.flatten())
    return (weight @ near.view(len(weight), -1, m)).view(b, -1, m)


def crop_resize(images: Tensor, box: Tensor, size: tuple[int, int], flip: Tensor | None = None):
    """Crop one box from each image and resize it with antialiasing.

    Parameters
    ----------
    images : Tensor of shape (b, h, w, c)
        Floating-point images.

    box : Tensor of shape (b, 4)
        Top, left, height and width of each box, as fractions of the image.

    size : tuple of (int, int)
        Height and width of the crops, in pixels.

    flip : Tensor of bool of shape (b,), default=None
        Which crops are mirrored left to right. None mirrors none.

    Returns
    -------
    crops : Tensor of shape (b, c, height, width)
        Equal to the result of Pillow's ``crop`` and ``resize`` up to one gray level.
    """
    b, h, w, c = images.shape
    top, left, height, width = box.unbind(1)
    x = resample(images.reshape(b, h, w * c), top * h, height * h, size[0])
    x = x.view(b, size[0], w, c).transpose(1, 2).reshape(b, w, size[0] * c)
    x = resample(x, left * w, width * w, size[1], flip)
    return x.view(b, size[1], size[0], c).permute(0, 3, 2, 1)


def plain_view(batch: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize a batch to the size of the views, without random transformations.

    Parameters
    ----------
    batch : Tensor of shape (b, h, w, c) and dtype uint8, or of shape (b, d)
        Stored images, or vectors.

    size : tuple of (int, int) or None
        Height and width of the views, in pixels; None for vectors.

    Returns
    -------
    view : Tensor of shape (b, c, height, width) in [0, 1], or of shape (b, d)
        Floating-point images, or the vectors unchanged.
    """
    if size is None:
        return batch
    if tuple(batch.shape[1:3]) == tuple(size):
        return (batch.float() / 255).permute(0, 3, 1, 2)
    whole = torch.zeros(len(batch), 4, device=batch.device)
    whole[:, 2:] = 1
    return _in_pieces(lambda i: crop_resize(batch[i].float() / 255, whole[i], size), batch, size)


def _in_pieces(view, batch, size):
    """Compute views by a function of slices: on a CPU in pieces, so that large ones stay cached."""
    n = max(1, _CHUNK // max(math.prod(batch.shape[1:]), math.prod(size) * batch.shape[3]))
    if batch.device.type != "cpu" or len(batch) <= n:
        return view(slice(None))
    pieces = (slice(i, i + n) for i in range(0, len(batch), n))
    return torch.cat([_channels_last(view(piece)) for piece in pieces])


@dataclass(frozen=True)
class ImageAugmentation:
    """Random views of images: rotation, shear, crop, flip, colour jitter and blur.

    Parameters
    ----------
    scale : tuple of (float, float), default=(0.08, 1.0)
        Range of the area of the crop, as a fraction of the area of the image.

    ratio : tuple of (float, float), default=(3/4, 4/3)
        Range of the aspect ratio of the crop, width over height. Its logarithm is uniform.

    flip : float, default=0.5
        Probability of a horizontal flip.

    rotation : float, default=0.0
        Largest angle of rotation in either direction, in degrees.

    shear : float, default=0.0
        Largest angle of horizontal shear in either direction, in degrees.

    brightness, contrast, saturation : float, default=0.0
        The factor is uniform in ``[max(0, 1 - value), 1 + value]``. Saturation applies to colour
        images only.

    hue : float, default=0.0
        Largest rotation of the hue in either direction, as a fraction of a full turn. Applies to
        colour images only.

    jitter : float, default=0.8
        Probability that the four colour operations are applied. Their order is random for each
        image.

    grayscale : float, default=0.0
        Probability that a colour image becomes gray.

    blur : float, default=0.0
        Probability of a Gaussian blur.

    sigma : tuple of (float, float), default=(0.1, 2.0)
        Range of the standard deviation of the blur, in pixels of the view.

    Notes
    -----
    Crops have the distribution of torchvision's ``RandomResizedCrop``, but are not rounded to
    whole pixels. The hue is changed by a rotation of the colour space about its gray axis, which
    is linear; torchvision converts to HSV. Values are clipped once, after all colour operations.
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
        """Sample the parameters of one view of each of `n` images.

        Parameters
        ----------
        n : int
            Number of images.

        shape : tuple of (int, int, int)
            Height, width and channels of the stored images.

        generator : torch.Generator
            Source of random numbers, on the CPU.

        Returns
        -------
        table : dict of str to Tensor of shape (n, ...)
            Parameters by name; row ``i`` is that of image ``i``.
        """

        def uniform(low, high, *columns):
            return torch.rand(n, *columns, generator=generator) * (high - low) + low

        def bernoulli(probability):
            return torch.rand(n, generator=generator) < probability

        def factor(strength):
            return uniform(max(0.0, 1 - strength), 1 + strength)

        # Every column is always sampled, so that a change of one strength does not change the
        # random numbers of the others.
        return {
            "box": _random_box(uniform, self.scale, self.ratio, shape),
            "flip": bernoulli(self.flip),
            "rotation": uniform(-1, 1) * math.radians(self.rotation),
            "shear": uniform(-1, 1) * math.radians(self.shear),
            "brightness": factor(self.brightness),
            "contrast": factor(self.contrast),
            "saturation": factor(self.saturation),
            "hue": uniform(-1, 1) * self.hue,
            "order": torch.rand(n, 4, generator=generator).argsort(dim=1),
            "jitter": bernoulli(self.jitter),
            "grayscale": bernoulli(self.grayscale),
            "sigma": uniform(*self.sigma) * bernoulli(self.blur),
        }

    def __call__(
        self, batch: Tensor, table: dict[str, Tensor], index: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Apply sampled parameters to a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) and dtype uint8
            Stored images.

        table : dict of str to Tensor of shape (n, ...)
            Parameters from `draw`.

        index : Tensor of shape (b,)
            Row of `table` of each image.

        size : tuple of (int, int)
            Height and width of the views, in pixels.

        Returns
        -------
        view : Tensor of shape (b, c, height, width)
            Values in [0, 1].
        """
        rows = {name: column[index] for name, column in table.items()}

        def view(part):
            return self._view(batch[part], {k: column[part] for k, column in rows.items()}, size)

        return _in_pieces(view, batch, size)

    def _view(self, batch, rows, size):
        """Apply sampled parameters, of shape (b, ...), to a batch."""
        images = batch.float() / 255
        if self.rotation or self.shear:
            images = _warp(images, rows["rotation"], rows["shear"])
        x = crop_resize(images, rows["box"], size, rows["flip"])
        x = _jitter_colour(x, rows) if x.shape[1] in (3, 4) else _jitter_intensity(x, rows)
        if self.blur and x.device.type == "cpu":  # elsewhere, nonzero would synchronise the device
            blurred = rows["sigma"].nonzero()[:, 0]
            x[blurred] = _blur(x[blurred], rows["sigma"][blurred])
        elif self.blur:
            x = _blur(x, rows["sigma"])
        return x


def _random_box(uniform, scale, ratio, shape):
    """Sample boxes as RandomResizedCrop does: the first of ten tries that fits, or the centre."""
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
    width, height = width.clamp(1, w), height.clamp(1, h)  # at least one pixel
    top, left = uniform(0, 1), uniform(0, 1)
    top = torch.where(none_fits, 0.5, top) * (h - height)
    left = torch.where(none_fits, 0.5, left) * (w - width)
    return torch.stack([top / h, left / w, height / h, width / w], dim=1)


def _warp(images, rotation, shear):
    """Rotate and shear images about their centre, padded with the nearest border pixel."""
    _, h, w, _ = images.shape
    cos, sin, slant = rotation.cos(), rotation.sin(), shear.tan()
    zero = torch.zeros_like(cos)
    # affine_grid has coordinates in [-1, 1] on both axes, hence the aspect ratio.
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
    """Change brightness and contrast of images whose channels are not colours."""
    applied = rows["jitter"]
    bright = torch.where(applied, rows["brightness"], 1.0)[:, None, None, None]
    contrast = torch.where(applied, rows["contrast"], 1.0)[:, None, None, None]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    # The two commute: brightness scales the mean as well.
    return ((x - mean) * contrast + mean).mul_(bright).clamp_(0, 1)


def _jitter_colour(x, rows):
    """Apply the four colour operations in random order, then grayscale, as one affine map."""
    # Each operation is a 4 x 4 matrix on (r, g, b, 1). Contrast needs the mean luma of the image
    # after the operations before it; luma is linear, so it is the luma of the mean colour.
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
    pull = (1 - rows["contrast"])[:, None]  # towards the mean luma
    matrix = eye.expand(b, 4, 4)
    for step in range(4):
        kind = rows["order"][:, step]
        operation = operations.gather(1, kind[:, None, None, None].expand(b, 1, 4, 4))[:, 0]
        mean_luma = ((matrix @ mean)[:, :3, 0] @ luma)[:, None]
        offset = F.pad((pull * mean_luma * (kind == _CONTRAST)[:, None]).expand(b, 3), (0, 1))
        matrix = (operation + F.pad(offset[..., None], (3, 0))) @ matrix
    matrix = torch.where(rows["jitter"][:, None, None], matrix, eye)
    to_gray = F.pad(luma.expand(3, 3), (0, 1, 0, 1))
    to_gray[3:, 3:] = 1  # one element would be written by a copy from the host
    matrix = torch.where(rows["grayscale"][:, None, None], to_gray, eye) @ matrix
    colour = torch.baddbmm(matrix[:, :3, 3:], matrix[:, :3, :3], colour).clamp_(0, 1)
    colour = colour.view(b, 3, *x.shape[2:])
    return colour if x.shape[1] == 3 else torch.cat([colour, x[:, 3:]], dim=1)


def _scaling(factor):
    """Matrices that multiply the three colours by a factor per image."""
    matrix = torch.diag_embed(factor[:, None].expand(-1, 4))
    matrix[:, 3, 3] = 1
    return matrix


def _saturation(factor, luma):
    """Matrices that interpolate between each colour and its luma."""
    to_gray = F.pad(luma.expand(3, 3), (0, 1, 0, 1))
    return _scaling(factor) + (1 - factor)[:, None, None] * to_gray


def _hue(turn):
    """Matrices that rotate colours about the gray axis; a positive turn moves red towards green."""
    third = 2 * math.pi / 3
    angle = 2 * math.pi * turn[:, None, None]
    channel = torch.arange(3, device=turn.device)
    between = (channel[None, :] - channel[:, None]) * third  # angle between two channels
    matrix = F.pad((1 + 2 * torch.cos(angle + between)) / 3, (0, 1, 0, 1))
    matrix[:, 3, 3] = 1
    return matrix


def _blur(x, sigma):
    """Blur each image by a Gaussian of its own sigma, with reflection padding; 0 is no blur."""
    return _blur_rows(_blur_rows(x, sigma).transpose(2, 3), sigma).transpose(2, 3)


def _blur_rows(x, sigma):
    """Blur along the third axis."""
    side = x.shape[2]
    radius = min(_BLUR_RADIUS, side - 1)
    block, n_blocks, width = _blocks(side + 2 * radius, side, 1, 2 * radius + 1)
    first = torch.arange(n_blocks, device=x.device)[:, None] * block - radius
    index = (first + torch.arange(width, device=x.device)).abs()
    index = torch.minimum(index, 2 * (side - 1) - index)  # reflected at both borders
    near = x.index_select(2, index.flatten()).unflatten(2, index.shape)
    return (_blur_matrix(sigma, block, radius)[:, None, None] @ near).flatten(2, 3)


def _blur_matrix(sigma, side, radius):
    """Toeplitz matrices of shape (b, side, side + 2 * radius) that convolve with the kernel."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    return F.pad(kernel, (side - 1, side - 1)).unfold(1, side + 2 * radius, 1).flip(1)


@dataclass(frozen=True)
class VectorAugmentation:
    """Random views of vectors: additive Gaussian noise and feature dropout.

    Parameters
    ----------
    noise : float, default=0.3
        Standard deviation of the noise, in standard deviations of each feature. Vectors are
        stored standardised.

    drop : float, default=0.2
        Probability that a feature is replaced by its mean, which is 0. Vectors of fewer than 8
        features keep all of them.

    Notes
    -----
    The noise is not sampled for every sample and feature. Each epoch samples a bank of at most 2048
    rows; the noise of a sample is the sum of two random rows, divided by the square root of 2.
    """

    noise: float = 0.3
    drop: float = 0.2

    def draw(self, n: int, shape: tuple, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample the parameters of one view of each of `n` vectors.

        Parameters
        ----------
        n : int
            Number of vectors.

        shape : tuple of (int,)
            Number of features.

        generator : torch.Generator
            Source of random numbers, on the CPU.

        Returns
        -------
        table : dict of str to Tensor
            Two banks of random rows, and for each vector the indices of its rows.
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
        """Apply sampled parameters to a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, d)
            Stored vectors.

        table : dict of str to Tensor
            Parameters from `draw`.

        index : Tensor of shape (b,)
            Row of `table` of each vector.

        size : None
            Not used.

        Returns
        -------
        view : Tensor of shape (b, d)
            Vectors with noise, some features set to 0.
        """
        noise = table["noise_bank"][table["noise_row"][index]].sum(dim=1) * math.sqrt(0.5)
        x = batch + self.noise * noise
        if batch.shape[1] < _MIN_FEATURES_TO_DROP:
            return x
        return x.masked_fill(table["drop_bank"][table["drop_row"][index]], 0.0)


@dataclass(frozen=True)
class NoAugmentation:
    """No augmentation: the view is the image or vector itself."""

    def draw(self, n: int, shape: tuple, generator: torch.Generator) -> dict[str, Tensor]:
        """Return an empty table.

        Parameters
        ----------
        n : int
            Number of samples.

        shape : tuple of int
            Shape of a stored sample.

        generator : torch.Generator
            Not used.

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
            Stored samples.

        table : dict
            Not used.

        index : Tensor of shape (b,)
            Not used.

        size : tuple of (int, int) or None
            Height and width of the views, in pixels; None for vectors.

        Returns
        -------
        view : Tensor of shape (b, c, height, width) or (b, d)
            See `plain_view`.
        """
        return plain_view(batch, size)


class CallableAugmentation:
    """Wraps a function of the user as an augmentation.

    Parameters
    ----------
    function : callable
        Maps a float batch, ``(b, c, h, w)`` in [0, 1] at the size of the views or ``(b, d)``,
        to a batch of views. It may use torch's global generator, which training seeds before
        each epoch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    draw = NoAugmentation.draw

    def __call__(self, batch: Tensor, table: dict, index: Tensor, size) -> Tensor:
        """Apply the function to the plain view.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) or (b, d)
            Stored samples.

        table : dict
            Not used.

        index : Tensor of shape (b,)
            Not used.

        size : tuple of (int, int) or None
            Height and width of the plain view, in pixels; None for vectors.

        Returns
        -------
        view : Tensor of shape (b, c, h, w) or (b, d)
            Result of the function.

        Raises
        ------
        ValueError
            If the result is no floating-point tensor, or has another number of samples, channels
            or dimensions.
        """
        plain = plain_view(batch, size)
        view = self.function(plain)
        expected = f"a float tensor of shape {tuple(plain.shape[:2])} + (height, width)"
        if size is None:
            expected = f"a float tensor of shape {tuple(plain.shape)}"
        if not isinstance(view, Tensor) or not view.is_floating_point():
            raise ValueError(f"augment returned {type(view).__name__}; expected {expected}")
        if view.shape[:2] != plain.shape[:2] or view.ndim != plain.ndim:
            raise ValueError(f"augment returned shape {tuple(view.shape)}; expected {expected}")
        return view


class Views:
    """Makes the views of each sample that an objective is trained on.

    Parameters
    ----------
    augmentation : ImageAugmentation, VectorAugmentation, NoAugmentation or CallableAugmentation
        Each augmented view has random parameters of its own.

    size : tuple of (int, int) or None
        Height and width of the views, in pixels; None for vectors.

    n_views : int, default=2
        Number of views per sample. 0 means one plain view.

    n_augmented : int or None, default=None
        Number of views that are augmented; the remaining ones are plain and come last. None
        means all.
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
        self.augmentations = [augmentation] * n_augmented
        self.augmentations += [plain] * (max(1, n_views) - n_augmented)
        self.size = size

    def draw(
        self, n: int, shape: tuple, generator: torch.Generator, device: torch.device
    ) -> list[dict[str, Tensor]]:
        """Sample the parameters of all views of an epoch.

        Parameters
        ----------
        n : int
            Number of samples.

        shape : tuple of int
            Shape of a stored sample.

        generator : torch.Generator
            Source of random numbers, on the CPU.

        device : torch.device
            Where the tables are placed.

        Returns
        -------
        tables : list of dict of str to Tensor
            One table per view.
        """
        tables = [augmentation.draw(n, shape, generator) for augmentation in self.augmentations]
        return [{name: column.to(device) for name, column in t.items()} for t in tables]

    def __call__(self, batch: Tensor, tables: list, index: Tensor) -> tuple[Tensor, ...]:
        """Compute the views of a batch.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) and dtype uint8, or of shape (b, d)
            Stored samples; of shape (2 b, ...) if the second half is for the views from the second
            on.

        tables : list of dict of str to Tensor
            Parameters from `draw`.

        index : Tensor of shape (b,)
            Indices of the samples.

        Returns
        -------
        views : tuple of Tensor
            Each of shape (b, c, height, width) in channels-last memory format, or (b, d).
        """
        sources = batch.split(len(index)) if len(index) else (batch,)
        return tuple(
            _channels_last(augmentation(sources[min(i, len(sources) - 1)], table, index, self.size))
            for i, (augmentation, table) in enumerate(zip(self.augmentations, tables, strict=True))
        )

    def plain(self, batch: Tensor, index: Tensor) -> Tensor:
        """Compute the plain view of a batch, without random transformations.

        Parameters
        ----------
        batch : Tensor of shape (b, h, w, c) and dtype uint8, or of shape (b, d)
            Stored samples.

        index : Tensor of shape (b,)
            Not used.

        Returns
        -------
        view : Tensor of shape (b, c, height, width) or (b, d)
            See `plain_view`.
        """
        return _channels_last(plain_view(batch, self.size))


def _channels_last(view):
    """Convert images to the channels-last memory format; leave vectors unchanged."""
    return view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view


def _natural(strength=0.5, blur=0.0):
    """The augmentation of Contrastive Clustering, by strength of the colour jitter."""
    return ImageAugmentation(
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grayscale=0.2,
        blur=blur,
    )


AUGMENTATIONS = {
    # Natural colour images, as in Contrastive Clustering: three strengths of jitter and blur.
    "natural": _natural(),
    "natural-strong": _natural(1.0),
    "natural-strong-blur": _natural(1.0, blur=0.5),
    # With crops of at least a fifth of the image, of which the class can be told sooner.
    "natural-wide": replace(_natural(), scale=(0.2, 1.0)),
    # As in MoCo: weaker crops; colour jitter is always applied, with a larger range of hues.
    "natural-moco": ImageAugmentation(
        scale=(0.2, 1.0),
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.4,
        jitter=1.0,
        grayscale=0.2,
    ),
    # Gray images such as digits and letters, where a mirrored shape is a different one.
    "gray": ImageAugmentation(
        scale=(0.5, 1.0), flip=0.0, rotation=15.0, shear=10.0, brightness=0.6, contrast=0.6
    ),
    "vector": VectorAugmentation(),
    "none": NoAugmentation(),
}
