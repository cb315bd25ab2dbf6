"""Networks: shapes, stems, and what happens without torchvision."""

import sys

import pytest
import torch

from skcc.backbones import BACKBONES

SMALL = ("conv4", "resnet10-narrow", "resnet18")
CASES = [(name, 3) for name in BACKBONES if name != "mlp"]
CASES += [(name, channels) for name in SMALL for channels in (1, 5)]


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_images_become_features(name, channels):
    network = BACKBONES[name]((32, 32, channels), (32, 32)).eval()
    with torch.inference_mode():
        h = network(torch.randn(2, channels, 32, 32))
    assert h.ndim == 2
    assert len(h) == 2
    assert h.std() > 0


def test_the_stem_goes_by_the_side_of_the_image():
    def first(name, side):
        network = BACKBONES[name]((side, side, 3), (side, side))
        pool = not isinstance(network.maxpool, torch.nn.Identity)
        return network.conv1.kernel_size[0], network.conv1.stride[0], pool

    assert [first("resnet18", side) for side in (32, 64, 96)] == [
        *((3, 1, False), (3, 2, False), (7, 2, True)),
    ]
    assert first("resnet18-small", 224) == (3, 1, False)
    assert first("resnet18-image", 32) == (7, 2, True)


def test_resnets_have_the_papers_size():
    """Parameters and widths as published for ResNet-18, 34 and 50 without their last layer."""
    for name, millions, width in [("18", 11.18, 512), ("34", 21.28, 512), ("50", 23.51, 2048)]:
        network = BACKBONES[f"resnet{name}-image"]((224, 224, 3), (224, 224)).eval()
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, 0.001)
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 64, 64)).shape == (1, width)


def test_vectors_become_features():
    network = BACKBONES["mlp"]((7,), None)
    assert network(torch.randn(4, 7)).shape[0] == 4


def test_a_broken_torchvision_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="as a pair") as error:
        BACKBONES["resnet18"]((32, 32, 3), (32, 32))
    assert "pip install" in str(error.value)


def test_the_small_nets_need_no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("conv4", "resnet10-narrow"):
        BACKBONES[name]((16, 16, 1), (16, 16))
