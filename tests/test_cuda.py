"""What a GPU will ask of the package, as far as a machine without one can tell."""

import contextlib
import gc
import weakref
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from estimators import BETWEEN_EPOCHS, EACH, QUICK
from torch import nn
from torch._inductor import list_options
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skcc import (
    ADC,
    DAC,
    DEC,
    IIC,
    ContrastiveClustering,
    DenoisingAutoencoderClustering,
    TwinContrastClustering,
    VariationalAutoencoderClustering,
)
from skcc.augment import AUGMENTATIONS, ImageAugmentation, Views
from skcc.backbones import BACKBONES
from skcc.benchmarks.workload import Workload
from skcc.data import Store
from skcc.objective import Objective, Setup
from skcc.rng import seed_global_rng
from skcc.training import engine
from skcc.training.batchnorm import PerViewBatchNorm, split_batch_norm
from skcc.training.graphs import GraphedStep
from skcc.training.sweep import ACCELERATED_BATCH, INFERENCE_BATCH, inference_batch, sweep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
METHODS = {
    "contrastive": ContrastiveClustering(3, n_heads=2),
    # From the second epoch on.
    "paired": ContrastiveClustering(3, n_heads=2, neighbor_share=0.33),
    "twin": TwinContrastClustering(3, n_heads=2, instance_queue=2, symmetric=True),
}
every_method = pytest.mark.parametrize("method", METHODS)
# Of each method the default, and settings by which a step computes something else.
SETTINGS = [
    *[pytest.param(case.values[0], {}, marks=case.marks, id=case.id) for case in EACH],
    *[
        pytest.param(cls, options, marks=pytest.mark.methods, id=f"{cls.__name__} {min(options)}")
        for cls, options in [
            (ADC, {"consistency_weight": 0.5}),
            (DAC, {"pair_loss": "squared"}),
            (DEC, {"reconstruction_weight": 0.1, "pretraining_corruption": 0.0}),
            (IIC, {"alternate": (1, 1), "warm_up": 0.0}),
            (TwinContrastClustering, {"symmetric": True, "instance_queue": 2, "prior": "uniform"}),
        ]
    ],
]


def workload(method="contrastive", n=16):
    return Workload(
        backbone="conv4", side=8, batch=8, n=n, clusters=3, device="cpu", estimator=METHODS[method]
    )


def train(work, **options):
    settings = {"epochs": 3, "batch_size": work.batch, "learning_rate": 1e-3, "seed": 0}
    settings |= {"weight_decay": 0.0, "schedule": "one-cycle"}
    return engine.train(work.objective, work.store, work.views, **settings | options).history


@cache
def trained(method):
    """The history and the weights of plain training."""
    work = workload(method)
    return SimpleNamespace(history=train(work), weights=work.objective.state_dict())


# -- no operation mixes tensors of the host with those of the device ------------------------


