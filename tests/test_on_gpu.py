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


def distance(one, other):
    pairs = [(one.weights_[name], weight) for name, weight in other.weights_.items()]
    return np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs if a.dtype.kind == "f"))


@every_method
def test_captured_steps_train_as_plain_ones(cls, shapes, monkeypatch):
    """The way from the first weights to the last is the same but for rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    plain = fitted(cls, shapes[0], learning_rate=1e-4, cuda_graphs=False)
    captured = fitted(cls, shapes[0], learning_rate=1e-4, cuda_graphs=True)
    first = fitted(cls, shapes[0], learning_rate=1e-12, cuda_graphs=False)
    gap, way = distance(captured, plain), distance(first, plain)
    print(f"{cls.__name__}: {gap / way:.2g}")
    assert gap < 0.05 * way


@every_method
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_labels_of_a_fit_are_those_of_a_cpu(cls, cuda_graphs, shapes):
    model = fitted(cls, shapes[0], max_epochs=20, cuda_graphs=cuda_graphs)
    there = model.predict(shapes[0])
    on_cpu = model.set_params(device="cpu").predict(shapes[0])
    assert np.mean(on_cpu == there) >= 0.95  # convolutions are in TF32 on the device
