"""
Several processes, with torchrun
================================

On one machine with two GPUs, or two processes of a CPU:

.. code-block:: sh

    torchrun --nproc-per-node 2 examples/torchrun.py

``python examples/torchrun.py`` does the same in one process.
"""

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.distributed import is_rank_zero
from skcc.metrics import clustering_accuracy

# %%
# Every process runs the whole script. Each gives ``fit`` all images and the same parameters, also
# the same ``random_state``, and computes its part of each batch.
digits = load_digits()
model = ContrastiveClustering(n_clusters=10, max_epochs=24, random_state=0, verbose=1)
labels = model.fit_predict(digits.images)

# %%
# The results are the same in every process, so one process is enough to print and to write. Calls
# in which all processes take part, such as ``predict``, must be outside the condition.
clusters = model.predict(digits.images[:5])
if is_rank_zero():
    print(f"accuracy {clustering_accuracy(digits.target, labels):.3f}")
    print(f"clusters of the first five images: {clusters}")
    model.save("digits.safetensors")
