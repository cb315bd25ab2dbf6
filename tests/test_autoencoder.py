"""Autoencoders, variational ones and Deep Embedded Clustering, against formulas and loops."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from skcc import (
    DEC,
    AutoencoderClustering,
    DenoisingAutoencoderClustering,
    VariationalAutoencoderClustering,
)
from skcc.decoders import decoder
from skcc.methods.autoencoder import (
    AutoencoderObjective,
    VariationalObjective,
    Whitening,
    corrupt,
    gaussian_divergence,
    squared_error,
)
from skcc.methods.embedded import (
    SelfTrainingObjective,
    student_assignments,
    target_distribution,
)
from skcc.objective import Epoch, Setup

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of .* are small"),
]
SHAPE = (1, 4, 4)


def setup(n_samples=6):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh())
    return Setup(backbone, 8, SHAPE, n_samples)


def images(n=6, seed=1):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def planted():
    """Three prototypes of 8 x 8 pixels with noise, and which is which."""
    rng = np.random.default_rng(0)
    prototypes, kinds = rng.random((3, 8, 8)) > 0.5, np.arange(90) % 3
    X = 0.2 + 0.6 * prototypes[kinds] + rng.uniform(-0.2, 0.2, (90, 8, 8))
    return X.astype(np.float32), kinds


# -- decoders -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 17, 11), (2, 1, 1), (1, 2, 33), (4, 64, 40), (5,), (1,)]
)
def test_decoders_meet_every_shape(shape):
    network = decoder(3, shape)
    output = network(torch.randn(4, 3))
    assert output.shape == (4, *shape)
    output.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_decoder_can_fit_an_image():
    """Each pixel is within reach of the code, also at the borders of odd sides."""
    torch.manual_seed(0)
    network, target = decoder(8, (1, 9, 7), width=8), torch.rand(4, 1, 9, 7)
    code, optimizer = torch.randn(4, 8), torch.optim.Adam(network.parameters(), 0.03)
    for _ in range(80):
        loss = (network(code) - target).square().mean(dim=0)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert loss.max() < 0.02  # the variance of a pixel is 0.08


# -- corruption and autoencoders ------------------------------------------------------------


def test_masking_takes_whole_pixels_in_the_given_share():
    torch.manual_seed(0)
    x = torch.rand(50, 3, 20, 20) + 0.1
    masked = corrupt(x, "masking", 0.3)
    gone = masked == 0
    assert torch.equal(gone.any(dim=1), gone.all(dim=1))
    assert abs(gone.float().mean() - 0.3) < 0.01
    assert torch.equal(masked[~gone], x[~gone])
    vectors = corrupt(torch.ones(400, 30), "masking", 0.3)
    assert abs((vectors == 0).float().mean() - 0.3) < 0.02


def test_noise_has_the_given_deviation_and_level_0_is_none():
    torch.manual_seed(0)
    x = torch.rand(50, 1, 20, 20)
    noise = corrupt(x, "gaussian", 0.25) - x
    assert abs(noise.std() - 0.25) < 0.01
    assert abs(noise.mean()) < 0.01
    for corruption in ("masking", "gaussian"):
        assert corrupt(x, corruption, 0.0) is x


def test_the_error_of_two_images_by_hand():
    output = torch.tensor([[[[0.0, 1.0], [0.5, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    x = torch.tensor([[[[0.5, 1.0], [0.5, 1.0]]], [[[1.0, 0.0], [1.0, 1.0]]]])
    expected = [(0.25 + 0 + 0 + 1) / 4, (0 + 1 + 0 + 0) / 4]
    assert squared_error(output, x).tolist() == expected


def test_the_clean_image_is_reconstructed_from_the_corrupted_one():
    objective = AutoencoderObjective(
        setup(), n_clusters=3, code_dim=3, corruption="masking", corruption_level=0.4
    )
    assert objective.draws
    x, seen = images(), []
    objective.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(*inputs))
    torch.manual_seed(3)
    loss = objective((x,), torch.arange(6))["reconstruction"]
    torch.manual_seed(3)
    corrupted = corrupt(x, "masking", 0.4)
    assert torch.equal(seen[0], corrupted)
    assert not torch.equal(corrupted, x)
    with torch.no_grad():
        expected = (objective.decoder(objective.encode(corrupted)) - x).square().mean()
    torch.testing.assert_close(loss.detach(), expected)


def test_an_autoencoder_without_corruption_draws_nothing():
    objective = AutoencoderObjective(setup(), n_clusters=3, code_dim=3)
    assert not objective.draws
    before = torch.get_rng_state()
    objective((images(),), torch.arange(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_whitened_rows_are_uncorrelated_and_any_affine_map_of_them_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    rows, mixing = (torch.randn(n, 4, generator=generator).double() for n in (300, 4))
    outputs = []
    for given in (rows, rows @ mixing + 3):
        whitening = Whitening(4, 4).double()
        whitening.fit(given)
        outputs.append(whitening(given).numpy())
    for output in outputs:
        np.testing.assert_allclose(np.cov(output.T, bias=True), np.eye(4), atol=1e-5)
        np.testing.assert_allclose(output.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(cdist(*outputs[:1], *outputs[:1]), cdist(*outputs[1:], *outputs[1:]),
                               atol=1e-5)  # fmt: skip


def test_the_components_of_largest_variance_are_kept():
    rows = torch.randn(300, 4) * torch.tensor([0.1, 3.0, 0.5, 2.0])
    whitening = Whitening(4, 2)
    whitening.fit(rows)
    found = whitening(rows)
    expected = PCA(2, whiten=True).fit_transform(rows.numpy())
    correlation = np.corrcoef(found.numpy().T, expected.T)[:2, 2:]
    np.testing.assert_allclose(np.abs(correlation), np.eye(2), atol=1e-4)


def test_directions_without_variance_become_0():
    rows = torch.randn(50, 2) @ torch.randn(2, 5)
    whitening = Whitening(5, 5)
    whitening.fit(rows)
    covariance = np.cov(whitening(rows).numpy().T, bias=True)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), [0, 0, 0, 1, 1], atol=1e-3)
    whitening.fit(torch.full((4, 5), 2.0))
    assert whitening(torch.full((3, 5), 2.0)).abs().max() == 0


def test_the_embedding_is_the_whitened_code():
    objective, x = AutoencoderObjective(setup(), n_clusters=3, code_dim=3).eval(), images(60)
    assert torch.equal(objective.embed(x), objective.encode(x))
    objective.after_training(Epoch(1, lambda f: f(x).detach(), torch.Generator()))
    covariance = np.cov(objective.embed(x).detach().numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(3), atol=1e-3)
    assert not torch.equal(objective.embed(x), objective.encode(x))


# -- variational autoencoders ---------------------------------------------------------------


def test_the_divergence_is_that_of_torch_and_0_at_the_prior():
    mean, log_variance = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    reference = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), reference.sum(dim=1))
    assert gaussian_divergence(torch.zeros(2, 4), torch.zeros(2, 4)).tolist() == [0, 0]


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_bound_of_two_images_is_that_of_torchs_distributions(likelihood):
    objective = VariationalObjective(setup(), code_dim=2, likelihood=likelihood)
    output, x = torch.randn(2, 1, 3, 3).double(), torch.rand(2, 1, 3, 3).double()
    mean, log_variance = torch.randn(2, 2).double(), torch.randn(2, 2).double()
    terms = objective.losses(output, x, mean, log_variance)
    if likelihood == "gaussian":
        deviation = math.sqrt(sum(float(d) ** 2 for d in (output - x).flatten()) / 18)
        log_p = Normal(output, deviation).log_prob(x)
    else:
        log_p = Bernoulli(logits=output, validate_args=False).log_prob(x)
    torch.testing.assert_close(terms["reconstruction"], -log_p.sum() / 2)
    torch.testing.assert_close(terms["divergence"], gaussian_divergence(mean, log_variance).mean())


def test_no_other_variance_gives_a_larger_likelihood():
    objective = VariationalObjective(setup(), code_dim=2, likelihood="gaussian")
    output, x = torch.randn(4, 1, 3, 3), torch.rand(4, 1, 3, 3)
    loss = objective.losses(output, x, torch.zeros(4, 2), torch.zeros(4, 2))["reconstruction"]
    for factor in (0.8, 0.95, 1.05, 1.25):
        deviation = (output - x).square().mean().sqrt() * factor
        assert -Normal(output, deviation).log_prob(x).sum() / 4 > loss


def test_a_perfect_reconstruction_is_finite():
    objective = VariationalObjective(setup(), code_dim=2, likelihood="gaussian")
    x = torch.rand(4, 1, 3, 3)
    terms = objective.losses(x.clone().requires_grad_(), x, torch.zeros(4, 2), torch.zeros(4, 2))
    assert torch.isfinite(terms["reconstruction"])
    gradient = torch.autograd.grad(terms["reconstruction"], terms["reconstruction"])
    assert torch.isfinite(gradient[0])


def test_the_variational_code_is_sampled_in_training_and_the_mean_afterwards():
    objective = VariationalObjective(setup(), code_dim=2, likelihood="gaussian")
    decoded = []
    objective.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(*inputs))
    torch.manual_seed(5)
    objective((images(),), torch.arange(6))
    torch.manual_seed(5)
    h = objective.backbone(images())
    noise = torch.randn(6, 2)
    expected = objective.mean(h) + noise * (objective.log_variance(h) / 2).exp()
    torch.testing.assert_close(decoded[0], expected)
    torch.testing.assert_close(objective.embed(images()), objective.mean(h))


# -- Deep Embedded Clustering ---------------------------------------------------------------


def slow_assignments(code, centers):
    q = np.zeros((len(code), len(centers)))
    for i, z in enumerate(code.tolist()):
        for j, center in enumerate(centers.tolist()):
            q[i, j] = 1 / (1 + sum((a - b) ** 2 for a, b in zip(z, center, strict=True)))
        q[i] /= q[i].sum()
    return q


def slow_target(q):
    p = np.zeros_like(q)
    for i in range(len(q)):
        for j in range(q.shape[1]):
            p[i, j] = q[i, j] ** 2 / sum(q[m, j] for m in range(len(q)))
        p[i] /= p[i].sum()
    return p


def test_assignments_and_target_are_those_of_the_loops():
    code, centers = torch.randn(7, 3).double(), torch.randn(4, 3).double()
    q = student_assignments(code, centers)
    np.testing.assert_allclose(q, slow_assignments(code, centers), atol=1e-12)
    np.testing.assert_allclose(target_distribution(q), slow_target(q.numpy()), atol=1e-12)


def test_the_target_sums_to_one_and_sharpens():
    torch.manual_seed(0)
    half = torch.rand(50, 3).softmax(dim=1)
    q = torch.cat([half, half.roll(1, dims=1), half.roll(2, dims=1)])  # clusters of equal size
    p = target_distribution(q)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(150))
    assert torch.equal(p.argmax(dim=1), q.argmax(dim=1))
    assert (p.max(dim=1).values >= q.max(dim=1).values).all()
    certain = torch.eye(3)[torch.arange(9) % 3]
    assert torch.equal(target_distribution(certain), certain)


def test_the_target_of_two_samples_by_hand():
    """Clusters of size 1.2 and 0.8."""
    p = target_distribution(torch.tensor([[0.8, 0.2], [0.4, 0.6]]).double())
    first, second = 0.64 / 1.2 + 0.04 / 0.8, 0.16 / 1.2 + 0.36 / 0.8
    expected = [[0.64 / 1.2 / first, 0.04 / 0.8 / first],
                [0.16 / 1.2 / second, 0.36 / 0.8 / second]]  # fmt: skip
    np.testing.assert_allclose(p, expected, atol=1e-12)


def self_training(weight, n=6, k=2):
    autoencoder = AutoencoderObjective(setup(n), n_clusters=3, code_dim=3).eval()
    return SelfTrainingObjective(autoencoder, k, n, reconstruction_weight=weight).eval()


def test_the_target_is_that_of_the_whole_set():
    objective, x = self_training(0.0, n=40, k=3), images(40)
    objective.whitening.matrix.mul_(10)  # a code of about unit variance
    epoch = Epoch(0, lambda function: function(x).detach(), torch.Generator().manual_seed(0))
    objective.before_epoch(epoch)
    with torch.no_grad():
        q = slow_assignments(objective.embed(x), objective.centers)
    np.testing.assert_allclose(objective.target, slow_target(q), atol=1e-5)
    by_halves = np.concatenate([slow_target(q[:20]), slow_target(q[20:])])
    assert np.abs(by_halves - slow_target(q)).max() > 1e-3
    centers = objective.centers.detach().clone()
    objective.before_epoch(Epoch(1, epoch.sweep, epoch.generator))
    assert torch.equal(objective.centers, centers)  # k-means only begins


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_loss_of_two_samples_by_hand(weight):
    objective, x = self_training(weight), images(2)
    objective.centers.data.copy_(torch.randn(2, 3))
    objective.target.copy_(torch.tensor([[0.9, 0.1], [0.3, 0.7]] * 3))
    index = torch.tensor([4, 1])
    terms = objective((x,), index)
    q = slow_assignments(objective.embed(x).detach(), objective.centers.detach())
    p = objective.target[index].double().numpy()
    expected = sum(p[i, j] * math.log(p[i, j] / q[i, j]) for i in range(2) for j in range(2)) / 2
    assert terms["divergence"].item() == pytest.approx(expected, rel=1e-5)
    assert ("reconstruction" in terms) == (objective.decoder is not None) == (weight > 0)
    if weight:
        error = (objective.decoder(objective.code(objective.backbone(x))) - x).square().mean()
        assert terms["reconstruction"].item() == pytest.approx(0.25 * error.item(), rel=1e-5)


def test_encoder_and_centers_are_trained_and_the_target_is_not():
    objective = self_training(0.0)
    objective.centers.data.copy_(torch.randn(2, 3))
    objective.target.copy_(target_distribution(torch.rand(6, 2).softmax(dim=1)))
    objective((images(),), torch.arange(6))["divergence"].backward()
    assert objective.centers.grad.abs().max() > 1e-4
    assert objective.backbone[1].weight.grad.abs().max() > 1e-4
    assert not objective.target.requires_grad


def test_the_code_in_training_is_the_one_of_the_target():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8))
    autoencoder = AutoencoderObjective(Setup(backbone, 8, SHAPE, 6), code_dim=3, n_clusters=2)
    objective = SelfTrainingObjective(autoencoder, 2, 6, reconstruction_weight=0.1)
    objective.centers.data.copy_(torch.randn(2, 2))
    objective.eval()
    q = objective.assign(images())
    objective.train()
    assert objective.decoder.training
    assert torch.equal(objective.assign(images()), q)


def test_self_training_goes_on_from_its_own_epoch(planted, tmp_path):
    """The first phase is loaded; targets and centres of the second are those of the checkpoint."""
    settings = {"backbone": Small(), "max_epochs": 4, "pretraining_epochs": 2, "random_state": 0}
    settings |= {"batch_size": 45, "reconstruction_weight": 0.1}

    class Stop:
        def setup(self, estimator, context):
            self.seen = 0

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context):
            self.seen += context.task_name == "epoch"
            return self.seen == 4

    whole = DEC(3, **settings).fit(planted[0])
    part = DEC(3, checkpoint_dir=tmp_path, **settings)
    assert part.set_callbacks(Stop()).fit(planted[0]).n_iter_ == 4
    resumed = part.set_callbacks().fit(planted[0])
    assert [*map(len, resumed.history_)] == [1, 1, 2, 2, 2, 2]
    assert resumed.history_ == whole.history_
    np.testing.assert_equal(resumed.weights_, whole.weights_)


# -- estimators -----------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (AutoencoderClustering, {}),
        (DenoisingAutoencoderClustering, {}),
        (DenoisingAutoencoderClustering, {"corruption": "masking"}),
        (VariationalAutoencoderClustering, {}),
        (VariationalAutoencoderClustering, {"likelihood": "bernoulli"}),
        (DEC, {}),
        (DEC, {"reconstruction_weight": 0.1}),
    ],
)
def test_planted_prototypes_are_found(planted, cls, changes):
    X, kinds = planted
    torch.manual_seed(0)
    model = cls(3, backbone=Small(), max_epochs=15, batch_size=45, random_state=0, **changes).fit(X)
    assert adjusted_rand_score(kinds, model.labels_) > 0.95
    first, last = (model.history_[i].get("reconstruction", 0) for i in (0, -1))
    assert last < first or cls is DEC


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (AutoencoderClustering, {"code_dim": 0}, "code_dim must be an int"),
        (DenoisingAutoencoderClustering, {"corruption": "blur"}, "'masking'.*'gaussian'"),
        (
            DenoisingAutoencoderClustering,
            {"corruption": "masking", "corruption_level": 1.5},
            "corruption_level.*<= 1",
        ),
        (VariationalAutoencoderClustering, {"likelihood": "poisson"}, "'gaussian'.*'bernoulli'"),
        (DEC, {"pretraining_epochs": 0}, "pretraining_epochs must be .*'auto'"),
        (DEC, {"reconstruction_weight": -1}, "reconstruction_weight must be a number >= 0"),
    ],
)
def test_invalid_parameters(planted, cls, changes, message):
    with pytest.raises(ValueError, match=message):
        cls(3, **changes).fit(planted[0])


def test_bernoulli_is_not_for_vectors():
    with pytest.raises(ValueError, match=r"likelihood='bernoulli' is for images.* 2 features"):
        VariationalAutoencoderClustering(2, likelihood="bernoulli").fit(np.eye(6)[:, :2])


@pytest.mark.parametrize(
    "cls", [AutoencoderClustering, DenoisingAutoencoderClustering, DEC,
            VariationalAutoencoderClustering]
)  # fmt: skip
@pytest.mark.parametrize(
    "X", [np.full((12, 6, 5), 0.5), np.random.default_rng(0).random((4, 6, 5)), np.ones((9, 2))],
    ids=["constant images", "fewer samples than the code is wide", "constant vectors"],
)  # fmt: skip
def test_poor_data_gives_finite_results(cls, X):
    model = cls(2, max_epochs=2, code_dim=10, random_state=0).fit(X)
    assert np.isfinite(model.predict_proba(X)).all()
    assert np.isfinite(model.transform(X)).all()
    assert all(np.isfinite([*terms.values()]).all() for terms in model.history_)


def test_what_only_training_needs_is_not_kept(planted):
    for cls in (AutoencoderClustering, VariationalAutoencoderClustering, DEC):
        model = cls(3, backbone=Small(), max_epochs=1, random_state=0).fit(planted[0])
        assert not [n for n in model.weights_ if n.startswith(("decoder", "target", "log_var"))]
