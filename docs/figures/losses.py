"""Draw figures/losses.svg: the terms of the loss on digits, with good views and without any."""

from math import e, exp, log
from pathlib import Path

import matplotlib.pyplot as plt

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.metrics import clustering_accuracy

digits = load_digits()
n, k = 256, 10
bounds_of = {  # all alike; optimum
    "instance": (log(2 * n - 1), log(1 + (2 * n - 2) * exp(-2))),
    "cluster": (log(2 * k - 1), log(1 + (2 * k - 2) / e)),
    "entropy": (2 * log(k), 0),
}
plt.rcParams["svg.hashsalt"] = "skcc"  # the same file every time
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for augment, colour in (("gray", "C0"), ("none", "C1")):
    model = ContrastiveClustering(k, augment=augment, random_state=0).fit(digits.images)
    accuracy = clustering_accuracy(digits.target, model.labels_)
    label = f'augment="{augment}": ACC {accuracy:.2f}'
    for axis, (term, bounds) in zip(axes, bounds_of.items(), strict=True):
        epochs = range(1, model.n_iter_ + 1)
        axis.plot(epochs, [terms[term] for terms in model.history_], colour, label=label)
        axis.set(title=term, xlabel="epoch")
        for bound in bounds:
            axis.axhline(bound, color="0.5", linestyle=":")
axes[0].set_ylabel("nats")
axes[2].legend(loc="center right", fontsize="small")
figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
