"""The seam between methods and the engine, with methods that use what our own do not."""

import ast
import copy
import dataclasses
import inspect
import itertools
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from estimators import EVERY
from methods_for_tests import (
    METHODS,
    Adversarial,
    Drawing,
    EachEpochAnew,
    FourViews,
    PseudoLabels,
    SelfTraining,
    SmallBackbone,
    TwoPhases,
    TwoTurns,
)  # fmt: skip
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import nn

import skcc
from skcc.augment import AUGMENTATIONS, NoAugmentation, Views
from skcc.base import BaseDeepClusterer
from skcc.data import Store
from skcc.exceptions import TrainingInterruptedWarning
from skcc.objective import Epoch, Objective, Setup
from skcc.training import engine

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of .* are small"),
]
every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


def estimator(cls, **changes):
    torch.manual_seed(0)
    settings = {"backbone": SmallBackbone(64), "image_size": 8, "max_epochs": 3, "batch_size": 40}
    return cls(3, **settings | {"random_state": 0, "device": "cpu"} | changes)


@pytest.fixture(scope="module")
def fitted(shapes):
    return {cls: estimator(cls).fit(shapes[0]) for cls in METHODS}


# -- what every method gets for nothing ---------------------------------------------------------


@every_method
def test_a_fit_predicts_what_it_found(fitted, cls, shapes):
    model, X = fitted[cls], shapes[0]
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(p.argmax(axis=1), model.labels_)
    assert all(np.isfinite([*terms.values()]).all() for terms in model.history_)
    assert -1 <= model.score(X) <= 1


@every_method
def test_features_have_the_width_of_embed(fitted, cls, shapes):
    model = fitted[cls]
    width = model._objective().n_embedding
    assert model.transform(shapes[0][:5]).shape == (5, width)
    assert len(model.get_feature_names_out()) == width


def test_the_width_is_not_that_of_the_backbone(fitted, shapes):
    assert fitted[FourViews].transform(shapes[0][:2]).shape == (2, 4)  # of 12
    assert fitted[TwoPhases].transform(shapes[0][:2]).shape == (2, 6)


@every_method
def test_what_is_saved_comes_back(fitted, cls, shapes, tmp_path):
    model, X = fitted[cls], shapes[0]
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", backbone=SmallBackbone(64))
    for other in (loaded, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
        np.testing.assert_array_equal(other.transform(X), model.transform(X))
        state, expected = other._objective().state_dict(), model._objective().state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)


def test_decoders_come_back(fitted, shapes, tmp_path):
    fitted[TwoPhases].save(tmp_path / "model")
    loaded = TwoPhases.load(tmp_path / "model", backbone=SmallBackbone(64))
    code = torch.from_numpy(loaded.transform(shapes[0][:4]))
    decoded = [m._objective().autoencoder.decoder(code) for m in (loaded, fitted[TwoPhases])]
    assert decoded[0].shape == (4, 1, 8, 8)
    assert torch.equal(*decoded)


@every_method
def test_two_fits_are_the_same_and_a_clone_is_none(fitted, cls, shapes):
    again = clone(fitted[cls]).fit(shapes[0])
    assert again.history_ == fitted[cls].history_
    np.testing.assert_equal(again.weights_, fitted[cls].weights_)


# -- two phases -------------------------------------------------------------------------------


def names(model):
    return [next(iter(terms)) for terms in model.history_]


def test_phases_follow_each_other_with_settings_of_their_own(fitted):
    assert names(fitted[TwoPhases]) == ["reconstruction"] * 2 + ["divergence"] * 3
    assert fitted[TwoPhases].n_iter_ == 5


