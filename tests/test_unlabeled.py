"""Images that are trained on and not clustered."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.augment import NoAugmentation, Views
from skcc.data import Store
from skcc.losses import nt_xent
from skcc.methods.contrastive import ContrastiveObjective
from skcc.objective import Objective, Setup
from skcc.training import engine

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
METHODS = pytest.mark.parametrize("cls", [ContrastiveClustering, TwinContrastClustering])
SHORT = {"readout": "head", "max_epochs": 2, "batch_size": 40, "random_state": 0, "image_size": 8}


class Recorder(Objective):
    """Minimises a square, and remembers what passed."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, views, index):
        self.seen.append(("both", index.tolist(), views[0][:, 0].tolist()))
        return {"square": self.weight.square().sum()}

    def unlabeled(self, views, index):
        self.seen.append(("aside", index.tolist(), views[0][:, 0].tolist()))
        return {"square": 2 * self.weight.square().sum()}


def train(objective, n, n_unlabeled, epochs=2, **changes):
    store, aside = (Store(torch.arange(float(m))[:, None]) for m in (n, n_unlabeled))
    settings = {"schedule": "one-cycle", "learning_rate": 0.1, "weight_decay": 0.0} | changes
    return engine.train(
        objective, store, Views(NoAugmentation(), None), epochs=epochs, batch_size=4, seed=0,
        unlabeled=aside, **settings,
    ).history  # fmt: skip


def test_an_epoch_passes_over_the_unlabelled_first():
    objective = Recorder()
    history = train(objective, 8, 20)
    kinds = [kind for kind, _, _ in objective.seen]
    assert kinds == (["aside"] * 5 + ["both"] * 2) * 2
    for kind, index, values in objective.seen:
        first = 8 if kind == "aside" else 0
        assert index == [first + value for value in values]  # indices of the two never meet
    for kind, n in (("aside", 20), ("both", 8)):
        epoch = [v for k, _, values in objective.seen[:7] if k == kind for v in values]
        assert sorted(epoch) == list(range(n))
    assert set(history[0]) == {"square", "unlabeled square"}
    assert history[0]["unlabeled square"] > 1.5 > history[0]["square"]


def test_the_step_size_falls_over_all_steps():
    """By one cycle's end nothing moves: the schedule counts both kinds of steps."""
    rates = []

    class Watched(Recorder):
        def after_step(self):
            rates.append(self.weight.item())

    train(Watched(), 8, 20, epochs=3)
    moved = np.abs(np.diff(rates))
    assert len(rates) == 21
    assert moved[-1] < 0.05 * moved.max()


def test_only_the_contrast_of_instances_sees_them():
    torch.manual_seed(0)
    backbone = nn.Linear(6, 5)
    objective = ContrastiveObjective(
        Setup(backbone, 5, (6,), 8), 3, projection_dim=4, n_heads=2, instance_temperature=0.5,
        cluster_temperature=1.0, instance_weight=0.7, cluster_weight=1.0, entropy_weight=1.0,
    )  # fmt: skip
    a, b = torch.randn(2, 8, 6)
    terms = objective.unlabeled((a, b), torch.arange(8))
    z_a, z_b = (objective.instance_head(backbone(x)) for x in (a, b))
    assert set(terms) == {"instance"}
    assert terms["instance"].item() == pytest.approx(
        0.7 * nt_xent(z_a, z_b, temperature=0.5).item()
    )
    terms["instance"].backward()
    assert all(p.grad is None for p in objective.cluster_heads.parameters())
    assert all(p.grad.abs().sum() > 0 for p in backbone.parameters())


@METHODS
def test_they_change_what_is_learned_and_are_not_clustered(cls, shapes):
    images = shapes[0]
    model = cls(3, **SHORT).fit(images[:80], unlabeled=images[80:])
    alone = cls(3, **SHORT).fit(images[:80])
    assert model.labels_.shape == (80,)
    assert {name for name in model.history_[0] if name.startswith("unlabeled")} == (
        {"unlabeled instance"}
        if cls is ContrastiveClustering
        else {"unlabeled instance", "unlabeled prior"}
    )
    assert model.history_[0]["unlabeled instance"] > 0
    name = next(iter(model.weights_))
    assert not np.array_equal(model.weights_[name], alone.weights_[name])
    np.testing.assert_array_equal(
        cls(3, **SHORT).fit_predict(images[:80], unlabeled=images[80:]), model.labels_
    )


