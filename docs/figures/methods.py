"""The picture of docs/results: accuracy against seconds, a point per method.

``python docs/figures/methods.py`` writes ``methods.png`` beside this file. Of each method the row
with the fewest settings other than the read-out is drawn: its own read-out, and the default one.
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from skcc.experiments import records
from skcc.experiments.classical import CLASSICAL

HERE = Path(__file__).parent
SETS = {
    "digits": "digits",
    "mnist-mini": "mnist-mini",
    "fashion-mnist-900": "fashion-mnist-900",
    "cifar10": "cifar10, all 60,000, training for ten minutes",
}
GRAY, BLUE, ORANGE = "0.45", "#1f77b4", "#d95f02"
NOTHING, READOUTS = {}, [{"readout": name} for name in ("head", "kmeans")]


def points(path):
    """Mean seconds and accuracy of each row, with its colour."""
    runs = {}
    for record in records.read(path):
        settings = {
            name: value
            for name, value in record["parameters"].items()
            if name not in ("n_clusters", "random_state", *record["varied"])
        }
        if record["study"] == "table" and (settings == NOTHING or settings in READOUTS):
            runs.setdefault((record["row"], settings == NOTHING), []).append(record)
    for (row, is_default), group in runs.items():
        seconds = np.mean(records.whole_seconds(group))
        accuracy = np.mean([record["acc"] for record in group])
        colour = GRAY if row in CLASSICAL else ORANGE if is_default else BLUE
        yield row, seconds, accuracy, colour


def label(ax, drawn):
    """Name the points beside the panel, in the order of their accuracy."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.041
    drawn = sorted(drawn, key=lambda point: point[2])
    heights = np.array([accuracy for _, _, accuracy, _ in drawn])
    for _ in range(500):  # push neighbours apart
        short = np.maximum(gap - np.diff(heights), 0) / 2
        heights[:-1] -= short
        heights[1:] += short
        heights = heights.clip(low + gap / 2, high - gap / 2)
    for (row, seconds, accuracy, colour), height in zip(drawn, heights, strict=True):
        ax.annotate(
            row, (seconds, accuracy), xytext=(1.03, height), textcoords=("axes fraction", "data"),
            fontsize=7.5, color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.6},
        )  # fmt: skip


def main():
    """Draw a panel per data set."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 9.6), layout="constrained")
    for ax, (name, title) in zip(axes.flat, SETS.items(), strict=True):
        drawn = list(points(HERE.parent / "results" / f"{name}.jsonl"))
        for _, seconds, accuracy, colour in drawn:
            ax.plot(seconds, accuracy, "o", color=colour, markersize=4)
        ax.set(xscale="log", title=title, xlabel="seconds, one thread")
        if name == "cifar10":
            ax.set(xlim=(100, 1000), xlabel="seconds, two threads (gray: one)")
            ax.xaxis.set_minor_formatter("")
        ax.grid(alpha=0.3)
        label(ax, drawn)
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy, mean over seeds")
    for colour, text in ((GRAY, "classical"), (BLUE, "own read-out"), (ORANGE, "default read-out")):
        axes[0, 0].plot([], [], "o", color=colour, label=text)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(HERE / "methods.png", dpi=72)


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
