"""The loop, with objectives that are not ours."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.augment import CallableAugmentation, NoAugmentation, Views
from skcc.data import HostStore, Store
from skcc.exceptions import DivergenceWarning
from skcc.objective import Epoch, Objective
from skcc.rng import private_rng
from skcc.training import engine
from skcc.training.checkpoint import Checkpoint
from skcc.training.schedules import SCHEDULES, LRScheduler, one_cycle
from skcc.training.settings import resolve_device, resolve_precision
from skcc.training.sweep import sweep


class Regression(Objective):
    """Fits the second column of vectors from the first; remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.batches, self.log = [], []
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, views, index):
        self.batches.append(index.tolist())
        error = self.line(views[0][:, :1]) - views[0][:, 1:]
        return {"squared": (error**2).mean(), "weight": 1e-3 * self.line.weight.abs().sum()}

    def assign(self, x):
        return self.line(x[:, :1])

    def before_epoch(self, epoch):
        self.log.append(("epoch", epoch.number, len(epoch.sweep(self.assign)), self.training))

    def after_step(self):
        self.log.append("step")

    def after_training(self, epoch):
        self.log.append(("end", len(epoch.sweep(self.assign)), self.training))


@pytest.fixture
def store():
    x = torch.linspace(-1, 1, 50)
    return Store(torch.stack([x, 3 * x + 1], dim=1))


SETTINGS = {
    "epochs": 3, "batch_size": 8, "learning_rate": 0.1, "weight_decay": 0.0,
    "schedule": "one-cycle", "seed": 0,
}  # fmt: skip


def train(objective, store, **changes):
    views = Views(NoAugmentation(), None)
    return engine.train(objective, store, views, **SETTINGS | changes).history


def test_the_sum_of_terms_is_minimised_and_each_is_logged(store):
    objective = Regression()
    history = train(objective, store, epochs=60)
    assert len(history) == 60
    assert set(history[0]) == {"squared", "weight"}
    assert history[-1]["squared"] < 1e-3 < history[0]["squared"]
    assert objective.line.weight.item() == pytest.approx(3, abs=0.05)


def test_an_epoch_shows_every_sample_once_in_equal_batches(store):
    objective = Regression()
    train(objective, store, epochs=2)
    assert [len(b) for b in objective.batches] == [7] * 14  # 50 samples in 7 batches; 1 sits out
    epochs = [[i for b in objective.batches[at : at + 7] for i in b] for at in (0, 7)]
    assert [len(set(e)) for e in epochs] == [49, 49]
    assert epochs[0] != epochs[1]


def test_hooks_are_called_in_order(store):
    objective = Regression()
    train(objective, store, epochs=2, batch_size=25)
    assert objective.log == [
        ("epoch", 0, 50, True), "step", "step", ("epoch", 1, 50, True), "step", "step",
        ("end", 50, False),
    ]  # fmt: skip


def test_reports_tell_epoch_terms_and_seconds(store):
    seen, begun = [], []

    def report(history, seconds):
        seen.append((list(history), seconds, len(begun)))

    history = train(Regression(), store, begin=lambda: begun.append(1), report=report)
    assert [told for told, _, _ in seen] == [history[:1], history[:2], history]
    assert all(seconds > 0 for _, seconds, _ in seen)
    assert [n for _, _, n in seen] == [1, 2, 3]


def test_a_report_that_answers_true_ends_training(store):
    objective = Regression()
    history = train(objective, store, epochs=9, report=lambda history, _: len(history) == 4)
    assert history == train(Regression(), store, epochs=9)[:4]
    assert objective.log[-1] == ("end", 50, False)


