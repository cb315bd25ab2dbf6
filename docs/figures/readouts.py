"""The picture of what read-outs make of the same features, from the records in docs/results.

``python docs/figures/readouts.py`` writes ``readouts.png`` beside this file. A method is drawn if
its records of the default settings, but for the read-out and for epochs that a time budget gave,
have a score by nearest neighbours and one by another read-out.
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from skcc.experiments import records

HERE = Path(__file__).parent
SETS = ("digits", "mnist-mini", "fashion-mnist-900", "cifar10")
STYLES = {  # in the order of the legend
    "head": ("own head", "#1f77b4", "o"),
    "kmeans": ("k-means of the features", "0.45", "s"),
    "auto": ("nearest neighbours (the default)", "#d95f02", "D"),
}


def scores_by_readout(record):
    """Accuracy by each read-out that was used on the features of a run."""
    used = record["parameters"].get("readout", "auto")
    scores = {readout: record.get(readout) for readout in records.OTHER_READOUTS} | {used: record}
    return {readout: values["acc"] for readout, values in scores.items() if values}


def accuracies(path):
    """Mean accuracy of each method by each read-out, and the number of seeds."""
    by_row = {}
    for record in records.read(path):
        hidden = {"n_clusters", "random_state", "readout", *record["varied"]}
        if record["study"] == "table" and set(record["parameters"]) <= hidden:
            scores = scores_by_readout(record)
            if "auto" in scores and len(scores) > 1:
                by_row.setdefault(record["row"], []).append(scores)
    for row, seeds in by_row.items():
        yield (
            row,
            len(seeds),
            {
                readout: np.mean([scores[readout] for scores in seeds])
                for readout in STYLES
                if all(readout in scores for scores in seeds)
            },
        )


def main():
    """Draw a panel per data set, a line per method."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.4), layout="constrained")
    for ax, name in zip(axes.flat, SETS, strict=True):
        drawn = sorted(
            accuracies(HERE.parent / "results" / f"{name}.jsonl"), key=lambda row: row[2]["auto"]
        )
        for height, (_, _, means) in enumerate(drawn):
            ax.plot([min(means.values()), max(means.values())], [height] * 2, color="0.85", lw=2)
            for readout, accuracy in means.items():
                _, colour, marker = STYLES[readout]
                ax.plot(accuracy, height, marker, color=colour, markersize=5)
        ax.set_yticks(range(len(drawn)), [f"{row} ({n})" for row, n, _ in drawn])
        ax.set(title=name, xlabel="mean accuracy")
        ax.grid(alpha=0.3, axis="x")
    for text, colour, marker in STYLES.values():
        axes[0, 0].plot([], [], marker, color=colour, label=text, linestyle="")
    figure.legend(loc="outside lower center", ncols=len(STYLES), fontsize=9)
    figure.savefig(HERE / "readouts.png", dpi=100)


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