class Mixtures(TorchDispatchMode):
    """Collects the operations that read a tensor on the host and one on the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        name = function.overloadpacket.__name__
        # The value of `fill_` becomes an argument of the kernel.
        if len({t.device.type for t in tensors}) > 1 and name != "fill_":
            self.found.append(name)
        return out


def pretend_on_cuda(module):
    """Replace parameters and buffers; inside FakeTensorMode they need no device."""
    for part in module.modules():
        for store, wrap in ((part._parameters, nn.Parameter), (part._buffers, lambda t, _: t)):
            for name, value in store.items():
                if value is not None:
                    there = torch.empty_strided(
                        value.shape, value.stride(), dtype=value.dtype, device="cuda"
                    )
                    store[name] = wrap(there, value.requires_grad)


@pytest.mark.parametrize(
    ("method", "channels", "augment"),
    [
        ("contrastive", 3, AUGMENTATIONS["natural-strong-blur"]),
        ("twin", 1, AUGMENTATIONS["gray"]),
    ],
)
def test_no_step_copies_from_the_host(method, channels, augment):
    network = BACKBONES["conv4"]((8, 8, channels), (8, 8))
    estimator = METHODS[method]
    estimator.settings_ = {"max_epochs": 1, "batch_size": 8}
    setup = Setup(network, 256, (channels, 8, 8), 16)
    objective = next(estimator._phases(setup)).objective.train()
    views = Views(augment, (8, 8))
    mixtures = Mixtures()
    with FakeTensorMode():
        pretend_on_cuda(objective)
        tables = views.draw(16, (8, 8, channels), torch.Generator(), CUDA)
        batch = torch.empty(8, 8, 8, channels, dtype=torch.uint8, device="cuda")
        index = torch.zeros(8, dtype=torch.long, device="cuda")
        with mixtures:
            objective(engine._views_of(views, batch, tables, index), index)
            objective.after_step()
    assert mixtures.found == []


def test_the_search_for_mixtures_finds_one():
    mixtures = Mixtures()
    with FakeTensorMode(), mixtures:
        torch.empty(4, 4, device="cuda")[3, 3] = 1
    assert mixtures.found == ["copy_"]


def test_a_device_that_is_not_the_current_one_is_seeded(monkeypatch):
    current, seeded = [0], []

    @contextlib.contextmanager
    def device(which):
        current.append(which.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append((current[-1], seed)))
    with torch.random.fork_rng([]):
        seed_global_rng(7, torch.device("cuda", 1))
    assert seeded == [(1, 7)]


# -- graphs: what is captured once and replayed -----------------------------------------------


class Tape:
    """Stands for a CUDA graph: holds operations and the memory that they read and write."""

    def __init__(self):
        self.operations = []

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, out in self.operations:
            again = function(*args, **kwargs)
            held = {t.untyped_storage().data_ptr() for t in tensors_of((args, kwargs))}
            for old, new in zip(tensors_of(out), tensors_of(again), strict=True):
                if old.untyped_storage().data_ptr() not in held:
                    old.copy_(new)


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Recording(TorchDispatchMode):
    """Records operations on a tape, and undoes what they changed, as a capture changes nothing."""

    def __init__(self, tape):
        super().__init__()
        self.tape, self.undo = tape, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # The schema of batch norm does not say that it updates running statistics.
        if function._schema.is_mutable or "batch_norm" in str(function):
            self.undo += [(t, t.clone()) for t in tensors_of((args, kwargs))]
        out = function(*args, **kwargs)
        self.tape.operations.append((function, args, kwargs, out))
        return out

    @torch.no_grad()
    def __exit__(self, *error):
        super().__exit__(*error)
        for tensor, before in reversed(self.undo):
            tensor.copy_(before)


@pytest.fixture
def pretended_graphs(monkeypatch):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda which: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", Recording)


def test_a_replayed_step_reads_its_new_arguments_and_keeps_old_results(pretended_graphs):
    total, calls, step = torch.zeros(()), [], GraphedStep()

    def add(x):
        calls.append(x)
        total.add_(x.sum())
        return {"total": total * 1}

    results = [step(add, torch.full((2,), float(i)))["total"] for i in range(7)]
    assert [r.item() for r in results] == [0, 2, 6, 12, 20, 30, 42]
    assert len(calls) == 4, "three to warm up, one that is captured"


@every_method
def test_replayed_steps_train_what_plain_ones_do(method, pretended_graphs, monkeypatch):
    tapes, replay = [], Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda tape: tapes.append(tape) or replay(tape))
    monkeypatch.setattr(engine.Training, "_can_be_captured", lambda training: True)
    work = workload(method)
    history, plain = train(work, cuda_graphs=True), trained(method)
    # Three steps to warm up, and again three when the second views show neighbours.
    assert len(tapes) == (2 * 2 - 3 if method == "paired" else 3 * 2 - 3)
    for terms, expected in zip(history, plain.history, strict=True):
        # The entropy is a small difference of two numbers near log k.
        assert terms == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name, value in work.objective.state_dict().items():
        torch.testing.assert_close(value, plain.weights[name], msg=name, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("cls", "changed"), SETTINGS)
def test_captured_steps_of_each_method_train_as_plain_ones(
    cls, changed, pretended_graphs, monkeypatch
):
    """Of the way from the first weights to the last, rounding changes a part in hundreds."""
    replays, replay = [], Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda tape: replays.append(tape) or replay(tape))
    monkeypatch.setattr(engine.Training, "_can_be_captured", lambda run: not run.global_rng)
    images = np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)
    settings = {"max_epochs": 3, "batch_size": 8, "random_state": 0, "device": "cpu"}

    def weights(rate, cuda_graphs):
        options = settings | QUICK.get(cls, {}) | BETWEEN_EPOCHS.get(cls, {}) | changed
        model = cls(2, learning_rate=rate, cuda_graphs=cuda_graphs, **options).fit(images)
        parts = [w.ravel() for w in model.weights_.values() if w.dtype.kind == "f"]
        return np.concatenate(parts).astype(float)

    first, plain, captured = weights(1e-12, False), weights(1e-4, False), weights(1e-4, True)
    assert np.linalg.norm(captured - plain) < 0.01 * np.linalg.norm(first - plain)
    draws = cls in (DenoisingAutoencoderClustering, VariationalAutoencoderClustering)
    assert bool(replays) is not draws


@pytest.mark.parametrize("asked", ["auto", True, False])
@pytest.mark.parametrize("known", [True, False])
def test_steps_that_have_been_tried_on_a_gpu_are_captured_by_default(asked, known, monkeypatch):
    monkeypatch.setattr(engine.Training, "_can_be_captured", lambda training: True)
    work = workload()
    monkeypatch.setattr(type(work.objective), "capturable", known)
    settings = {"weight_decay": 0.0, "schedule": "constant", "seed": 0, "learning_rate": 1e-3}
    training = engine.Training(
        work.objective, work.store, work.views, epochs=1, batch_size=16, cuda_graphs=asked,
        **settings,
    )  # fmt: skip
    captures = [epoch_pass._graphed is not None for epoch_pass in training.passes]
    training.release()
    assert captures == [known if asked == "auto" else asked]


def test_a_subclass_is_not_taken_for_what_its_base_was_tried_as(monkeypatch):
    """Its further terms may draw numbers, or read a value."""
    monkeypatch.setattr(engine.Training, "_can_be_captured", lambda training: True)
    monkeypatch.setattr(engine.Training, "_is_asynchronous", lambda training: True)
    work, found = workload(), []
    base = type(work.objective)
    settings = {"weight_decay": 0.0, "schedule": "constant", "seed": 0, "learning_rate": 1e-3}
    for kind in (base, type("Subclass", (base,), {})):
        work.objective.__class__ = kind
        training = engine.Training(
            work.objective, work.store, work.views, epochs=1, batch_size=16, cuda_graphs="auto",
            **settings,
        )  # fmt: skip
        found.append((training.cuda_graphs, training._can_draw_ahead()))
        training.release()
    assert found == [(True, True), (False, False)]


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("contrastive", "draw draw end draw end end"),
        # The second epoch is drawn again, since there are neighbours then.
        ("paired", "draw draw end draw draw end end"),
    ],
)
def test_an_epoch_that_is_drawn_while_the_device_computes_is_the_same(method, order, monkeypatch):
    seen, draw = [], engine.EpochPass.draw
    monkeypatch.setattr(engine.Training, "_is_asynchronous", lambda training: True)
    monkeypatch.setattr(
        engine.EpochPass, "draw", lambda p, generator: seen.append("draw") or draw(p, generator)
    )
    history = train(workload(method), report=lambda *_: seen.append("end"))
    assert history == trained(method).history
    assert " ".join(seen) == order


def test_nothing_is_drawn_ahead_of_the_noise_of_twins(monkeypatch):
    """It comes first from the generator of an epoch."""
    monkeypatch.setattr(engine.Training, "_is_asynchronous", lambda training: True)
    work = workload("twin")
    settings = {"weight_decay": 0.0, "schedule": "constant", "seed": 0, "learning_rate": 1e-3}
    training = engine.Training(
        work.objective, work.store, work.views, epochs=3, batch_size=8, **settings
    )
    assert not training._can_draw_ahead()
    training.release()


def test_memory_that_runs_out_in_a_capture_is_said_so(monkeypatch, pretended_graphs):
    @contextlib.contextmanager
    def graph(tape):
        try:
            yield
        finally:
            if error:
                raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    step, error = GraphedStep(), None

    def hungry():
        if error:
            raise error
        return {}

    for _ in range(3):
        step(hungry)
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        step(hungry)
    error = ValueError("another")
    with pytest.raises(RuntimeError, match=r"previous error.*wanted cuda_graphs=False"):
        step(hungry)


# -- memory is given back at once ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_after_fit_nothing_waits_for_the_garbage_collector(monkeypatch):
    alive, run = [], engine.Training.run

    def remember(training):
        parts = [training, training.state, *training.passes, *training.optimizers.values()]
        alive.extend(map(weakref.ref, [*parts, training.objective, training.store]))
        return run(training)

    monkeypatch.setattr(engine.Training, "run", remember)
    X = torch.randint(256, (16, 8, 8, 3), generator=torch.Generator().manual_seed(0)).byte()
    model = TwinContrastClustering(
        2, max_epochs=1, batch_size=8, readout="head", random_state=0, device="cpu"
    )
    gc.collect()
    gc.disable()
    try:
        model.fit(X)
        assert len(alive) == 6
        assert [ref() for ref in alive[:4]] == [None] * 4
        del model  # holds the network
        assert [type(ref()).__name__ for ref in alive] == ["NoneType"] * 6
    finally:
        gc.enable()


# -- views in full precision, whatever the networks compute in -----------------------------------


class Recorder(Objective):
    """Keeps the views that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(192, 1)), []

    def forward(self, views, index):
        self.seen += views
        return {"loss": (views[0].flatten(1) @ self.weight).float().mean()}


