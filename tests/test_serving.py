"""A few images cost less than many, and each gets the same bits in any company."""

import numpy as np
import pytest
import torch
from torch import nn

from skcc import ContrastiveClustering

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = np.random.default_rng(0).integers(0, 255, (140, 8, 8), dtype=np.uint8)


class Counting(nn.Module):
    """A convolution that counts its samples; `change` adds what depends on the batch."""

    def __init__(self, change=0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
        self.change, self.n_seen = change, 0

    def forward(self, x):
        self.n_seen += len(x)
        return self.layers(x) + self.change * len(x)


def fitted(readout="head", **parameters):
    model = ContrastiveClustering(
        3, max_epochs=1, readout=readout, random_state=0, device="cpu", **parameters
    )
    return model.fit(X)


@pytest.mark.parametrize("readout", ["head", "kmeans", "spectral"])
def test_the_bits_do_not_depend_on_the_company(readout):
    model = fitted(readout)
    p, features = model.predict_proba(X), model.transform(X)
    np.testing.assert_array_equal(p.argmax(axis=1), model.labels_)
    for part in (slice(0, 1), slice(7, 8), slice(3, 8), slice(100, 109), slice(90, 130)):
        np.testing.assert_array_equal(model.predict_proba(X[part]), p[part])
        np.testing.assert_array_equal(model.transform(X[part]), features[part])


def test_one_image_passes_through_the_network_in_a_small_batch():
    model = fitted(backbone=Counting())
    network = model._objective().backbone
    model.predict(X[:1])  # tries which batches give the same bits
    seen = []
    for n in (1, 8, 30, 33, 140):
        before = network.n_seen
        model.predict(X[:n])
        seen.append(network.n_seen - before)
    assert seen[3:] == [128, 256]
    assert seen[0] <= 8  # which of the small ones depends on the processor
    assert seen[0] <= seen[1] <= seen[2] <= 32


def test_where_the_batch_changes_the_bits_small_ones_are_not_used():
    model = fitted(backbone=Counting(change=1e-3))
    p = model.predict_proba(X[:128])
    np.testing.assert_array_equal(model.predict_proba(X[5:6]), p[5:6])
    assert model._fitted_model()._batch_sizes.popitem()[1] == ()


def test_threads_have_trials_of_their_own():
    model = fitted()
    model.predict(X[:2])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        model.predict(X[:2])
    finally:
        torch.set_num_threads(before)
    assert len(model._fitted_model()._batch_sizes) == 2
