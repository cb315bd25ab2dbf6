"""A page about a clustering: one HTML file that loads nothing else, from disk or network.

This file computes what is shown as plain data. The Jinja2 template `page.html` turns it into HTML
and escapes every value. The Content-Security-Policy of the page holds the hashes of its style and
its script, so that browsers apply and run no others. The number of thumbnails is limited.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from sklearn.utils import check_random_state

from skcc import pipelines
from skcc._version import __version__
from skcc.atomic import atomic_write
from skcc.metrics import clustering_scores, matched_confusion
from skcc.plotting import curves_of, densest, embed_in_plane
from skcc.report.thumbnails import SMALL_SIDE, encode_thumbnails

MAX_TYPICAL, MAX_UNCERTAIN = 12, 6  # thumbnails per cluster
MAX_IN_ROWS = 900  # thumbnails of all clusters together
MAX_ON_MAP = 1500
MAX_SEARCHED = 50_000  # images whose names are in the page, for the search and the table of labels
N_NEIGHBORS = 5
MAX_TABLE_SIDE, MAX_LISTED_FILES, MAX_CURVE_POINTS = 60, 200, 400
ROW_SIDE, MAP_SIDE = 192, 112  # short side of thumbnails in pixels
MAP_WIDTH, MAP_MARGIN = 1000, 30  # units of the drawing
# Hue in degrees and change of lightness of the first clusters. The hues of further clusters step by
# the golden angle, so that clusters with neighbouring numbers differ.
HUES = (
    *((257, 0.0), (40, 0.03), (160, 0.0), (310, 0.0), (80, 0.06)),
    *((215, 0.05), (355, 0.02), (130, -0.02), (285, -0.12), (20, -0.15)),
)
GOLDEN_ANGLE = 137.508
FEW_PHOTOS = 20_000  # with less, a network from scratch learns colours rather than things
N_SHADES = 20  # of cells in the table of classes


@dataclass(frozen=True)
class Clustering:
    """Images and their clusters, as the page shows them.

    Parameters
    ----------
    files : sequence of Path
        Image files.

    names : sequence of str
        Name of each image on the page.

    labels : ndarray of shape (n,)
        Cluster of each image; -1 if it has none.

    probabilities : ndarray of shape (n,)
        Probability of that cluster; NaN if there is none.

    classes : sequence of str or None, default=None
        True class of each image, if known.

    invalid : sequence of (str, str), default=()
        Name of each image that could not be read, and the reason.
    """

    files: Sequence[Path]
    names: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: Sequence[str] | None = None
    invalid: Sequence[tuple[str, str]] = field(default=())

    @property
    def valid(self) -> np.ndarray:
        """Indices of the images that have a cluster."""
        return np.flatnonzero(self.labels >= 0)

    def scores(self) -> dict[str, float | None]:
        """Compare the clusters with the true classes.

        Returns
        -------
        scores : dict of str to float or None
            Keys "acc", "nmi" and "ari", of the images that have a cluster; None if the classes are
            not known.
        """
        if self.classes is None or not len(self.valid):
            return clustering_scores(None, self.labels)
        return clustering_scores(np.asarray(self.classes)[self.valid], self.labels[self.valid])


def are_few_photos(settings: Mapping[str, object], n: int) -> bool:
    """Tell whether colour images are too few to learn from scratch what is on them.

    Parameters
    ----------
    settings : mapping of str to object
        Of a run; those of an embedder begin with "embedder__".

    n : int
        Number of images.

    Returns
    -------
    are_few : bool
        False with an embedder, and for gray images.
    """
    has_embedder = any(name.startswith("embedder__") for name in settings)
    has_colour = str(settings.get("augment")).startswith("natural")
    return has_colour and not has_embedder and n < FEW_PHOTOS


def write_page(
    path,
    estimator,
    clustering: Clustering,
    *,
    title: str,
    facts: Mapping[str, Mapping[str, object]],
    command: str = "",
    n_jobs: int | None = None,
) -> None:
    """Write the page about a clustering as one HTML file.

    An existing file is replaced only when the new one is complete.

    Parameters
    ----------
    path : str or Path
        The file to write.

    estimator : BaseDeepClusterer or Pipeline
        Estimator fitted on images, or a pipeline of `ImageEmbedder` and one. Its features or
        embeddings place the images on the map, and its history is drawn.

    clustering : Clustering
        Images and their clusters.

    title : str
        Heading of the page.

    facts : mapping of str to mapping of str to object
        Tables of names and values by heading, such as settings and versions.

    command : str, default=""
        Command line to show with the settings.

    n_jobs : int, default=None
        Number of threads that decode thumbnails.

    Raises
    ------
    ValueError
        If the estimator was fitted on vectors.
    """
    embedder, clusterer = pipelines.parts(estimator)
    image_format = pipelines.image_format(estimator)
    if image_format is None:
        raise ValueError("the page shows images; the estimator was fitted on vectors")
    shape, clusters, points, height = _pictures(
        clustering, embedder or clusterer, clusterer.n_clusters, image_format, n_jobs
    )
    curves = _curves(clusterer.history_)
    page = _render(
        **_summary(clustering, clusterer, embedder),
        title=title,
        map=_map(points, height),
        clusters=clusters,
        confusion=_confusion(clustering),
        charts=[_chart(curve) for curve in curves],
        readout=_readout(clusterer),
        invalid=clustering.invalid,
        tables=_tables(facts),
        command=command,
        data={"points": points, "curves": curves, "files": _files(clustering)},
        small_images=min(shape) <= SMALL_SIDE,
        style=_asset("page.css") + _style_rules(clusterer.n_clusters, shape),
        script=_asset("page.js"),
    )
    with atomic_write(Path(path)) as file:
        file.write(page.encode())


def _pictures(clustering, transformer, n_clusters, image_format, n_jobs):
    """Return the shape of thumbnails, the rows of clusters, the points and height of the map."""
    rows, on_map = _select_for_rows(clustering, n_clusters), _select_for_map(clustering)
    in_rows = sorted({index for strips in rows for strip in strips for index in strip})
    requests = [(in_rows, ROW_SIDE), (on_map, MAP_SIDE)]
    (row_images, map_images), shape = encode_thumbnails(
        clustering.files, image_format, requests, n_jobs=n_jobs
    )
    shown = sorted({*in_rows, *on_map})
    files = [clustering.files[i] for i in shown]
    features = transformer.transform(files) if files else np.zeros((0, 1))
    positions, height = _positions(features[np.searchsorted(shown, on_map)])
    near = _neighbors(features, shown, on_map)
    clusters = _clusters(clustering, rows, row_images, near)
    return shape, clusters, _points(clustering, on_map, positions, map_images, near), height


# -- which images are shown -----------------------------------------------------------------


def _select_for_rows(clustering, n_clusters):
    """Return indices of the most typical and the least certain images of each cluster."""
    per_cluster = MAX_TYPICAL + MAX_UNCERTAIN
    n_typical = MAX_IN_ROWS * MAX_TYPICAL // (per_cluster * n_clusters)
    n_typical = int(np.clip(n_typical, 1, MAX_TYPICAL))
    n_uncertain = min(MAX_UNCERTAIN, n_typical // 2)
    rows = []
    for cluster in range(n_clusters):
        members = np.flatnonzero(clustering.labels == cluster)
        order = members[np.argsort(-clustering.probabilities[members], kind="stable")]
        uncertain = order[max(n_typical, len(order) - n_uncertain) :][::-1]
        rows.append((order[:n_typical].tolist(), uncertain.tolist()))
    return rows


def _select_for_map(clustering):
    """Return indices of all images, or of a random subset that is the same in every call."""
    valid = clustering.valid
    if len(valid) > MAX_ON_MAP:
        valid = np.sort(check_random_state(0).choice(valid, MAX_ON_MAP, replace=False))
    return valid.tolist()


# -- data of the sections -------------------------------------------------------------------


def _summary(clustering, estimator, embedder):
    """Return the leading figures."""
    probabilities = clustering.probabilities[clustering.valid]
    n_used = len(np.unique(clustering.labels[clustering.valid]))
    of_network = f" on embeddings of {embedder.settings_['network']}" if embedder else ""
    return {
        "method": type(estimator).__name__ + of_network,
        "n_valid": len(clustering.valid),
        "n_clusters": estimator.n_clusters,
        "n_empty": estimator.n_clusters - n_used,
        "are_few_photos": embedder is None
        and are_few_photos(estimator.settings_, len(clustering.labels)),
        "mean_probability": _mean(probabilities),
        "scores": {k: score for k, score in clustering.scores().items() if score is not None},
    }


def _neighbors(features, shown, on_map):
    """Return for each shown image the nearest others on the map, as numbers of points there."""
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    candidates = np.searchsorted(shown, on_map)
    similarity = features @ features[candidates].T
    similarity[candidates, np.arange(len(candidates))] = -np.inf  # no image is its own neighbour
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :N_NEIGHBORS]
    found = nearest[:, : max(0, len(on_map) - 1)].tolist()
    return dict(zip(shown, found, strict=True))


def _files(clustering):
    """Return names, clusters and probabilities of all images, for the search and the table."""
    valid = clustering.valid
    if len(valid) > MAX_SEARCHED:
        return None
    return {
        "names": [_valid_unicode(clustering.names[i]) for i in valid],
        "clusters": clustering.labels[valid].tolist(),
        "p": [round(float(p), 6) for p in clustering.probabilities[valid]],
    }


def _readout(estimator):
    """Return the scores of the candidates for the read-out, the best first; None without."""
    scores = getattr(estimator, "readout_scores_", None)
    if not scores:
        return None
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return {
        "scores": ranked,
        "chosen": estimator.settings_["readout"],
        "agreement": estimator.agreement_,
    }


def _positions(features):
    """Return positions of images on the map, rounded to integers, and the height of the map."""
    if not len(features):
        return np.zeros((0, 2), int), MAP_WIDTH
    positions = embed_in_plane(features, method="tsne", random_state=0)
    positions = positions - positions.min(axis=0)
    if positions[:, 1].max() > positions[:, 0].max():
        positions = positions[:, ::-1]  # the map is wider than high
    extent = np.maximum(positions.max(axis=0), 1e-9)
    height = int(np.clip(MAP_WIDTH * extent[1] / extent[0], 560, 820))
    inner = [MAP_WIDTH - 2 * MAP_MARGIN, height - 2 * MAP_MARGIN]
    return np.rint(positions / extent * inner + MAP_MARGIN).astype(int), height


def _points(clustering, indices, positions, images, near):
    """Return what the script shows of the images on the map."""
    return [
        {
            "x": int(x),
            "y": int(y),
            "cluster": int(clustering.labels[index]),
            "p": _probability(clustering.probabilities[index]),
            "name": _valid_unicode(clustering.names[index]),
            "image": images[index],
            "near": near[index],
        }
        for index, (x, y) in zip(indices, positions, strict=True)
    ]


def _map(points, height):
    """Return the dots of the map by cluster, and the position of each cluster's number."""
    groups = {}
    for point in points:
        groups.setdefault(point["cluster"], []).append((point["x"], point["y"]))
    return {
        "width": MAP_WIDTH,
        "height": height,
        "radius": int(np.clip(240 / max(1, len(points)) ** 0.5, 6, 13)),
        "n_points": len(points),
        "groups": [
            {"cluster": cluster, "positions": positions, "label": positions[densest(positions)]}
            for cluster, positions in sorted(groups.items())
        ],
    }


