"""Thumbnails of image files, encoded as data URIs that together stay within a size limit."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, features

from skcc import data

SMALL_SIDE = 64  # pixels; thumbnails up to this size are stored without loss
MAX_TOTAL_CHARACTERS = 13_000_000


def encode_thumbnails(
    files: Sequence[Path],
    image_format: data.Format,
    requests: Sequence[tuple[Sequence[int], int]],
    *,
    n_jobs: int | None = None,
) -> tuple[list[dict[int, str | None]], tuple[int, int]]:
    """Encode thumbnails of image files as data URIs.

    Thumbnails have the channels and, between 1:2 and 2:1, the aspect ratio of the images that the
    estimator sees. They are not enlarged beyond the typical size of the files. If all of them
    together take more than `MAX_TOTAL_CHARACTERS`, all are scaled down until they fit.
    """
    max_side = _typical_short_side([files[index] for index in requests[0][0]])
    shapes = [_shape(image_format.shape, min(side, max_side)) for _, side in requests]
    channels = image_format.shape[2]
    pixels = [
        _decode_all(
            files, indices, dataclasses.replace(image_format, shape=(*shape, channels)), n_jobs
        )
        for (indices, _), shape in zip(requests, shapes, strict=True)
    ]
    return _encode_within_limit(pixels), shapes[0]


def _typical_short_side(files):
    """Return the median of the short sides of at most about 50 files, in pixels."""
    sides = []
    for file in files[:: max(1, len(files) // 50)]:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return max(1, int(np.median(sides))) if sides else np.inf


def _shape(image_shape, short_side):
    """Return height and width of thumbnails with a given short side."""
    aspect = float(np.clip(image_shape[1] / image_shape[0], 0.5, 2))
    if aspect >= 1:
        return short_side, round(short_side * aspect)
    return round(short_side / aspect), short_side


def _decode_all(files, indices, image_format, n_jobs):
    """Decode files in threads; return the pixels of each index."""
    pixels = Parallel(n_jobs=n_jobs, backend="threading")(
        delayed(_decode)(files[index], image_format) for index in indices
    )
    return dict(zip(indices, pixels, strict=True))


def _decode(file, image_format):
    """Return the pixels of a file as `data.read` decodes them; None if it cannot be read."""
    try:
        store, _ = data.read([file], known=image_format)
        return store.batch(torch.zeros(1, dtype=torch.long))[0].numpy()
    except (OSError, ValueError):
        return None


def _encode_within_limit(pixels):
    """Encode all images, scaled down as far as the limit requires."""
    scale = 1.0
    while True:
        thumbnails = [{i: _encode(p, scale) for i, p in part.items()} for part in pixels]
        total = sum(len(uri or "") for part in thumbnails for uri in part.values())
        if total <= MAX_TOTAL_CHARACTERS:
            return thumbnails
        # Bytes per pixel rise as images shrink; the factor 0.9 allows for that.
        scale *= 0.9 * (MAX_TOTAL_CHARACTERS / total) ** 0.5


def _encode(pixels, scale):
    """Return a data URI: PNG for small images, otherwise WebP, or JPEG where WebP is missing."""
    if pixels is None:
        return None
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if scale < 1:
        image = image.resize([max(8, int(side * scale)) for side in image.size])
    if max(image.size) <= SMALL_SIDE:
        kind, options = "png", {"optimize": True}
    elif features.check("webp"):
        kind, options = "webp", {"quality": 78, "method": 4}
    else:
        kind, options = "jpeg", {}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
