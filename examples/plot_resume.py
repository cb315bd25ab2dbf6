"""
Stop and resume
===============

With ``checkpoint_dir``, training that was stopped resumes from the last epoch, and the result is
the same as without the stop.
"""

import tempfile
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.plotting import TrainingCurveDisplay

images = load_digits().images[:600]

# %%
# A run in parts
# --------------
# Training stops for many reasons: Ctrl-C, a power failure, the time limit of a job.
# ``max_seconds`` ends it after the last epoch that fits into the time. The same call resumes from
# the folder.
#
# After few epochs some clusters may still be empty. ``fit`` warns about that; it is expected here.
warnings.simplefilter("ignore", ConvergenceWarning)
folder = tempfile.mkdtemp()
in_parts = ContrastiveClustering(
    n_clusters=10, max_epochs=24, random_state=0, max_seconds=3, checkpoint_dir=folder
)
pauses = [0]
while pauses[-1] < 24:
    in_parts.fit(images)
    pauses.append(in_parts.n_iter_)
print("epochs at the end of each part:", pauses[1:])

# %%
# A run in one go
# ---------------
at_once = ContrastiveClustering(n_clusters=10, max_epochs=24, random_state=0).fit(images)
print("same clusters:", np.array_equal(in_parts.labels_, at_once.labels_))
print("same weights:", all(np.array_equal(at_once.weights_[name], weights)
                           for name, weights in in_parts.weights_.items()))  # fmt: skip

# %%
# The curves are the same; the gray lines are the pauses.
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained", sharey=True)
for ax, model, name in [(axes[0], at_once, "in one go"), (axes[1], in_parts, "in parts")]:
    TrainingCurveDisplay.from_estimator(model, ax=ax)
    ax.set_title(name)
for pause in pauses[1:-1]:
    axes[1].axvline(pause + 0.5, color="0.7", zorder=0)
plt.show()

# %%
# A finished run is loaded, not repeated. A folder belongs to one run: with other data or
# parameters ``fit`` raises an error that names the differences. On the command line it is
# ``skcc fit ... --resume``.
in_parts.fit(images)
try:
    in_parts.set_params(n_clusters=8).fit(images)
except ValueError as error:
    print(error)
