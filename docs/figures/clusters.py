"""The picture of the README: scans of digits by cluster, of k-means and of skcc.

``python docs/figures/clusters.py`` writes ``clusters.png`` beside this file. Members are drawn at
random; a red frame marks those whose class is not the one that their cluster is matched with.
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import contingency_matrix

from skcc import ContrastiveClustering
from skcc.datasets import load_digits

SHOWN, CELL = 18, 10  # images of a cluster; pixels of one, with its frame
RED, WHITE = (214, 39, 40), (255, 255, 255)


def rows_of(images, classes, labels):
    """Draw a row per cluster, in the order of the classes; also return the accuracy."""
    table = contingency_matrix(classes, labels)
    matched = linear_sum_assignment(table, maximize=True)[1]
    rng = np.random.default_rng(0)
    canvas = np.full((10 * (CELL + 1), SHOWN * (CELL + 1), 3), 255, dtype=np.uint8)
    for row, cluster in enumerate(matched):
        members = rng.permutation(np.flatnonzero(labels == cluster))[:SHOWN]
        for column, i in enumerate(members):
            cell = canvas[row * (CELL + 1) :, column * (CELL + 1) :][:CELL, :CELL]
            cell[:] = WHITE if classes[i] == row else RED
            cell[1:-1, 1:-1] = images[i, :, :, None]
    return canvas, table[np.arange(10), matched].sum() / len(classes)


def main():
    """Cluster the digits, and draw the clusters."""
    digits = load_digits()
    images, classes = digits.images, digits.target
    flat = images.reshape(len(images), -1)
    labels_of = {
        "k-means of the pixels": KMeans(10, n_init=10, random_state=0).fit_predict(flat),
        "skcc, ContrastiveClustering": ContrastiveClustering(10, random_state=0).fit_predict(
            images
        ),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.75), layout="constrained")
    for ax, (name, labels) in zip(axes, labels_of.items(), strict=True):
        canvas, accuracy = rows_of(images, classes, labels)
        ax.imshow(np.kron(canvas, np.ones((6, 6, 1), np.uint8)))
        ax.set_title(f"{name}: {accuracy:.1%} right", fontsize=11)
        ax.axis("off")
    figure.set_dpi(120)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(pixels.copy()).quantize(64)  # a palette, for a small file
    picture.save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