def _clusters(clustering, rows, images, near):
    """Return sizes, mean probabilities and rows of thumbnails of all clusters."""
    sizes = np.bincount(clustering.labels[clustering.valid], minlength=len(rows))
    return [
        {
            "number": number,
            "size": int(size),
            "percent": 100 * size / max(1, sizes.sum()),
            "percent_of_largest": 100 * size / max(1, sizes.max()),
            "mean_probability": _mean(clustering.probabilities[clustering.labels == number]),
            "typical": _thumbnails(clustering, typical, images, near),
            "uncertain": _thumbnails(clustering, uncertain, images, near),
        }
        for number, (size, (typical, uncertain)) in enumerate(zip(sizes, rows, strict=True))
    ]


def _thumbnails(clustering, indices, images, near):
    """Return what is shown of some images in a row."""
    return [
        {
            "name": clustering.names[index],
            "cluster": int(clustering.labels[index]),
            "probability": _probability(clustering.probabilities[index]),
            "image": images[index],
            "near": near[index],
        }
        for index in indices
    ]


def _confusion(clustering):
    """Return the table of classes and clusters, without rows if it is too large to show."""
    if clustering.classes is None or not len(clustering.valid):
        return None
    classes = np.asarray(clustering.classes)[clustering.valid]
    table, names, clusters = matched_confusion(classes, clustering.labels[clustering.valid])
    shape = dict(zip(("n_classes", "n_clusters"), table.shape, strict=True))
    if max(table.shape) > MAX_TABLE_SIDE:
        return {**shape, "rows": None}
    rows = []
    for row, (name, counts) in enumerate(zip(names, table, strict=True)):
        shades = [round(N_SHADES * count / counts.sum()) for count in counts]
        cells = [
            {"n": int(count), "shade": shade, "matched": row == column}
            for column, (count, shade) in enumerate(zip(counts, shades, strict=True))
        ]
        rows.append({"name": name, "cells": cells})
    return {**shape, "clusters": clusters.tolist(), "rows": rows}