def test_logged_terms_are_the_means_over_the_steps(store):
    class Constant(Regression):
        def forward(self, views, index):
            terms = super().forward(views, index)
            return {**terms, "mean index": index.double().mean()}

    history = train(Constant(), store, epochs=1, batch_size=50)
    assert history[0]["mean index"] == pytest.approx(24.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_term_that_is_not_finite_is_named(store, bad):
    class Broken(Regression):
        def forward(self, views, index):
            terms = super().forward(views, index)
            return terms | {"squared": terms["squared"] * (1 if len(self.batches) < 10 else bad)}

    with (
        pytest.warns(DivergenceWarning, match=r"'squared' term.*epoch 2"),
        pytest.raises(FloatingPointError, match=r"'squared' term.*epoch 2"),
    ):
        train(Broken(), store)


def test_one_cycle_rises_for_a_tenth_and_ends_at_zero():
    assert one_cycle(0.0) == pytest.approx(0.1)
    assert one_cycle(0.1) == pytest.approx(1.0)
    assert one_cycle(0.55) == pytest.approx(0.5)
    assert one_cycle(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
def test_the_schedule_sets_the_learning_rate(store, schedule, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def recording(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    train(Regression(), store, epochs=4, batch_size=5, schedule=schedule)
    expected = [0.1 * SCHEDULES[schedule](i / 40) for i in range(40)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_resume_is_exact(store, tmp_path):
    def checkpoint():
        return Checkpoint(tmp_path / "c.pt", {"a": 1}, 0)

    whole = Regression()
    expected = train(whole, store, epochs=6)

    class Stop(Exception):
        pass

    class Hasty(Checkpoint):
        def is_due(self):
            return True

    def stop(history, seconds):
        if len(history) == 4:
            raise Stop

    with pytest.raises(Stop):
        train(Regression(), store, epochs=6, report=stop,
              checkpoint=Hasty(tmp_path / "c.pt", {"a": 1}, 0))  # fmt: skip
    resumed = Regression()
    history = train(resumed, store, epochs=6, checkpoint=checkpoint())
    assert history == expected
    assert torch.equal(resumed.line.weight, whole.line.weight)
    assert resumed.log[0][1] == 3, "three epochs had been saved"
    loaded = Regression()
    assert train(loaded, store, epochs=6, checkpoint=checkpoint()) == expected
    assert loaded.batches == []
    assert torch.equal(loaded.line.weight, whole.line.weight)


def test_one_thread_at_a_time_has_the_global_generator():
    def draw(seed):
        with private_rng(seed, torch.device("cpu")):
            first = torch.rand(())
            time.sleep(0.05)
            return first.item(), torch.rand(()).item()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(draw, range(3))) == [draw(seed) for seed in range(3)]


def test_functions_of_the_user_see_a_seeded_generator_and_leave_none(store):
    def draws(seed):
        seen = []
        views = Views(CallableAugmentation(lambda x: seen.append(torch.rand(())) or x), None)
        objective = Regression()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        changes = {"epochs": 2, "batch_size": 25, "schedule": "constant", "global_rng": True}
        engine.train(objective, store, views, **SETTINGS | changes)
        assert torch.equal(before, torch.get_rng_state())
        return torch.stack(seen).tolist()

    assert draws(1) == draws(2)
    assert len(set(draws(1))) == 8


def test_a_sweep_is_in_order_without_gradient_in_evaluation_mode(store):
    objective = Regression().train()
    modes = []

    def function(view):
        modes.append((objective.training, torch.is_grad_enabled()))
        return view[:, :1]

    out = sweep(objective, store, function, view=Views(NoAugmentation(), None).plain)
    assert torch.equal(out, store.samples[:, :1])
    assert modes == [(False, False)]
    assert objective.training


def test_devices_and_precisions():
    cpu = resolve_device("cpu")
    assert cpu == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    assert resolve_precision("auto", cpu) == torch.float32
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    with pytest.raises(ValueError, match=r"device='nonsense' cannot be used.*'auto', 'cpu'"):
        resolve_device("nonsense")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda(shapes):
    from skcc import ContrastiveClustering

    model = ContrastiveClustering(
        3, max_epochs=30, batch_size=40, random_state=0, precision="fp32"
    ).fit(shapes[0])
    assert model.settings_["device"].startswith("cuda")
    on_cpu = model.set_params(device="cpu").predict(shapes[0])
    assert np.mean(on_cpu == model.labels_) >= 0.95  # convolutions are in TF32 on the device


# -- memory and devices ---------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "message"), [(20, "one of 12 does: batch_size=12"), (1, "nor")])
def test_a_batch_too_large_is_told_with_one_that_fits(store, limit, message):
    class Hungry(Regression):
        def forward(self, views, index):
            if len(index) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(views, index)

    with pytest.raises(torch.OutOfMemoryError, match=f"a batch of 25 samples does not.*{message}"):
        train(Hungry(), store, batch_size=25)


def test_samples_that_stay_on_the_host_train_alike(store):
    resident, pinned = Regression(), Regression()
    expected = train(resident, store, epochs=2)
    assert train(pinned, HostStore(store.samples), epochs=2) == expected
    assert pinned.batches == resident.batches


def test_the_loop_sets_step_sizes_without_a_transfer(store):
    """What a recorded step reads its step size from is one tensor, filled in place."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1.0, capturable=True)
    rate = LRScheduler([optimizer], 0.1, "one-cycle", 10)
    tensor = optimizer.param_groups[0]["lr"]
    for done in range(12):
        rate.step()
        assert optimizer.param_groups[0]["lr"] is tensor
        assert tensor.item() == pytest.approx(0.1 * one_cycle(min(1, done / 10)), abs=1e-8)


def setting(device, method):
    from skcc.benchmarks.workload import Workload

    torch.manual_seed(0)
    return Workload(
        backbone="resnet10-narrow", side=16, batch=32, n=32 * 24, clusters=4, device=device,
        estimator=METHODS[method],
    )  # fmt: skip


METHODS = {
    "contrastive": ContrastiveClustering(4),
    "twin": TwinContrastClustering(4, instance_queue=2, symmetric=True),
}
every_method = pytest.mark.parametrize("method", METHODS)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@cuda
@every_method
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("options", [{"cuda_graphs": True}, {"compile_step": True}], ids=str)
def test_steps_that_are_captured_or_compiled_train_as_plain_ones(
    method, options, optimizer, monkeypatch
):
    """How far the weights move differs by 1e-3 of noise, and by .8 if the step size froze."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    moved = []
    for changes in ({}, options):
        s = setting("cuda", method)
        before = torch.cat([p.detach().flatten().clone() for p in s.parameters])
        engine.train(
            s.objective, s.store, s.views, epochs=1, batch_size=48, learning_rate=1e-4,
            weight_decay=0.0, schedule="one-cycle", seed=0, optimizer=optimizer, **changes,
        )  # fmt: skip
        moved.append(torch.cat([p.detach().flatten() for p in s.parameters]) - before)
    assert (moved[1] - moved[0]).norm() < 0.05 * moved[0].norm()


class Reads(TorchDispatchMode):
    """Fails where the host would wait for a value, or a shape depend on one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"), name
        return function(*args, **(kwargs or {}))


@every_method
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_step_reads_a_value(method, optimizer):
    s = setting("cpu", method)
    s.optimizer = engine.OPTIMIZERS[optimizer](s.parameters, lr=1e-3, fused=True)
    s.objective.before_epoch(Epoch(0, None, torch.Generator().manual_seed(0)))
    views, index = tuple(torch.rand(2, 32, 3, 16, 16)), torch.arange(32)
    with Reads():
        for _ in range(2):
            loss = sum(s.objective(views, index).values())
            gradients = torch.autograd.grad(loss, s.parameters)
            for parameter, gradient in zip(s.parameters, gradients, strict=True):
                parameter.grad = gradient
            s.optimizer.step()
            s.objective.after_step()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Reads():
        float(views[0].sum())


@pytest.mark.gpu
@cuda
@every_method
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_waits_for_the_device(method):
    s = setting("cuda", method)
    steps, before = [], s.objective.after_step

    def after_step():
        before()
        steps.append(1)
        if len(steps) in (5, 20):  # from one to the other, waiting is an error
            torch.cuda.set_sync_debug_mode("error" if len(steps) == 5 else "default")

    s.objective.after_step = after_step
    try:
        engine.train(
            s.objective, s.store, s.views, epochs=1, batch_size=32, learning_rate=1e-3,
            weight_decay=0.0, schedule="one-cycle", seed=0, dtype=torch.bfloat16,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@cuda
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_memory_of_the_device_is_given_back(shapes):
    from skcc import ContrastiveClustering

    def allocated():
        torch._C._cuda_clearCublasWorkspaces()  # the first product leaves one
        return torch.cuda.memory_allocated()

    before = allocated()
    model = ContrastiveClustering(3, max_epochs=2, batch_size=40, random_state=0, device="cuda")
    model.fit(shapes[0])
    assert allocated() == before
    assert model.predict(shapes[0]).shape == (120,)
