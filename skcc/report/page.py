"""The page about a clustering: one HTML file that needs nothing else, and no network.

Everything that is shown was counted or decoded here; the page only draws it (`page/`). Whatever
comes from the user is escaped, scripts and styles are allowed by their hashes alone, and the
number and bytes of thumbnails are bounded, however many images there are.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, features
from sklearn.utils import check_random_state

from skcc import data
from skcc._version import __version__
from skcc.atomic import atomic_write
from skcc.metrics import clustering_scores, matched_confusion
from skcc.plotting import curves_of, densest, embed_in_plane

TYPICAL, UNCERTAIN, IN_ROWS = 12, 6, 900  # images of a cluster, and of all clusters together
ON_MAP = 1500
ROW_SIDE, MAP_SIDE, SMALL = 192, 112, 64  # pixels; small ones are kept as they are
THUMBNAIL_BYTES = 13_000_000  # of all thumbnails, as text
# Of the first clusters, with what is added to their lightness; further ones go by the golden angle,
# so that neighbours in number always differ.
HUES = (
    *((257, 0.0), (40, 0.03), (160, 0.0), (310, 0.0), (80, 0.06)),
    *((215, 0.05), (355, 0.02), (130, -0.02), (285, -0.12), (20, -0.15)),
)
LARGEST_TABLE, LONGEST_LIST, MOST_EPOCHS = 60, 200, 400


@dataclass(frozen=True)
class Clustering:
    """What the page is about.

    Parameters
    ----------
    files : sequence of Path
        The images.

    names : sequence of str
        What to call them.

    labels : ndarray of shape (n,)
        Cluster of each; -1 is none.

    probabilities : ndarray of shape (n,)
        Of those clusters; NaN where there is none.

    classes : sequence of str or None, default=None
        True class of each, if they are known.

    invalid : sequence of (str, str), default=()
        Names of images that could not be read, and why.
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
        """ACC, NMI and ARI against the classes; None without them.

        Returns
        -------
        scores : dict of str to float or None
            Of the images that have a cluster.
        """
        if self.classes is None or not len(self.valid):
            return clustering_scores(None, self.labels)
        return clustering_scores(np.asarray(self.classes)[self.valid], self.labels[self.valid])


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
    """Write the page; a file that is there already is replaced at once.

    Parameters
    ----------
    path : str or Path
        The file.

    estimator : BaseDeepClusterer
        Fitted on images; gives the features of the map and the history.

    clustering : Clustering
        The images and their clusters.

    title : str
        What the images are called together.

    facts : mapping of str to mapping of str to object
        Tables of names and values, by their headings, such as settings and versions.

    command : str, default=""
        The command that made it.

    n_jobs : int, default=None
        Threads that decode thumbnails.

    Raises
    ------
    ValueError
        If the estimator was fitted on vectors.
    """
    if estimator.image_shape_ is None:
        raise ValueError("the page shows images; the estimator was fitted on vectors")
    k = estimator.n_clusters
    rows, on_map = _in_rows(clustering, k), _on_map(clustering)
    pictures = _Pictures(clustering.files, estimator.image_shape_, n_jobs)
    in_rows = sorted({index for both in rows for part in both for index in part})
    row_images, map_images = pictures.within_budget((in_rows, ROW_SIDE), (on_map, MAP_SIDE))
    positions = _positions(estimator, [clustering.files[i] for i in on_map])
    points = _points(clustering, on_map, positions, map_images)
    curves = _curves(estimator.history_)
    parts = {
        "map": _map(points, k, len(clustering.valid)),
        "sizes": _sizes(clustering, k),
        "clusters": _clusters(clustering, rows, row_images, k),
        "classes": _classes(clustering),
        "training": _training(curves),
        "invalid": _invalid(clustering.invalid),
        "settings": _settings(facts, command),
        "lead": _lead(clustering, estimator),
        "figures": _figures(clustering, k),
    }
    style = _asset("page.css") + _rules(k, pictures.shape)
    script = _asset("page.js")
    page = Template(_asset("page.html")).substitute(
        parts,
        policy=_policy(style, script),
        style=style,
        script=script,
        data=_json({"points": points["points"], "curves": curves}),
        title=_text(title),
        version=_text(__version__),
        n_clusters=k,
        kind="pixels" if pictures.side <= SMALL else "",
        date=datetime.now(UTC).strftime("%d %B %Y"),
    )
    with atomic_write(Path(path)) as file:
        file.write(page.encode())