def _curves(history):
    """Return the values of each loss term, at no more epochs than a chart can show."""
    curves = []
    for name, (epochs, values) in (curves_of(history) if history else {}).items():
        kept = np.linspace(0, len(epochs) - 1, MAX_CURVE_POINTS).round().astype(int)
        kept = np.unique(kept)
        rounded = [float(f"{value:.4g}") for value in values[kept]]
        curves.append({"name": name, "epochs": epochs[kept].tolist(), "values": rounded})
    return curves


def _chart(curve):
    """Return a curve as points in a square of side 100, with the numbers of its caption."""
    epochs, values = np.array(curve["epochs"]), np.array(curve["values"])
    low, high = values.min(), values.max()
    x = 100 * (epochs - epochs[0]) / max(1, epochs[-1] - epochs[0])
    y = 100 * (high - values) / (high - low) if high > low else np.full(len(x), 50.0)
    return {
        "name": curve["name"],
        "points": list(zip(x, y, strict=True)),
        "first_epoch": epochs[0],
        "last_epoch": epochs[-1],
        "first_value": values[0],
        "last_value": values[-1],
        "low": low,
        "high": high,
    }


def _tables(facts):
    """Return headings with rows of name and value; sequences such as shapes become "3 x 4"."""

    def shown(value):
        return " x ".join(map(str, value)) if isinstance(value, (list, tuple)) else value

    return [
        {"heading": heading, "rows": [(name, shown(value)) for name, value in table.items()]}
        for heading, table in facts.items()
    ]