@METHODS
def test_they_help_where_there_are_few(cls, shapes):
    """With as many passes over few images, those that also saw others tell instances better."""
    images, _ = shapes
    how = {"max_epochs": 5, "batch_size": 20, "random_state": 0, "readout": "head"}
    few = cls(3, **how).fit(images[:20])
    more = cls(3, **how).fit(images[:20], unlabeled=images[20:])
    assert more.history_[-1]["instance"] < few.history_[-1]["instance"] - 0.1


def test_files_go_with_arrays(shapes, tmp_path):
    for i, image in enumerate(shapes[0][:12]):
        Image.fromarray(image).resize((20, 24)).save(tmp_path / f"{i:02}.png")
    model = ContrastiveClustering(3, **SHORT).fit(shapes[0], unlabeled=tmp_path)
    assert model.image_shape_ == (16, 16, 1)
    assert len(model.history_) == 2


def test_through_a_pipeline(shapes):
    images = shapes[0]
    direct = ContrastiveClustering(3, **SHORT).fit(images[:80], unlabeled=images[80:])
    pipeline = make_pipeline(FunctionTransformer(), ContrastiveClustering(3, **SHORT))
    pipeline.fit(images[:80], contrastiveclustering__unlabeled=images[80:])
    np.testing.assert_array_equal(pipeline[-1].labels_, direct.labels_)


@pytest.mark.filterwarnings("ignore:max_seconds=")
@METHODS
def test_resumed_is_as_uninterrupted(cls, shapes, tmp_path):
    images = shapes[0]
    whole = cls(3, **SHORT | {"max_epochs": 4}).fit(images[:80], unlabeled=images[80:])
    parts = cls(3, **SHORT | {"max_epochs": 4}, checkpoint_dir=tmp_path, max_seconds=1e-6)
    for epoch in range(1, 5):
        parts.fit(images[:80], unlabeled=images[80:])
        assert parts.n_iter_ == epoch
    for name, weight in whole.weights_.items():
        np.testing.assert_array_equal(parts.weights_[name], weight)
    assert parts.history_ == whole.history_
    with pytest.raises(ValueError, match="belongs to another run: unlabeled was"):
        parts.fit(images[:80], unlabeled=images[81:])
    with pytest.raises(ValueError, match="belongs to another run: unlabeled was"):
        parts.fit(images[:80])


@pytest.mark.parametrize(
    ("unlabeled", "error", "message"),
    [
        (np.zeros((9, 8, 8), np.uint8), ValueError, r"unlabeled: X holds images of shape \(8, 8"),
        (np.zeros((9, 16, 16, 3), np.uint8), ValueError, "unlabeled: X holds images of shape"),
        (np.zeros((1, 16, 16), np.uint8), ValueError, "unlabeled holds 1 sample"),
        (np.full((9, 16, 16), np.nan), ValueError, "unlabeled: Input contains NaN"),
        ([], ValueError, "unlabeled: "),
        ("no such folder", OSError, "unlabeled: no such folder is not there"),
    ],
)
def test_unfit_ones_are_refused_before_training(shapes, unlabeled, error, message):
    model = ContrastiveClustering(3, **SHORT)
    with pytest.raises(error, match=message):
        model.fit(shapes[0], unlabeled=unlabeled)
    assert not hasattr(model, "labels_")


def test_they_need_the_contrast_of_instances(shapes):
    with pytest.raises(ValueError, match="unlabeled images are of use for an instance_weight > 0"):
        ContrastiveClustering(3, instance_weight=0).fit(shapes[0], unlabeled=shapes[0])


def test_a_time_limit_ends_training_after_the_last_epoch_that_fits(shapes):
    images = shapes[0]
    how = {"batch_size": 40, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match=r"max_seconds=1 .* \d+ of 100000 epochs$"):
        short = ContrastiveClustering(3, max_epochs=100_000, max_seconds=1.0, **how).fit(images)
    assert 1 <= short.n_iter_ < 100_000
    long = ContrastiveClustering(3, max_epochs=3, max_seconds=1e6, **how).fit(images)
    assert long.n_iter_ == 3
    for wrong in (0, -1.0, "1", np.nan):
        with pytest.raises(ValueError, match="max_seconds must be a number > 0 or None"):
            ContrastiveClustering(3, max_seconds=wrong).fit(images)
