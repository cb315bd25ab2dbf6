"""Which estimators are tested how much.

The whole contract is run for one method per family; what all inherit need not be shown for each.
Every estimator goes through the short contract in `test_contract.py`, and, in `make test-methods`,
through scikit-learn's checks.
"""

import pytest

import skcc
from skcc.base import BaseDeepClusterer

FULL = [skcc.ContrastiveClustering, skcc.TwinContrastClustering]
PUBLIC = [getattr(skcc, name) for name in skcc.__all__]
EVERY = [cls for cls in PUBLIC if isinstance(cls, type) and issubclass(cls, BaseDeepClusterer)]

# One method per family in `make test`, the others in `make test-methods`.
EACH = [
    pytest.param(cls, marks=[] if cls in FULL else pytest.mark.methods, id=cls.__name__)
    for cls in EVERY
]

# The first family alone in `make test`, where what is tested hardly depends on the method.
FIRST = [
    pytest.param(cls, marks=[] if cls is FULL[0] else pytest.mark.methods, id=cls.__name__)
    for cls in FULL
]

# What changes between epochs, so that it changes more often than once in a few short epochs.
BETWEEN_EPOCHS = {skcc.DeepCluster: {"reassign_epochs": 1}}

# Parameters of tests that would take long with the defaults.
QUICK = {skcc.DeconvolutionalClustering: {"n_maps": (4, 4), "n_inference_steps": 5}}