def in_order(views, tables, batch, index):
    return views(batch, tables, index)


def test_views_do_not_depend_on_the_precision():
    generator = torch.Generator().manual_seed(0)
    store = Store(torch.randint(256, (16, 12, 12, 3), generator=generator).byte())
    augmentation = ImageAugmentation(rotation=9.0, brightness=0.4, hue=0.1, blur=0.5)
    views = Views(augmentation, (8, 8))
    seen, swept = [], []
    for dtype in (torch.float32, torch.bfloat16):
        work = SimpleNamespace(objective=Recorder(), store=store, views=views, batch=8)
        train(work, dtype=dtype)
        seen.append(torch.stack(work.objective.seen))
        tables = views.draw(16, store.shape, torch.Generator().manual_seed(0), CPU)

        rows = sweep(
            work.objective, store, lambda view: swept.append(view[0]) or view[0].flatten(1),
            view=partial(in_order, views, tables), dtype=dtype,
        )  # fmt: skip
        assert rows.dtype == torch.float32
    assert torch.equal(*seen)
    assert torch.equal(*swept)
    with torch.autocast("cpu", torch.bfloat16):
        rough = views(store.samples, tables, torch.arange(16))[0]
    exact = views(store.samples, tables, torch.arange(16))[0]
    assert 255 * (rough - exact).abs().max() > 1, "what this test is there for"


