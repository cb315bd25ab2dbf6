"""Networks compute in bfloat16 where that is asked for; all else stays in float32."""

import numpy as np
import pytest
import torch

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.exceptions import CheckpointWarning
from skcc.training import engine
from skcc.training.settings import has_fast_bfloat16, resolve_precision

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
def test_processors_that_multiply_bfloat16_are_known(tmp_path, flags, has):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert has_fast_bfloat16(str(path)) is has
    assert not has_fast_bfloat16(str(tmp_path / "none"))


def test_auto_is_float32_on_every_cpu():
    assert resolve_precision("auto", CPU) == torch.float32
