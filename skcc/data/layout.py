"""Which axes of an array of images are height, width and channels."""

from collections.abc import Sequence

_FEW_CHANNELS = 4  # an axis of at most this length is taken for the channels
_MAX_PROPORTION = 4  # of height and width of what is taken for one image


def channel_axis(
    shape: Sequence[int],
    image_shape: Sequence[int] | None = None,
    known: tuple[int, ...] | None = None,
    any_size: bool = False,
) -> int | None:
    """Find the channels of images.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array, ``(n, height, width)``, ``(n, height, width, channels)`` or
        ``(n, channels, height, width)``.

    image_shape : sequence of int, default=None
        ``(height, width)`` or ``(height, width, channels)``, if the user gave it.

    known : tuple of int, default=None
        Height, width and channels after `fit`; `image_shape` is ignored then.

    any_size : bool, default=False
        Whether images may have another size than `known`.

    Returns
    -------
    axis : {-1, 1, None}
        Axis of the channels; None if there is none.

    Raises
    ------
    ValueError
        If the axes cannot be told from each other, if the images have another shape than
        `image_shape`, or if the array is one image.
    """
    shape = tuple(shape)
    if known is None and image_shape is not None:
        return _axis_by_shape(shape, tuple(image_shape))
    if len(shape) == 3:
        _check_is_batch(shape, known, any_size)
        return None
    axis = _likely_axis(shape[1:])
    if known is not None:
        options = {-1: shape[1:], 1: (*shape[2:], shape[1])}
        same_shape = [a for a, option in options.items() if option == known]
        same_channels = [a for a, option in options.items() if option[2] == known[2]]
        if same_shape or len(same_channels) == 1:
            return (same_shape or same_channels)[0]
        if not any_size:
            return axis or -1  # the shapes differ, which is an error in any case
    if axis is None:
        raise ValueError(_cannot_tell(shape))
    return axis


def image_shape_of_rows(image_shape: Sequence[int], n_features: int) -> tuple[int, int, int]:
    """Complete the shape of images that come as rows of a table.

    Parameters
    ----------
    image_shape : sequence of int
        ``(height, width)`` or ``(height, width, channels)``.

    n_features : int
        Length of the rows.

    Returns
    -------
    shape : tuple of (int, int, int)
        Height, width and channels.

    Raises
    ------
    ValueError
        If `image_shape` begins with the channels.
    """
    shape = tuple(int(side) for side in image_shape)
    if len(shape) == 3:
        check_channels_last(shape)
        return shape
    channels, rest = divmod(n_features, shape[0] * shape[1])
    return (*shape, 1 if rest else max(1, channels))


def check_channels_last(image_shape: Sequence[int]) -> None:
    """Check that a shape does not look like torch's order.

    Parameters
    ----------
    image_shape : sequence of int
        ``(height, width)`` or ``(height, width, channels)``, as the user gave it.

    Raises
    ------
    ValueError
        If the first entry looks like the number of channels.
    """
    if len(image_shape) != 3 or _likely_axis(tuple(image_shape)) != 1:
        return
    c, h, w = image_shape
    raise ValueError(
        f"image_shape must be (height, width, channels); got {tuple(image_shape)}, which looks "
        f"like (channels, height, width). Give ({h}, {w}, {c}); rows in torch's order have to "
        f"become X.reshape(-1, {c}, {h}, {w})"
    )


def _axis_by_shape(shape, image_shape):
    """Find the channels by the shape that the user gave."""
    check_channels_last(image_shape)
    n = len(image_shape)
    options = {None: (*shape[1:], 1)}
    if len(shape) == 4:
        options = {-1: shape[1:], 1: (*shape[2:], shape[1])}
    axes = [axis for axis, option in options.items() if option[:n] == image_shape]
    if len(axes) == 2 and n == 2 and shape[1] != 1:
        raise ValueError(_cannot_tell(shape))
    if axes:
        return axes[0]
    if shape[-n:] == image_shape == shape:
        raise ValueError(_one_image(shape))
    raise ValueError(
        f"image_shape is {image_shape}, but X of shape {shape} holds images of shape {shape[1:]}"
    )


def _likely_axis(shape):
    """Tell where the channels of one image of three axes are; None if two readings are likely."""
    a, b, c = shape
    if a == b == c:
        return -1 if a == 1 else None
    if a == b:  # two equal axes are height and width
        return -1
    if b == c:
        return 1
    few = [side <= _FEW_CHANNELS for side in shape]
    return {(False, False, True): -1, (True, False, False): 1}.get(tuple(few))


def _cannot_tell(shape):
    return (
        f"cannot tell which axis of images of shape {shape[1:]} holds the channels; give "
        "image_shape=(height, width, channels)"
    )


def _check_is_batch(shape, known, any_size):
    """Raise an error if three axes are those of one colour image."""
    n, height, width = shape
    if known is not None:
        if known[2] == 1 and (any_size or known == (height, width, 1)):
            return
        is_one = shape == known or (shape[1:] == known[:2] and n == known[2])
        is_one = is_one or (any_size and (n == 3 or width in (3, 4)))
    else:
        is_one = width in (3, 4) and min(n, height) > 4
        is_one = is_one and max(n, height) <= _MAX_PROPORTION * min(n, height)
    if is_one:
        raise ValueError(_one_image(shape, known))


def _one_image(shape, known=None):
    other = f"; for {shape[0]} gray images give image_shape={shape[1:]}" if known is None else ""
    return f"X has the shape of one image, {shape}; wanted a batch of images: X[None]{other}"