def _mean(probabilities):
    """Return the mean; None of nothing."""
    return float(probabilities.mean()) if len(probabilities) else None


def _probability(p):
    """Format a probability with two decimals; 1.00 only if it is at least 1."""
    return f"{np.floor(100 * p) / 100:.2f}" if 0.995 <= p < 1 else f"{p:.2f}"


# -- HTML -----------------------------------------------------------------------------------


def _render(*, style, script, **content):
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skcc.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    # `tojson` escapes <, >, & and ', so that no name can end the script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html").render(
        content,
        style=style,
        script=script,
        policy=_content_security_policy(style, script),
        version=__version__,
        date=datetime.now(UTC).strftime("%d %B %Y"),
        max_table_side=MAX_TABLE_SIDE,
        max_listed_files=MAX_LISTED_FILES,
    )


def _printable(value):
    """Return the text that Jinja2 escapes; markup, such as of a macro, stays as it is."""
    return value if hasattr(value, "__html__") else _valid_unicode(value)


def _valid_unicode(value):
    """Replace bytes of a file name that are not UTF-8 by U+FFFD."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _content_security_policy(style, script):
    """Return the policy: images embedded in the page, this style and this script, nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def _style_rules(n_clusters, shape):
    """Return CSS for the shape of thumbnails, colours of clusters and shades of table cells."""
    height, width = shape
    rules = [f":root{{--aspect:{width}/{height}}}"]
    for cluster in range(n_clusters):
        known = cluster < len(HUES)
        hue, lighter = HUES[cluster] if known else (GOLDEN_ANGLE * cluster % 360, 0)
        colour = f"oklch(calc(var(--light) + {lighter}) var(--chroma) {hue:.0f})"
        rules.append(f".c{cluster}{{--c:{colour}}}")
    rules += [f".s{shade}{{--share:{shade / N_SHADES}}}" for shade in range(N_SHADES + 1)]
    return "".join(rules)


def _asset(name):
    """Return the text of a file of this package."""
    return resources.files("skcc.report").joinpath(name).read_text(encoding="utf-8")
