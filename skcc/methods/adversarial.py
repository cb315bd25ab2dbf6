"""Deep convolutional generative adversarial networks (Radford, Metz, Chintala, ICLR 2016).

The row DCGAN of the table of Contrastive Clustering: k-means of what the discriminator sees. The
discriminator is the backbone, changed by the paper's guidelines; the generator mirrors it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.decoders import decoder
from skcc.distributed import gather
from skcc.methods.pooling import pool_to_grid, principal_components
from skcc.objective import Objective, Phase, Setup
from skcc.validation import check_integer, check_real

SLOPE = 0.2  # of LeakyReLU below zero, as in the paper
BETAS = (0.5, 0.999)
LEARNING_RATE = 1e-3  # of some hundred steps; the paper has 2e-4 for many more


def discriminator_of(backbone: nn.Module) -> nn.Module:
    """Change a backbone by the guidelines of the paper.

    Parameters
    ----------
    backbone : nn.Module
        Changed in place: each ReLU becomes a LeakyReLU, the first batch normalisation is left out.

    Returns
    -------
    network : nn.Module
        The backbone.
    """
    is_first = True
    for parent in list(backbone.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.ReLU):
                setattr(parent, name, nn.LeakyReLU(SLOPE, inplace=True))
            elif isinstance(layer, nn.BatchNorm2d) and is_first:
                setattr(parent, name, nn.Identity())
                is_first = False
    return backbone


def layer_outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Maps of all layers, and the features.

    Parameters
    ----------
    network : nn.Module
        If it is no sequence of layers, the features are all there is.

    x : Tensor of shape (n, c, h, w) or (n, d)
        Input of the network.

    Returns
    -------
    outputs : list of Tensor
        Those of shape (n, c, h, w), from the first layer to the last, and the last one.
    """
    outputs = []
    for layer in network if isinstance(network, nn.Sequential) else [network]:
        x = layer(x)
        outputs.append(x)
    return [output for output in outputs[:-1] if output.ndim == 4] + outputs[-1:]


