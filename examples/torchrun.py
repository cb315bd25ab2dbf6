"""
Several processes, with torchrun
================================

On one machine with two GPUs, or two processes of a CPU:

.. code-block:: sh

    torchrun --nproc-per-node 2 examples/torchrun.py

``python examples/torchrun.py`` does the same alone.
"""

from skcc import ContrastiveClustering
from skcc.datasets import load_digits
from skcc.distributed import is_first
from skcc.metrics import clustering_accuracy

# %%
# Every process runs the whole script. Each gives ``fit`` all of the images and the same
# parameters, also the same ``random_state``; of each batch it then trains on its share.
digits = load_digits()
model = ContrastiveClustering(n_clusters=10, max_epochs=24, random_state=0, verbose=1)
labels = model.fit_predict(digits.images)

# %%
# The results are the same in every process, so one of them is enough to print and to write.
# What all have to take part in, such as ``predict``, stands outside of the condition.
found = model.predict(digits.images[:5])
if is_first():
    print(f"accuracy {clustering_accuracy(digits.target, labels):.3f}")
    print(f"clusters of the first five images: {found}")
    model.save("digits.safetensors")
