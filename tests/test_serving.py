"""A few images cost less than many, and each gets the same bits in any company."""

import json
import re
import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
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


@pytest.mark.filterwarnings("ignore:batches of")
def test_the_server_of_the_page_answers(tmp_path, monkeypatch):
    """With the label of an image, and an error for what is none, such as the path of a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("skcc.training.settings.max_epochs", lambda *_: 1)
    Path("photos").mkdir()
    for i, image in enumerate(X[:12]):
        Image.fromarray(image).save(f"photos/{i}.png")
    page = Path(__file__).parents[1] / "docs" / "servers.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    space = {"ContrastiveClustering": ContrastiveClustering}
    exec(next(block for block in blocks if "do_POST" in block), space)  # ours, not a user's
    monkeypatch.setattr(space["Handler"], "log_message", lambda *_: None)
    expected = space["model"].predict_proba(["photos/3.png"])[0]
    with ThreadingHTTPServer(("127.0.0.1", 0), space["Handler"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(address, Path("photos/3.png").read_bytes()) as answer:
            got = json.load(answer)
        assert got == {"cluster": expected.argmax(), "probability": expected.max()}
        for wrong in (b"nothing", b"photos/3.png"):
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                urllib.request.urlopen(address, wrong)
            refused.value.close()
        server.shutdown()
