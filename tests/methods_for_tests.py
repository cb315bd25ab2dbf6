"""Small methods that use what Contrastive Clustering does not: each part of the seam, once.

They are estimators like any other, so `tests/test_seam.py` fits, saves, interrupts and shares them.
"""

import torch
from torch import nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.losses import negative_entropy
from skcc.objective import Objective, Phase


class SmallBackbone(nn.Module):
    """A small network that computes in the type of its weights."""

    def __init__(self, n_in, n_out=12):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(n_in, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
            nn.Linear(24, n_out),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x.to(self.layers[1].weight.dtype))


# -- two phases: an autoencoder, then self-training on its encoder -----------------------------


class Autoencoder(Objective):
    """One plain view, encoded and decoded; clusters are k-means of the code."""

    n_views = 0
    n_embedding = 6

    def __init__(self, setup):
        super().__init__()
        self.backbone = setup.backbone
        self.code = nn.Linear(setup.n_features, self.n_embedding)
        shape = setup.view_shape
        n_out = int(torch.Size(shape).numel())
        self.decoder = nn.Sequential(nn.Linear(self.n_embedding, n_out), nn.Unflatten(1, shape))

    def forward(self, views, index):
        (image,) = views
        error = self.decoder(self.embed(image)) - image
        return {"reconstruction": gather(error.square().flatten(1).mean(1))[0].mean()}

    def embed(self, images):
        return self.code(self.backbone(images))


class SelfTraining(Objective):
    """Sharpens the assignments to centres that k-means gives before the first epoch."""

    n_views = 1

    def __init__(self, autoencoder, n_clusters, n_samples):
        super().__init__()
        self.autoencoder, self.n_embedding = autoencoder, autoencoder.n_embedding
        self.centers = nn.Parameter(torch.zeros(n_clusters, self.n_embedding))
        self.register_buffer("target", torch.zeros(n_samples, n_clusters))

    def before_epoch(self, epoch):
        if epoch.number == 0:
            _, centers = epoch.k_means(self.embed, len(self.centers))
            self.centers.data.copy_(centers)
        p = epoch.sweep(self.assign)
        weight = p**2 / p.sum(0)
        self.target.copy_(weight / weight.sum(1, keepdim=True))

    def forward(self, views, index):
        p, target = gather(self.assign(views[0]), self.target[index])
        return {"divergence": F.kl_div(p.log(), target.to(p.dtype), reduction="batchmean")}

    def assign(self, images):
        q = 1 / (1 + torch.cdist(self.embed(images), self.centers).square())
        return q / q.sum(1, keepdim=True)

    def embed(self, images):
        return self.autoencoder.embed(images)


class TwoPhases(BaseDeepClusterer):
    """An autoencoder, then self-training.

    Parameters
    ----------
    pretraining_epochs : int, default=2
        Epochs of the autoencoder.
    """

    pretraining_epochs: int = 2

    def _planned_epochs(self):
        return self.pretraining_epochs + self.settings_["max_epochs"]

    def _phases(self, setup):
        autoencoder = Autoencoder(setup)
        yield Phase(autoencoder, "pretrain", epochs=self.pretraining_epochs, schedule="constant")
        yield Phase(SelfTraining(autoencoder, self.n_clusters, setup.n_samples), "cluster")


# -- two turns with an optimizer each: a generative adversarial network ------------------------


