"""What each method does on a CUDA device, which needs one."""

import numpy as np
import pytest
import torch
from estimators import BETWEEN_EPOCHS, EVERY, QUICK

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
every_method = pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)


def fitted(cls, X, **options):
    settings = {"n_clusters": 3, "max_epochs": 6, "batch_size": 24, "random_state": 0}
    settings |= {"device": "cuda", "precision": "fp32", "image_size": 16}
    settings |= QUICK.get(cls, {}) | BETWEEN_EPOCHS.get(cls, {})
    return cls(**settings | options).fit(X)


@every_method
def test_captured_steps_train_as_plain_ones(cls, shapes):
    """To the last bit, where they are captured; so training repeats, too."""
    plain = fitted(cls, shapes[0], cuda_graphs=False)
    again = fitted(cls, shapes[0], cuda_graphs="auto")
    for name, weight in plain.weights_.items():
        np.testing.assert_array_equal(again.weights_[name], weight, err_msg=name)


@every_method
@pytest.mark.parametrize("cuda_graphs", [False, "auto"])
def test_labels_of_a_fit_are_those_of_a_cpu(cls, cuda_graphs, shapes):
    model = fitted(cls, shapes[0], max_epochs=20, cuda_graphs=cuda_graphs)
    there = model.predict(shapes[0])
    on_cpu = model.set_params(device="cpu").predict(shapes[0])
    assert np.mean(on_cpu == there) >= 0.95  # convolutions are in TF32 on the device