# -- what is shown --------------------------------------------------------------------------


def _in_rows(clustering, k):
    """The most typical and the least certain images of each cluster, by index."""
    typical = int(np.clip(IN_ROWS * TYPICAL // ((TYPICAL + UNCERTAIN) * k), 1, TYPICAL))
    uncertain = min(UNCERTAIN, typical // 2)
    rows = []
    for cluster in range(k):
        members = np.flatnonzero(clustering.labels == cluster)
        order = members[np.argsort(-clustering.probabilities[members], kind="stable")]
        least = order[max(typical, len(order) - uncertain) :][::-1]
        rows.append((order[:typical].tolist(), least.tolist()))
    return rows


def _on_map(clustering):
    """Indices of the images on the map: all, or a random part that is always the same."""
    valid = clustering.valid
    if len(valid) > ON_MAP:
        valid = np.sort(check_random_state(0).choice(valid, ON_MAP, replace=False))
    return valid.tolist()


def _positions(estimator, files):
    """Places on a map 1000 wide, as integers, and its height."""
    if not files:
        return np.zeros((0, 2), int), 1000
    plane = embed_in_plane(estimator.transform(files), method="tsne", random_state=0)
    plane = plane - plane.min(axis=0)
    if plane[:, 1].max() > plane[:, 0].max():
        plane = plane[:, ::-1]  # a map is wider than high
    extent = np.maximum(plane.max(axis=0), 1e-9)
    height = int(np.clip(1000 * extent[1] / extent[0], 560, 820))
    places = plane / extent * [1000 - 60, height - 60] + 30
    return np.rint(places).astype(int), height


def _points(clustering, on_map, positions, images):
    places, height = positions
    return {
        "height": height,
        "points": [
            {
                "x": int(x),
                "y": int(y),
                "cluster": int(clustering.labels[index]),
                "p": _probability(clustering.probabilities[index]),
                "name": _clean(clustering.names[index]),
                "image": images[index],
            }
            for index, (x, y) in zip(on_map, places, strict=True)
        ],
    }


def _curves(history):
    """Each term, in so many epochs as a chart can show."""
    curves = []
    for name, (epochs, values) in (curves_of(history) if history else {}).items():
        kept = np.unique(np.linspace(0, len(epochs) - 1, MOST_EPOCHS).round().astype(int))
        values = [float(f"{value:.4g}") for value in values[kept]]
        curves.append({"name": name, "epochs": epochs[kept].tolist(), "values": values})
    return curves


# -- thumbnails -----------------------------------------------------------------------------


class _Pictures:
    """Thumbnails of files, of the shape in which the estimator sees them, but larger."""

    def __init__(self, files, image_shape, n_jobs):
        self.files, self.n_jobs = files, n_jobs
        height, width, self.channels = image_shape
        self.aspect = float(np.clip(width / height, 0.5, 2))
        self.side, self.shape = ROW_SIDE, (ROW_SIDE, ROW_SIDE)

    def within_budget(self, *wanted):
        """For each (indices, side): thumbnails by index; smaller ones if they grow too large."""
        own = self._own_side(wanted[0][0])
        self.side = min(ROW_SIDE, own)
        self.shape = self._shape(self.side)
        pixels = [self._read(indices, min(side, own)) for indices, side in wanted]
        factor = 1.0
        while True:
            images = [{i: _encoded(p, factor) for i, p in part.items()} for part in pixels]
            total = sum(len(uri or "") for part in images for uri in part.values())
            if total <= THUMBNAIL_BYTES:
                return images
            factor *= 0.9 * (THUMBNAIL_BYTES / total) ** 0.5

    def _own_side(self, indices):
        """The median short side of some files."""
        sides = []
        for index in indices[:: max(1, len(indices) // 50)]:
            try:
                with Image.open(self.files[index]) as image:
                    sides.append(min(image.size))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue
        return max(1, int(np.median(sides))) if sides else ROW_SIDE

    def _shape(self, side):
        if self.aspect >= 1:
            return side, round(side * self.aspect)
        return round(side / self.aspect), side

    def _read(self, indices, side):
        known = data.Format((*self._shape(side), self.channels))
        pixels = Parallel(n_jobs=self.n_jobs, backend="threading")(
            delayed(_decoded)(self.files[index], known) for index in indices
        )
        return dict(zip(indices, pixels, strict=True))


def _decoded(file, known):
    """Pixels by the rules of the reader; None if the file is gone."""
    try:
        store, _ = data.read([file], known=known)
        return store.batch(torch.zeros(1, dtype=torch.long))[0].numpy()
    except (OSError, ValueError):
        return None


def _encoded(pixels, factor):
    """A data URI: lossless where it is small, else as WebP or, without that, JPEG."""
    if pixels is None:
        return None
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if factor < 1:
        image = image.resize([max(8, int(side * factor)) for side in image.size])
    kind, how = ("webp", {"quality": 78, "method": 4}) if features.check("webp") else ("jpeg", {})
    if max(image.size) <= SMALL:
        kind, how = "png", {"optimize": True}
    file = io.BytesIO()
    image.save(file, kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


# -- the parts of the page ------------------------------------------------------------------


def _lead(clustering, estimator):
    n, k = len(clustering.labels), estimator.n_clusters
    used = len(np.unique(clustering.labels[clustering.valid]))
    empty = "" if used == k else f", {k - used:,} of them empty"
    found = f"found without labels by {type(estimator).__name__}"
    return _text(f"{n:,} images in {_count(k, 'cluster')}{empty}, {found}.")


def _figures(clustering, k):
    sure = clustering.probabilities[clustering.valid]
    figures = {
        "Images": f"{len(clustering.labels):,}",
        "Clusters": str(k),
        "Mean probability": f"{sure.mean():.2f}" if len(sure) else "none",
    }
    scores = clustering.scores().items()
    figures |= {name.upper(): f"{score:.3f}" for name, score in scores if score is not None}
    if clustering.invalid:
        figures["Not readable"] = f"{len(clustering.invalid):,}"
    return "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in figures.items()
    )


def _map(points, k, n):
    groups = {}
    for point in points["points"]:
        groups.setdefault(point["cluster"], []).append((point["x"], point["y"]))
    size = int(np.clip(240 / max(1, len(points["points"])) ** 0.5, 6, 13))
    dots, labels = [], []
    for cluster, places in sorted(groups.items()):
        circles = "".join(f'<circle cx="{x}" cy="{y}" r="{size}"/>' for x, y in places)
        dots.append(f'<g class="c{cluster}" data-cluster="{cluster}">{circles}</g>')
        x, y = places[densest(places)]
        labels.append(f'<text class="label" x="{x}" y="{y}">{cluster}</text>')
    shown = len(points["points"])
    some = f"A random {shown:,} of {n:,} images by their"
    which = some if shown < n else "Every image by its"
    return (
        "<h3>Map</h3>"
        f'<p class="hint">{which} features; neighbours look alike to '
        "the network. Point, tap, or use arrow keys.</p>"
        '<div id="map" class="map" tabindex="0" role="application" '
        'aria-label="Map of images; arrow keys move from image to image, Enter enlarges">'
        f'<svg viewBox="0 0 1000 {points["height"]}" aria-hidden="true">{"".join(dots)}'
        f"{''.join(labels) if k <= LARGEST_TABLE else ''}"
        f'<circle class="ring" r="{size + 7}"/></svg>'
        '<div id="tip" aria-hidden="true"><img alt=""><p class="name"></p><p class="what"></p>'
        '</div></div><p id="said" class="unseen" aria-live="polite"></p>'
    )


def _sizes(clustering, k):
    counts = np.bincount(clustering.labels[clustering.valid], minlength=k)
    largest = max(1, counts.max())
    rows = []
    for cluster, count in enumerate(counts):
        rows.append(
            f'<tr class="c{cluster}" data-cluster="{cluster}"><th scope="row">'
            f'<a href="#cluster-{cluster}"><span class="chip"></span>{cluster}</a></th>'
            '<td class="bar"><svg viewBox="0 0 100 1" preserveAspectRatio="none" '
            f'aria-hidden="true"><rect width="{100 * count / largest:.1f}" height="1"/></svg></td>'
            f'<td class="number">{count:,}</td>'
            f'<td class="number">{_mean_probability(clustering, cluster)}</td></tr>'
        )
    return (
        '<h3 id="sizes-title">Sizes</h3><div class="sizes" role="region" tabindex="0" '
        'aria-labelledby="sizes-title"><table><thead><tr><th scope="col">Cluster</th><td></td>'
        '<th scope="col" class="number">Images</th><th scope="col" class="number">Mean '
        f"probability</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _mean_probability(clustering, cluster):
    sure = clustering.probabilities[clustering.labels == cluster]
    return f"{sure.mean():.2f}" if len(sure) else "&#8211;"


def _clusters(clustering, rows, images, k):
    cards = []
    for cluster, (typical, uncertain) in enumerate(rows):
        count = int(np.count_nonzero(clustering.labels == cluster))
        share = 100 * count / max(1, len(clustering.valid))
        words = f"{_count(count, 'image')}, {share:.1f}&#8239;%"
        if count:
            words += f", mean probability {_mean_probability(clustering, cluster)}"
        strips = [
            _strip(clustering, title, kind, part, images)
            for title, kind, part in (
                ("Most typical", "typical", typical),
                ("Least certain", "uncertain", uncertain),
            )
            if part
        ]
        kind = "rows both" if len(strips) == 2 else "rows"
        shown = f'<div class="{kind}">{"".join(strips)}</div>' if strips else ""
        cards.append(
            f'<article class="cluster c{cluster}" id="cluster-{cluster}" '
            f'aria-labelledby="name-{cluster}"><header><h3 id="name-{cluster}">'
            f'<span class="chip"></span>Cluster {cluster}</h3><p>{words}</p></header>'
            f"{shown}</article>"
        )
    return "\n".join(cards)


def _strip(clustering, title, kind, indices, images):
    thumbs = []
    for index in indices:
        name = _text(clustering.names[index])
        p = _probability(clustering.probabilities[index])
        picture = (
            f'<img src="{images[index]}" alt="{name}" width="96" height="96" decoding="async">'
            if images[index]
            else '<span class="gone">no longer there</span>'
        )
        below = f'<span class="p">{p}</span>' if kind == "uncertain" else ""
        thumbs.append(
            f'<button type="button" class="thumb" title="{name}" data-name="{name}" '
            f'data-cluster="{clustering.labels[index]}" data-p="{p}">{picture}{below}</button>'
        )
    return (
        f'<div class="{kind}"><h4>{title}</h4><div class="strip" role="group" '
        f'aria-label="{title}">{"".join(thumbs)}</div></div>'
    )


def _classes(clustering):
    if clustering.classes is None or not len(clustering.valid):
        return ""
    classes = np.asarray(clustering.classes)[clustering.valid]
    table, names, clusters = matched_confusion(classes, clustering.labels[clustering.valid])
    intro = (
        '<section aria-labelledby="classes-title"><h2 id="classes-title">Classes</h2>'
        '<p class="hint">Rows are sub-folders, columns clusters; each cluster stands below the '
        "class that it is matched with, and a darker cell is a larger share of its row.</p>"
    )
    if max(table.shape) > LARGEST_TABLE:
        rows, columns = table.shape
        return f"{intro}<p>A table of {rows:,} by {columns:,} is too large to show.</p></section>"
    head = "".join(f'<th scope="col">{cluster}</th>' for cluster in clusters)
    body = []
    for row, (name, counts) in enumerate(zip(names, table, strict=True)):
        cells = []
        for column, count in enumerate(counts):
            share = round(20 * count / counts.sum())
            kinds = f"s{share}{' match' if row == column else ''}{'' if count else ' none'}"
            cells.append(f'<td class="{kinds}">{count:,}</td>')
        body.append(f'<tr><th scope="row">{_text(name)}</th>{"".join(cells)}</tr>')
    return (
        f'{intro}<div class="scroll" role="region" tabindex="0" aria-labelledby="classes-title">'
        f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _training(curves):
    if not curves:
        return ""
    charts = []
    for curve in curves:
        epochs, values = np.array(curve["epochs"]), np.array(curve["values"])
        low, high = values.min(), values.max()
        x = 100 * (epochs - epochs[0]) / max(1, epochs[-1] - epochs[0])
        y = 100 * (high - values) / (high - low) if high > low else np.full(len(x), 50.0)
        places = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        name = _text(curve["name"])
        charts.append(
            f'<figure class="curve panel"><figcaption><b>{name}</b>'
            f'<output aria-live="polite">{values[0]:.4g} to {values[-1]:.4g}</output></figcaption>'
            f'<div class="plot" tabindex="0" role="application" aria-label="{name}: from '
            f"{values[0]:.4g} to {values[-1]:.4g} in {epochs[-1]} epochs; arrow keys read single "
            'epochs"><svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
            '<line x1="0" x2="100" y1="0" y2="0"/><line x1="0" x2="100" y1="100" y2="100"/>'
            f'<polyline points="{places}"/><line class="at" x1="0" x2="0" y1="0" y2="100"/></svg>'
            f'</div><div class="scale"><span>epoch {epochs[0]}</span><span>between {low:.4g} '
            f"and {high:.4g}</span><span>{epochs[-1]}</span></div></figure>"
        )
    return (
        '<section aria-labelledby="training-title"><h2 id="training-title">Training</h2>'
        '<p class="hint">Terms of the loss, each on a scale of its own; the sum of all is what '
        f'training lowers.</p><div class="curves">{"".join(charts)}</div></section>'
    )


def _invalid(invalid):
    if not invalid:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(reason)}</td></tr>'
        for name, reason in invalid[:LONGEST_LIST]
    )
    more = len(invalid) - LONGEST_LIST
    rest = f'<p class="hint">And {more:,} more.</p>' if more > 0 else ""
    return (
        '<section aria-labelledby="unread-title"><h2 id="unread-title">Not readable</h2>'
        f'<p class="hint">{_count(len(invalid), "file")} without a cluster.</p>'
        f'<table class="unread"><tbody>{rows}</tbody></table>{rest}</section>'
    )


def _settings(facts, command):
    tables = []
    for heading, values in facts.items():
        rows = "".join(
            f'<tr><th scope="row">{_text(name)}</th><td>{_text(_shown(value))}</td></tr>'
            for name, value in values.items()
        )
        table = f"<table><tbody>{rows}</tbody></table>"
        tables.append(f'<div class="panel"><h3>{_text(heading)}</h3>{table}</div>')
    shown = f"<pre>{_text(command)}</pre>" if command else ""
    return (
        '<section aria-labelledby="settings-title"><h2 id="settings-title">Settings</h2>'
        f'{shown}<div class="facts">{"".join(tables)}</div></section>'
    )


# -- text, data, style ----------------------------------------------------------------------


def _clean(value):
    """Text that any file can hold: bytes that are no text in a file name are replaced."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _text(value):
    """Text of a page, also inside quotes."""
    return html.escape(_clean(value))


def _shown(value):
    return " x ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _count(n, noun):
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _probability(p):
    """Never 1.00 for what is less than certain."""
    return f"{np.floor(100 * p) / 100:.2f}" if 0.995 <= p < 1 else f"{p:.2f}"


def _json(value):
    """JSON that cannot end the element that it is in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rules(k, shape):
    """Style that depends on the data: colours of clusters, shades of cells, shape of images."""
    height, width = shape
    rules = [f":root{{--aspect:{width}/{height}}}"]
    for cluster in range(k):
        hue, lighter = HUES[cluster] if cluster < len(HUES) else (137.508 * cluster % 360, 0)
        rules.append(
            f".c{cluster}{{--c:oklch(calc(var(--light) + {lighter}) var(--chroma) {hue:.0f})}}"
        )
    rules += [f".s{level}{{--share:{level / 20}}}" for level in range(21)]
    return "".join(rules)


def _policy(style, script):
    """What the browser may do: show images of the page itself, and these very two texts."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _asset(name):
    return resources.files("skcc").joinpath("page", name).read_text(encoding="utf-8")
