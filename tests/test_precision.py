"""Networks compute in bfloat16 where that is asked for; all else stays in float32."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from skcc import (
    DAC,
    DDC,
    PICA,
    AutoencoderClustering,
    ContrastiveClustering,
    TwinContrastClustering,
)
from skcc.exceptions import CheckpointWarning
from skcc.training import engine, settings
from skcc.training.settings import precision_of, resolve_precision

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CPU = torch.device("cpu")
X = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
SETTINGS = {"max_epochs": 2, "batch_size": 12, "readout": "head", "random_state": 0}


@pytest.mark.parametrize("cls", [ContrastiveClustering, TwinContrastClustering])
def test_only_networks_compute_in_bfloat16_on_a_cpu(cls, monkeypatch):
    seen = {"features": set(), "terms": set(), "moments": set()}
    update, call = engine.Training._update, engine._call_turn

    def recording_call(objective, turn, views, index):
        backbone = objective.get_submodule("network.backbone" if cls is not ContrastiveClustering
                                           else "backbone")  # fmt: skip
        hook = backbone[0].register_forward_hook(lambda *a: seen["features"].add(a[-1].dtype))
        terms = call(objective, turn, views, index)
        hook.remove()
        seen["terms"] |= {term.dtype for term in terms.values()}
        return terms

    def recording_update(training, *arguments):
        terms = update(training, *arguments)
        for state in training.optimizers["forward"].state.values():
            seen["moments"] |= {moment.dtype for moment in state.values()}
        return terms

    monkeypatch.setattr(engine, "_call_turn", recording_call)
    monkeypatch.setattr(engine.Training, "_update", recording_update)
    model = cls(2, precision="bf16", device="cpu", **SETTINGS).fit(X)
    assert model.settings_["precision"] == "bfloat16"
    assert seen["features"] == {torch.bfloat16}
    assert seen["terms"] == seen["moments"] == {torch.float32}
    kinds = {value.dtype for value in model.weights_.values() if value.dtype.kind == "f"}
    assert kinds == {np.dtype("float32")}
    exact = model.predict_proba(X)
    rough = model.set_params(precision="fp32").predict_proba(X)
    assert exact.dtype == np.float32
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(exact, rough, atol=0.1)


def test_fits_in_several_threads_have_the_same_bits():
    def fit(_):
        model = ContrastiveClustering(2, precision="bf16", device="cpu", **SETTINGS).fit(X)
        return model.transform(X)

    alone = fit(0)
    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(fit, range(8)):
            np.testing.assert_array_equal(features, alone)


def test_a_checkpoint_knows_its_precision(tmp_path):
    model = ContrastiveClustering(2, checkpoint_dir=tmp_path, device="cpu", **SETTINGS)
    model.set_params(precision="bf16", max_seconds=1e-9).fit(X)  # ends after an epoch
    assert model.n_iter_ == 1
    with pytest.warns(CheckpointWarning, match="was computed in bfloat16, and .* in float32"):
        model.set_params(precision="fp32", max_seconds=None).fit(X)
    assert model.n_iter_ == 2


@pytest.mark.parametrize(
    ("flags", "has"),
    [("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("fpu avx512f", False)],
)
def test_processors_that_multiply_bfloat16_are_known(has_fast_bfloat16, tmp_path, flags, has):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert has_fast_bfloat16(str(path)) is has
    assert not has_fast_bfloat16(str(tmp_path / "none"))


@pytest.fixture
def fast_bfloat16(monkeypatch):
    """As on a processor that multiplies bfloat16 fast."""
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda: True)


@pytest.mark.parametrize("backbone", ["conv4", "resnet18", "resnet10-narrow"])
def test_auto_is_bfloat16_on_fast_cpus_for_own_image_networks(fast_bfloat16, backbone):
    assert precision_of(ContrastiveClustering(), backbone, CPU) == torch.bfloat16
    assert precision_of(TwinContrastClustering(), backbone, CPU) == torch.bfloat16
    assert precision_of(ContrastiveClustering(precision="fp32"), backbone, CPU) == torch.float32


@pytest.mark.parametrize("backbone", ["mlp", "identity", "Sequential"])
def test_auto_is_float32_on_fast_cpus_for_other_networks(fast_bfloat16, backbone):
    assert precision_of(ContrastiveClustering(), backbone, CPU) == torch.float32
    assert precision_of(ContrastiveClustering(precision="bf16"), backbone, CPU) == torch.bfloat16


@pytest.mark.parametrize("cls", [DAC, DDC, PICA, AutoencoderClustering])
def test_auto_is_float32_on_fast_cpus_for_other_methods(fast_bfloat16, cls):
    assert precision_of(cls(), "conv4", CPU) == torch.float32


def test_auto_is_float32_on_other_cpus(monkeypatch):
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda: False)
    assert precision_of(ContrastiveClustering(), "conv4", CPU) == torch.float32


def test_a_frozen_network_stays_in_float32_on_a_cpu(fast_bfloat16):
    assert resolve_precision("auto", CPU) == torch.float32


def test_an_estimator_computes_in_what_is_fast_where_it_is(fast_bfloat16, monkeypatch, tmp_path):
    model = ContrastiveClustering(2, device="cpu", **SETTINGS).fit(X)
    assert model.settings_["precision"] == "bfloat16"
    rough = model.predict_proba(X)
    asked = model.set_params(precision="bf16").predict_proba(X)
    np.testing.assert_array_equal(rough, asked)
    model.set_params(precision="auto").save(tmp_path / "model.safetensors")
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda: False)  # on another machine
    loaded = ContrastiveClustering.load(tmp_path / "model.safetensors", device="cpu")
    exact = loaded.predict_proba(X)
    np.testing.assert_array_equal(exact, model.set_params(precision="fp32").predict_proba(X))
    assert not np.array_equal(exact, rough)


def test_vectors_and_modules_of_the_user_stay_in_float32(fast_bfloat16):
    vectors = X.reshape(24, -1)[:, :10]
    of_vectors = ContrastiveClustering(2, device="cpu", **SETTINGS).fit(vectors)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    of_module = ContrastiveClustering(2, device="cpu", backbone=network, **SETTINGS).fit(X)
    assert {of_vectors.settings_["precision"], of_module.settings_["precision"]} == {"float32"}