# -- all views in one call -------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (5, 3, 4)])
def test_each_view_of_a_joint_batch_has_its_own_statistics(shape):
    torch.manual_seed(0)
    layer = (nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)(5).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    views = [3 * torch.randn(6, *shape, dtype=torch.float64) + i for i in range(2)]
    results = []
    for joint in (False, True):
        layer.reset_running_stats()
        x = [view.clone().requires_grad_() for view in views]
        split = PerViewBatchNorm(layer, 2)
        outputs = split(torch.cat(x)).chunk(2) if joint else [layer(view) for view in x]
        loss = sum((out**3).sum() for out in outputs)
        gradients = torch.autograd.grad(loss, [*x, layer.weight, layer.bias])
        results.append([*outputs, *gradients, *(b.clone() for b in layer.buffers())])
    for plain, joint in zip(*results, strict=True):
        torch.testing.assert_close(joint, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(split.eval()(views[0]), layer.eval()(views[0]))


def test_the_compiled_step_trains_the_same_in_half_the_calls(monkeypatch):
    compiled, calls = [], []
    monkeypatch.setattr(torch, "compile", lambda f, **settings: compiled.append(settings) or f)
    work = workload()
    names = set(work.objective.state_dict())
    work.objective.backbone.register_forward_hook(lambda *_: calls.append(1))
    history = train(work, compile_step=True)
    assert len(calls) == 3 * 2, "one for both views in each step"
    # Without an optimization that fails in torch 2.11, on a GPU only.
    options = {name: False for name in list_options() if name == "triton.mix_order_reduction"}
    assert compiled == [{"dynamic": False, "options": options or None}] * 2
    assert set(work.objective.state_dict()) == names
    assert not any(isinstance(m, PerViewBatchNorm) for m in work.objective.modules())
    for joint, expected in zip(history, trained("contrastive").history, strict=True):
        assert joint == pytest.approx(expected, rel=1e-3)


def test_networks_of_other_layers_take_one_view_per_call():
    work = workload()
    work.objective.backbone[0][1].momentum = None  # an average over all steps
    with split_batch_norm(work.objective):
        assert not hasattr(work.objective.backbone, "views_per_call")


@pytest.mark.long
@every_method
def test_a_step_is_compiled_in_one_piece(method):
    work, index = workload(method), torch.arange(8)
    tables = work.views.draw(16, work.store.shape, torch.Generator().manual_seed(0), CPU)
    batch = work.store.samples[:8]
    views = work.views(batch, tables, index)
    with split_batch_norm(work.objective):
        for function, *arguments in (
            (engine._views_of, work.views, batch, tables, index),
            (engine._call_turn, work.objective, "forward", views, index),
        ):
            found = torch._dynamo.explain(function)(*arguments)
            assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    torch._dynamo.reset()


# -- the size of batches without training -----------------------------------------------------


def test_batches_of_small_images_fill_a_gpu():
    small, large = (Store(torch.zeros(2, side, side, 3, dtype=torch.uint8)) for side in (32, 224))
    assert inference_batch(small, CPU) == inference_batch(large, CUDA) == INFERENCE_BATCH
    assert inference_batch(small, CUDA) == ACCELERATED_BATCH
    assert inference_batch(Store(torch.zeros(2, 1000)), CUDA) == ACCELERATED_BATCH