class AdversarialObjective(Objective):
    """A discriminator of samples, and a generator that tries to deceive it.

    Parameters
    ----------
    setup : Setup
        Backbone, and shape of the views.

    noise_dim, pooled_cells, n_components : int
        See `DCGANClustering`.

    label_smoothing : float
        See `DCGANClustering`.
    """

    n_views = 0
    turns = ("discriminator", "generator")
    capturable = True

    def __init__(
        self,
        setup: Setup,
        *,
        noise_dim: int,
        pooled_cells: int,
        n_components: int,
        label_smoothing: float,
    ):
        super().__init__()
        self.backbone = discriminator_of(setup.backbone)
        self.critic = nn.Linear(setup.n_features, 1)
        self.generator_network = decoder(noise_dim, setup.view_shape)
        self.is_image = len(setup.view_shape) == 3
        self.pooled_cells, self.label_smoothing = pooled_cells, label_smoothing
        widths = self._pooled_widths(setup.view_shape)
        self.n_embedding = min(n_components, sum(widths))
        self.register_buffer("center", torch.zeros(sum(widths)))
        self.register_buffer("components", torch.zeros(sum(widths), self.n_embedding))
        self._widths = widths
        noise = torch.zeros(setup.n_samples, noise_dim)
        self.register_buffer("noise", noise, persistent=False)

    @torch.no_grad()
    def _pooled_widths(self, shape):
        """Numbers per sample that each layer contributes."""
        self.backbone.eval()
        widths = [rows.shape[1] for rows in self._pooled_layers(torch.zeros(2, *shape))]
        self.backbone.train()
        return widths

    def parameters_of(self, turn: str):
        if turn == "generator":
            return self.generator_network.parameters()
        return [*self.backbone.parameters(), *self.critic.parameters()]

    def before_epoch(self, epoch):
        self.noise.copy_(torch.randn(self.noise.shape, generator=epoch.generator))

    def discriminator(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss terms of the discriminator: real samples are real, generated ones are not.

        Parameters
        ----------
        views : tuple of Tensor
            As in `forward` of other objectives.

        index : Tensor of shape (b,)
            Indices of the samples; each has its noise.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            "real" and "fake", in nats.
        """
        fake = self.generate(index).detach()
        real, fake = gather(self._logit(views[0]), self._logit(fake))
        target = torch.full_like(real, 1 - self.label_smoothing)
        return {
            "real": F.binary_cross_entropy_with_logits(real, target),
            "fake": F.softplus(fake).mean(),
        }

    def generator(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss term of the generator, which does not saturate: what it generates is real.

        Parameters
        ----------
        views : tuple of Tensor
            As in `forward` of other objectives.

        index : Tensor of shape (b,)
            Indices of the samples; each has its noise.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            "deceived", in nats.
        """
        (fake,) = gather(self._logit(self.generate(index)))
        return {"deceived": F.softplus(-fake).mean()}

    def generate(self, index: Tensor) -> Tensor:
        """Generate a sample from the noise of each index.

        Parameters
        ----------
        index : Tensor of shape (b,)
            Indices of samples.

        Returns
        -------
        x : Tensor of shape (b, c, h, w) or (b, d)
            Images in [0, 1], or vectors.
        """
        output = self.generator_network(self.noise[index])
        return output.sigmoid() if self.is_image else output

    def _logit(self, x):
        logit = self.critic(self.backbone(x))
        return logit if logit.dtype == torch.float64 else logit.float()

    def _pooled_layers(self, x):
        outputs = layer_outputs(self.backbone, x)
        return [pool_to_grid(h, self.pooled_cells) if h.ndim == 4 else h for h in outputs]

    def _pooled(self, x):
        return torch.cat(self._pooled_layers(x), dim=1)

    def after_training(self, epoch):
        pooled = epoch.sweep(self._pooled)
        center = pooled.mean(dim=0)
        pooled = pooled - center
        # Layers count equally, whatever the size of their maps and the scale of their outputs.
        power = [rows.square().sum(dim=1).mean() for rows in pooled.split(self._widths, dim=1)]
        weights = [1 / p.sqrt() if p > 0 else torch.ones(()) for p in power]
        weight = torch.cat([w.expand(n) for w, n in zip(weights, self._widths, strict=True)])
        components = principal_components(pooled * weight, self.n_embedding, epoch.generator)
        self.center.copy_(center)
        self.components.copy_(weight[:, None] * components)

    def embed(self, images: Tensor) -> Tensor:
        pooled = self._pooled(images)
        return (pooled.to(self.center.dtype) - self.center) @ self.components

    def release(self):
        self.generator_network = self.critic = self.noise = None


class DCGANClustering(BaseDeepClusterer):
    """Cluster images by what the discriminator of a generative adversarial network sees.

    A generator makes images of noise, and a discriminator learns to tell them from those of the
    set; each is trained against the other. The maps of all layers of the discriminator are pooled
    to a grid and reduced to their principal components [1]_; k-means of these gives the clusters.

    Parameters
    ----------
    noise_dim : int, default=100
        Width of the noise that images are made of.

    pooled_cells : int, default=2
        Rows and columns of the grid in whose cells the maximum of a map is taken.

    n_components : int, default=50
        Principal components of the pooled maps that are clustered.

    label_smoothing : float, default=0.1
        How far the target of real images is below 1, which keeps the discriminator from being
        certain. The paper has 0.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch, in nats: "real" and "fake" of the discriminator, which are
        log 2 while it tells nothing apart, and "deceived" of the generator.

    See Also
    --------
    VariationalAutoencoderClustering : A generative model with an encoder of its own.

    Notes
    -----
    The discriminator is the backbone with LeakyReLU in place of ReLU and without its first batch
    normalisation, and the generator mirrors it; so the guidelines of the paper hold for a network
    that fits the images. Features of all layers are those that the paper gives to a linear
    classifier, where the grid has 4 x 4 cells. Layers count equally here: each is divided by the
    root of its total variance.

    The features are not made for clustering. On digits expect an accuracy somewhat better than that
    of k-means of the pixels.

    References
    ----------
    .. [1] A. Radford, L. Metz, S. Chintala. "Unsupervised Representation Learning with Deep
       Convolutional Generative Adversarial Networks". ICLR 2016.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DCGANClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = DCGANClustering(n_clusters=3, max_epochs=4, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    noise_dim: int = 100
    pooled_cells: int = 2
    n_components: int = 50
    label_smoothing: float = 0.1

    _auto_epochs = 0.5
    _auto_image_backbone = "conv4"  # a residual network leaves the generator nothing to learn
    _auto_learning_rate = LEARNING_RATE
    _collapse_remedies = ("More epochs", "more components", "fewer clusters")

    def _head_is_trained(self):
        return False  # there is none; clusters are those of features

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("noise_dim", "pooled_cells", "n_components"):
            check_integer(name, getattr(self, name), 1)
        check_real("label_smoothing", self.label_smoothing, 0, 0.5)

    def _phases(self, setup):
        parameters = self._parameters_for(AdversarialObjective)
        yield Phase(AdversarialObjective(setup, **parameters), betas=BETAS)