class Adversarial(Objective):
    """Discriminator and generator; clusters are k-means of the discriminator's features."""

    n_views = 1
    turns = ("discriminator", "generator")

    def __init__(self, setup, n_noise=5):
        super().__init__()
        self.n_embedding = setup.n_features
        n_out = int(torch.Size(setup.view_shape).numel())
        self.generator_net = nn.Sequential(
            nn.Linear(n_noise, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, n_out),
            nn.Sigmoid(), nn.Unflatten(1, setup.view_shape),
        )  # fmt: skip
        self.backbone, self.score = setup.backbone, nn.Linear(setup.n_features, 1)
        self.register_buffer("noise", torch.zeros(setup.n_samples, n_noise))

    def parameters_of(self, turn):
        own = self.generator_net.parameters()
        if turn == "generator":
            return own
        return [*self.backbone.parameters(), *self.score.parameters()]

    def before_epoch(self, epoch):
        self.noise.copy_(torch.randn(self.noise.shape, generator=epoch.generator))

    def discriminator(self, views, index):
        fake = self._fake(index).detach()
        real, fake = gather(self.score(self.embed(views[0])), self.score(self.embed(fake)))
        return {"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}

    def generator(self, views, index):
        (fake,) = gather(self.score(self.embed(self._fake(index))))
        return {"fooled": F.softplus(-fake).mean()}

    def _fake(self, index):
        return self.generator_net(self.noise[index])

    def embed(self, images):
        return self.backbone(images)

    def release(self):
        self.generator_net = self.noise = None


class TwoTurns(BaseDeepClusterer):
    """A small generative adversarial network, with its own betas."""

    def _phases(self, setup):
        yield Phase(Adversarial(setup), betas=(0.5, 0.999))


# -- k-means and a head that is reset each epoch, sampling by weights, state of length n --------


class PseudoLabels(Objective):
    """Learns labels of k-means; the head begins anew, clusters are drawn equally often."""

    n_views = 1

    def __init__(self, setup, n_clusters):
        super().__init__()
        self.n_embedding, self.n_clusters = setup.n_features, n_clusters
        self.backbone = setup.backbone
        self.head = nn.Linear(setup.n_features, n_clusters)
        self.register_buffer("labels", torch.full((setup.n_samples,), -1))
        self.register_buffer("loss_of", torch.zeros(setup.n_samples))

    def before_epoch(self, epoch):
        labels, _ = epoch.k_means(self.embed, self.n_clusters)
        self.labels.copy_(labels)
        epoch.reset(self.head)

    def sample_weights(self):
        return 1 / self.labels.bincount(minlength=self.n_clusters)[self.labels].double()

    def forward(self, views, index):
        logits, index = gather(self.head(self.embed(views[0])), index)
        loss = F.cross_entropy(logits, self.labels[index], reduction="none")
        self.loss_of[index] = loss.detach().to(self.loss_of.dtype)
        return {"pseudo": loss.mean()}

    def assign(self, images):
        return self.head(self.embed(images)).softmax(1)

    def embed(self, images):
        return self.backbone(images)


class EachEpochAnew(BaseDeepClusterer):
    """K-means and a new head in each epoch."""

    def _phases(self, setup):
        yield Phase(PseudoLabels(setup, self.n_clusters))


# -- four views, of which the last is plain ---------------------------------------------------


class Agreement(Objective):
    """Three augmented views agree with the plain one; `embed` is narrower than the backbone."""

    n_views, n_augmented = 4, 3
    n_embedding = 4

    def __init__(self, setup, n_clusters):
        super().__init__()
        self.backbone, self.head = setup.backbone, nn.Linear(self.n_embedding, n_clusters)
        self.neck = nn.Linear(setup.n_features, self.n_embedding)

    def forward(self, views, index):
        *augmented, plain = gather(*(self.assign(view) for view in views))
        agreement = sum((p * plain).sum(1).log().mean() for p in augmented)
        return {"agreement": -agreement / 3, "entropy": negative_entropy(plain)}

    def assign(self, images):
        return self.head(self.embed(images)).softmax(1)

    def embed(self, images):
        return self.neck(self.backbone(images))


class FourViews(BaseDeepClusterer):
    """Agreement of four views."""

    def _phases(self, setup):
        yield Phase(Agreement(setup, self.n_clusters))


# -- noise from the global generator ----------------------------------------------------------


class Dropped(Agreement):
    """Agreement of two views under dropout."""

    n_views, n_augmented, draws = 2, None, True

    def forward(self, views, index):
        p, q = (self.head(F.dropout(self.embed(v), 0.3)).softmax(1) for v in views)
        return {"agreement": -(p * q).sum(1).log().mean(), "entropy": negative_entropy(p)}


class Drawing(BaseDeepClusterer):
    """A method whose loss draws from torch's global generator."""

    def _phases(self, setup):
        yield Phase(Dropped(setup, self.n_clusters))


METHODS = [TwoPhases, TwoTurns, EachEpochAnew, FourViews, Drawing]