class StopsAfter:
    """A callback that stops training after some epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def setup(self, estimator, context):
        self.seen = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.seen += context.task_name == "epoch"
        return context.task_name == "epoch" and self.seen == self.epochs


def interrupt(monkeypatch):
    """Ctrl-C in the second epoch of the autoencoder."""
    steps = iter(range(10**6))

    def after_step(self):
        if next(steps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("methods_for_tests.Autoencoder.after_step", after_step)


@pytest.mark.filterwarnings("ignore:max_seconds=")
@pytest.mark.parametrize("kind", ["callback", "last epoch of the phase", "Ctrl-C", "max_seconds"])
def test_a_stop_in_the_first_phase_ends_the_fit(kind, shapes, monkeypatch, tmp_path):
    X = shapes[0]
    model = estimator(TwoPhases).set_params(readout="head")  # there is none yet
    expected, context = 1, warnings.catch_warnings()
    if kind in ("callback", "last epoch of the phase"):
        pytest.importorskip("sklearn.callback")
        expected = 1 if kind == "callback" else 2
        model.set_callbacks(StopsAfter(expected))
    elif kind == "Ctrl-C":
        interrupt(monkeypatch)
        context = pytest.warns(TrainingInterruptedWarning, match="in epoch 2 of 2")
    else:
        model.set_params(max_seconds=1e-9)
    with context:
        model.fit(X)
    assert names(model) == ["reconstruction"] * expected
    # The autoencoder has no clusters of its own, so they are k-means of its code.
    code = torch.nn.functional.normalize(torch.from_numpy(model.transform(X))).numpy()
    found = KMeans(3, n_init=10, random_state=0).fit_predict(code)
    assert len(set(zip(found, model.labels_, strict=True))) == len(set(found))
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    model.save(tmp_path / "model")
    loaded = TwoPhases.load(tmp_path / "model", backbone=SmallBackbone(64))
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)


def test_a_time_limit_is_of_all_phases_together(shapes, monkeypatch):
    """Epochs of a second each; three fit into the limit, one of them of the second phase."""
    now = [0.0]
    monkeypatch.setattr("skcc.training.phases.time.monotonic", lambda: now[0])
    monkeypatch.setattr(engine, "time", type("Clock", (), {"perf_counter": lambda: now[0]}))

    class Slow(TwoPhases):
        """Every step takes a third of a second."""

        def _phases(self, setup):
            for phase in super()._phases(setup):

                def after_step():
                    now[0] += 1 / 3

                phase.objective.after_step = after_step
                yield phase

    with pytest.warns(ConvergenceWarning, match="ended training after 1 of 3 epochs of phase 'cl"):
        model = estimator(Slow, max_seconds=3.5).fit(shapes[0])
    assert names(model) == ["reconstruction"] * 2 + ["divergence"]


@pytest.mark.filterwarnings("ignore:max_seconds=")
def test_a_run_that_was_stopped_goes_on_in_its_phase(shapes, tmp_path):
    X, settings = shapes[0], {"checkpoint_dir": tmp_path, "random_state": None}
    model = estimator(TwoPhases, max_seconds=1e-9, **settings)
    counts = [len(model.fit(X).history_) for _ in range(5)]
    assert counts == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(model.fit(X).predict(X), model.labels_)
    straight = estimator(TwoPhases, checkpoint_dir=tmp_path / "straight").fit(X)
    again = estimator(TwoPhases, checkpoint_dir=tmp_path / "cut", max_seconds=1e-9)
    for _ in range(5):
        again.fit(X)
    assert again.history_ == straight.history_
    np.testing.assert_equal(again.weights_, straight.weights_)


# -- turns ------------------------------------------------------------------------------------


def test_each_turn_updates_its_own_parameters_with_its_own_optimizer(shapes):
    """Against a loop by hand: two optimizers of torch, one after the other."""
    X = torch.from_numpy(shapes[0][:40, 4:12, 4:12, None])

    def objective():
        torch.manual_seed(0)
        return Adversarial(Setup(SmallBackbone(64).double(), 12, (1, 8, 8), 40)).double()

    ours, theirs = objective(), objective()
    views = Views(NoAugmentation(), (8, 8), 1)
    engine.train(ours, Store(X), views, epochs=3, batch_size=40, learning_rate=1e-2,
                 betas=(0.5, 0.9), weight_decay=0.0, schedule="constant", seed=7)  # fmt: skip

    optimizers = [
        torch.optim.AdamW(theirs.parameters_of(turn), 1e-2, betas=(0.5, 0.9), weight_decay=0.0)
        for turn in theirs.turns
    ]
    for epoch in range(3):
        generator = skcc.rng.epoch_generator(7, epoch)
        theirs.before_epoch(Epoch(epoch, None, generator))
        order = torch.randperm(40, generator=generator)
        images = (X[order].permute(0, 3, 1, 2).float() / 255,)
        losses = (theirs.discriminator, theirs.generator)
        for optimizer, losses_of_turn in zip(optimizers, losses, strict=True):
            theirs.zero_grad()
            sum(losses_of_turn(images, order).values()).backward()
            optimizer.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=name)


def test_terms_of_all_turns_are_logged(fitted):
    assert list(fitted[TwoTurns].history_[0]) == ["real", "fake", "fooled"]


# -- views ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_views", "n_augmented", "kinds"),
    [(0, None, "p"), (1, None, "a"), (2, None, "aa"), (2, 1, "ap"), (2, 0, "pp"), (4, 3, "aaap")],
)
def test_an_objective_gets_the_views_that_it_asks_for(n_views, n_augmented, kinds):
    X = torch.rand(30, 5)
    views = Views(AUGMENTATIONS["vector"], None, n_views, n_augmented)
    tables = views.draw(30, (5,), torch.Generator().manual_seed(0), torch.device("cpu"))
    made = views(X, tables, torch.arange(30))
    assert "".join("p" if torch.equal(view, X) else "a" for view in made) == kinds
    augmented = [view for view, kind in zip(made, kinds, strict=True) if kind == "a"]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(augmented))


def test_no_view_is_drawn_that_nobody_looks_at(shapes):
    drawn = []

    class Counting(NoAugmentation):
        def draw(self, n, shape, generator):
            drawn.append(n)
            return {}

    estimator(TwoPhases, augment=Counting(), pretraining_epochs=4, max_epochs=1).fit(shapes[0])
    assert drawn == [120]  # none for the autoencoder, one for the epoch of self-training


# -- weights, k-means, reset ------------------------------------------------------------------


class Weighted(Objective):
    """Counts what is drawn."""

    n_views, n_embedding = 1, 1

    def __init__(self, weights):
        super().__init__()
        self.line, self.weights = nn.Linear(1, 1), weights
        self.drawn, self.pairs = torch.zeros(len(weights), dtype=torch.long), []

    def sample_weights(self):
        return self.weights

    def forward(self, views, index):
        self.drawn += index.bincount(minlength=len(self.drawn))
        self.pairs += zip(index.tolist(), views[0].flatten().tolist(), strict=True)
        return {"loss": self.line(views[0]).square().mean()}


def test_samples_are_drawn_by_their_weights():
    weights = torch.tensor([0.0, 1.0, 1.0, 2.0, 4.0]).repeat_interleave(40)
    objective = Weighted(weights)
    store = Store(torch.arange(200.0)[:, None])
    engine.train(objective, store, Views(NoAugmentation(), None, 1), epochs=40, batch_size=50,
                 learning_rate=1e-3, weight_decay=0.0, schedule="constant", seed=0)  # fmt: skip
    drawn = objective.drawn.view(5, 40).sum(1)
    assert drawn.sum() == 40 * 200
    assert drawn[0] == 0
    np.testing.assert_allclose(drawn[1:] / drawn.sum(), [0.125, 0.125, 0.25, 0.5], atol=0.02)
    assert all(index == value for index, value in objective.pairs)  # a batch is what it says


def test_a_sample_that_is_drawn_twice_gets_two_views():
    objective = Weighted(torch.tensor([0.0] * 39 + [1.0]))
    views = Views(AUGMENTATIONS["vector"], None, 1)
    engine.train(objective, Store(torch.ones(40, 1)), views, epochs=1, batch_size=40,
                 learning_rate=1e-3, weight_decay=0.0, schedule="constant", seed=0)  # fmt: skip
    assert {index for index, _ in objective.pairs} == {39}
    assert len({value for _, value in objective.pairs}) > 30


def test_clusters_are_drawn_equally_often(shapes):
    objective = PseudoLabels(Setup(SmallBackbone(64), 12, (1, 8, 8), 6), 3)
    objective.labels.copy_(torch.tensor([0, 0, 0, 1, 1, 2]))
    weights = objective.sample_weights()
    assert [weights[objective.labels == k].sum().item() for k in range(3)] == pytest.approx([1] * 3)


def test_k_means_is_scikit_learns_on_the_swept_features():
    X = torch.randn(60, 4)
    epoch = Epoch(0, lambda function: function(X), torch.Generator().manual_seed(3))
    labels, centers = epoch.k_means(lambda x: 2 * x, 5)
    seed = int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(3)))
    expected = KMeans(5, n_init=10, random_state=seed).fit(2 * X.numpy())
    np.testing.assert_array_equal(labels, expected.labels_)
    np.testing.assert_allclose(centers, expected.cluster_centers_, rtol=1e-5)


def test_reset_draws_weights_and_forgets_moments():
    head, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([*head.parameters(), *other.parameters()], 0.1)
    for _ in range(3):
        (head(torch.ones(1, 3)) + other(torch.ones(1, 3))).sum().backward()
        optimizer.step()
    before = copy.deepcopy((head.state_dict(), other.state_dict()))
    global_state = torch.get_rng_state()

    def reset(seed):
        epoch = Epoch(0, None, torch.Generator().manual_seed(seed), [optimizer])
        epoch.reset(head)
        return head.weight.detach().clone()

    assert torch.equal(reset(1), reset(1))
    assert not torch.equal(reset(1), reset(2))
    assert not torch.equal(head.weight, before[0]["weight"])
    assert torch.equal(other.weight, before[1]["weight"])
    assert torch.equal(global_state, torch.get_rng_state())
    assert all(not v.any() for v in optimizer.state[head.weight].values())
    assert all(v.any() for v in optimizer.state[other.weight].values())
    # A step after it is AdamW's first step: of the size of the learning rate.
    weight = head.weight.detach().clone()
    optimizer.zero_grad()
    head(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight - head.weight, torch.full((2, 3), 0.1) + 0.1 * 0.01 * weight,
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_reset_rejects_a_layer_that_cannot_be():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(TypeError, match="Own has no reset_parameters"):
        Epoch(0, None, torch.Generator()).reset(nn.Sequential(nn.Linear(1, 1), Own()))


def test_state_of_every_sample_is_kept(fitted):
    losses = fitted[EachEpochAnew].weights_["loss_of"]
    assert losses.shape == (120,)
    assert np.count_nonzero(losses) > 60


def test_an_objective_that_draws_leaves_the_global_generator_alone(shapes):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    estimator_ = estimator(Drawing)
    torch.set_rng_state(before)
    first = estimator_.fit(shapes[0]).history_
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert estimator_.fit(shapes[0]).history_ == first


# -- what is refused ---------------------------------------------------------------------------


@every_method
def test_unlabeled_images_are_refused_where_no_term_is_for_them(cls, shapes):
    with pytest.raises(ValueError, match=f"{cls.__name__} cannot use unlabeled images"):
        estimator(cls).fit(shapes[0][:60], unlabeled=shapes[0][60:])


def test_the_base_names_no_parameter_of_a_method():
    shared = {field.name for field in dataclasses.fields(BaseDeepClusterer)}
    every = {name for cls in EVERY for name in inspect.signature(cls).parameters}
    own = every - shared
    assert {"instance_weight", "augmented_views", "n_heads"} <= own
    home = Path(skcc.__file__).parent
    for file in ("base.py", "parameters.py", "fitting.py", "inference.py", "objective.py",
                 "training/phases.py", "training/engine.py", "training/settings.py"):  # fmt: skip
        for node in ast.walk(ast.parse((home / file).read_text())):
            attribute = node.attr if isinstance(node, ast.Attribute) else None
            assert attribute not in own, f"{file}: {attribute}"


def test_a_subclass_documents_what_it_inherits():
    class Silent(FourViews):
        more: int = 1

    class Spoken(TwoPhases):
        """Has a word of its own.

        Parameters
        ----------
        n_clusters : int, default=8
            As many as there are.

        more : int, default=1
            More of it.
        """

        more: int = 1

    for cls in (Silent, Spoken):
        names = [name for name in inspect.signature(cls).parameters if name != "more"]
        places = [cls.__doc__.index(f"\n{name} : ") for name in names]
        assert places == sorted(places)
        assert "Wall-clock seconds that training may take" in cls.__doc__
    assert Spoken.__doc__.startswith("Has a word of its own.")
    assert "As many as there are." in Spoken.__doc__
    assert "Epochs of the autoencoder" in Spoken.__doc__
    assert "Number of clusters" not in Spoken.__doc__


def test_small_methods_are_small():
    """What a method costs that uses each part of the seam."""
    for cls in METHODS:
        objective = {TwoPhases: SelfTraining, TwoTurns: Adversarial}.get(cls)
        lines = len(inspect.getsource(cls).splitlines())
        lines += len(inspect.getsource(objective).splitlines()) if objective else 0
        assert lines <= 60
