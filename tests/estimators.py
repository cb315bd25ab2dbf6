"""Which estimators are tested how much.

The whole contract is run for one method per family; what all inherit need not be shown for each.
Every estimator of the package goes through the short contract in `test_contract.py`.
"""

import skcc
from skcc.base import BaseDeepClusterer

FULL = [skcc.ContrastiveClustering, skcc.TwinContrastClustering]
PUBLIC = [getattr(skcc, name) for name in skcc.__all__]
EVERY = [cls for cls in PUBLIC if isinstance(cls, type) and issubclass(cls, BaseDeepClusterer)]

# Methods that go through scikit-learn's checks in every run, ten seconds each; the others, whose
# training is like that of one of these, do so in `make test-all`.
SHORT = [*FULL, skcc.AutoencoderClustering, skcc.DCGANClustering, skcc.DEC, skcc.IIC, skcc.ADC]

# Parameters of tests that would take long with the defaults.
QUICK = {skcc.DeconvolutionalClustering: {"n_maps": (4, 4), "n_inference_steps": 5}}
