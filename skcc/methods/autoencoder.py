"""Autoencoders whose code is clustered by k-means: plain, denoising and variational.

The rows AE, DAE and VAE of the table of Contrastive Clustering. Their networks there are not
documented, so the encoder is the backbone and the decoder its mirror.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.decoders import decoder
from skcc.distributed import gather
from skcc.objective import Objective, Phase, Setup
from skcc.validation import check_choice, check_integer, check_real

NEGLIGIBLE = 1e-6  # variances below this share of the largest are rounding
SMALLEST_VARIANCE = (1 / 255) ** 2 / 12  # of rounding to 8 bits, per pixel


def corrupt(x: Tensor, corruption: str, level: float) -> Tensor:
    """Corrupt samples at random, by torch's global generator.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Images in [0, 1], or standardised vectors.

    corruption : {"masking", "gaussian"}
        Masking sets all channels of a pixel, or a feature, to 0. Gaussian noise is added.

    level : float
        Probability of being masked, or standard deviation of the noise.

    Returns
    -------
    corrupted : Tensor of shape (n, ...)
        `x` itself if the level is 0.
    """
    if level == 0:
        return x
    if corruption == "gaussian":
        return x + level * torch.randn_like(x)
    pixels = x[:, :1] if x.ndim == 4 else x
    return x * (torch.rand_like(pixels) >= level)


def squared_error(output: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of each sample, over its pixels and channels or features.

    Parameters
    ----------
    output, x : Tensor of shape (n, ...)
        Reconstructions and what they should be.

    Returns
    -------
    error : Tensor of shape (n,)
        At least in float32.
    """
    difference = output - x
    if difference.dtype != torch.float64:
        difference = difference.float()
    return difference.square().flatten(1).mean(dim=1)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of diagonal Gaussians from the standard one.

    Parameters
    ----------
    mean, log_variance : Tensor of shape (n, d)
        Of each coordinate.

    Returns
    -------
    divergence : Tensor of shape (n,)
        Summed over the coordinates, in nats.
    """
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.sum(dim=1)


class Whitening(nn.Module):
    """The principal components of a set, each of mean 0 and variance 1.

    Any invertible affine map of the code can be undone by the first layer of the decoder, so the
    loss does not say at what scale a direction is learned, and k-means depends on it.

    Parameters
    ----------
    width : int
        Number of coordinates.

    n_components : int
        How many are kept, of largest variance; at most `width`.
    """

    def __init__(self, width: int, n_components: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width, n_components))

    def fit(self, rows: Tensor) -> None:
        """Compute the map from a set.

        Parameters
        ----------
        rows : Tensor of shape (n, width)
            The set. Components in which it does not vary are mapped to 0.
        """
        rows = rows.double()
        center = rows.mean(dim=0)
        centred = rows - center
        variances, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
        varies = variances > NEGLIGIBLE * variances[-1].clamp_min(NEGLIGIBLE)
        scales = torch.where(varies, variances, torch.ones_like(variances)).rsqrt() * varies
        self.center.copy_(center)
        self.matrix.copy_((directions * scales).flip(1)[:, : self.matrix.shape[1]])

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows.

        Parameters
        ----------
        rows : Tensor of shape (n, width)
            Of the set, or others.

        Returns
        -------
        whitened : Tensor of shape (n, n_components)
            In the type of the map, or in float64.
        """
        rows = rows if rows.dtype == torch.float64 else rows.to(self.center.dtype)
        return (rows - self.center) @ self.matrix


class AutoencoderObjective(Objective):
    """An encoder to a narrow code, and a decoder that reconstructs the sample from it.

    Parameters
    ----------
    setup : Setup
        Backbone and shape of the views.

    code_dim : int
        See `AutoencoderClustering`.

    n_clusters : int
        So many principal components of the code are the features, at most.

    corruption : str, default="masking"
        See `DenoisingAutoencoderClustering`.

    corruption_level : float, default=0.0
        See `DenoisingAutoencoderClustering`.
    """

    n_views = 0
    capturable = True

    def __init__(
        self,
        setup: Setup,
        *,
        code_dim: int,
        n_clusters: int,
        corruption: str = "masking",
        corruption_level: float = 0.0,
    ):
        super().__init__()
        self.n_embedding = min(code_dim, n_clusters)
        self.backbone = setup.backbone
        self.code = nn.Linear(setup.n_features, code_dim)
        self.whitening = Whitening(code_dim, self.n_embedding)
        self.decoder = decoder(code_dim, setup.view_shape)
        self.corruption, self.corruption_level = corruption, corruption_level
        self.draws = corruption_level > 0

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        (x,) = views
        code = self.encode(corrupt(x, self.corruption, self.corruption_level))
        (error,) = gather(squared_error(self.decoder(code), x))
        return {"reconstruction": error.mean()}

    def encode(self, images: Tensor) -> Tensor:
        """Code from which the decoder reconstructs.

        Parameters
        ----------
        images : Tensor of shape (n, c, h, w) or (n, d)
            Views.

        Returns
        -------
        code : Tensor of shape (n, code_dim)
            Not whitened.
        """
        return self.code(self.backbone(images))

    def after_training(self, epoch):
        self.whitening.fit(epoch.sweep(self.encode))

    def embed(self, images: Tensor) -> Tensor:
        return self.whitening(self.encode(images))

    def release(self):
        self.decoder = None


class VariationalObjective(Objective):
    """An encoder to Gaussians, and a decoder of samples from them.

    Parameters
    ----------
    setup : Setup
        Backbone and shape of the views.

    code_dim : int
        See `VariationalAutoencoderClustering`.

    likelihood : str
        See `VariationalAutoencoderClustering`.
    """

    n_views = 0
    draws = True

    def __init__(self, setup: Setup, *, code_dim: int, likelihood: str):
        super().__init__()
        self.n_embedding, self.likelihood = code_dim, likelihood
        self.backbone = setup.backbone
        self.mean = nn.Linear(setup.n_features, code_dim)
        self.log_variance = nn.Linear(setup.n_features, code_dim)
        self.decoder = decoder(code_dim, setup.view_shape)

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        (x,) = views
        h = self.backbone(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.losses(self.decoder(code), x, mean, log_variance)

    def losses(
        self, output: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor
    ) -> dict[str, Tensor]:
        """Both terms of the negative evidence lower bound, in nats per sample.

        Parameters
        ----------
        output, x : Tensor of shape (n, ...)
            What the decoder gave, and the samples.

        mean, log_variance : Tensor of shape (n, code_dim)
            Of the code.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            "reconstruction" is summed over pixels and channels, "divergence" over the coordinates
            of the code; both are means over the samples.
        """
        divergence = gaussian_divergence(mean, log_variance)
        n_values = x[0].numel()
        if self.likelihood == "bernoulli":
            error = F.binary_cross_entropy_with_logits(output, x, reduction="none")
            error, divergence = gather(error.flatten(1).sum(dim=1), divergence)
            reconstruction = error.mean()
        else:
            error, divergence = gather(squared_error(output, x), divergence)
            # The variance that maximises the likelihood of the batch is its mean squared error.
            variance = error.mean().clamp_min(SMALLEST_VARIANCE)
            scaled = error.mean() / variance
            reconstruction = 0.5 * n_values * ((2 * math.pi * variance).log() + scaled)
        return {"reconstruction": reconstruction, "divergence": divergence.mean()}

    def embed(self, images: Tensor) -> Tensor:
        return self.mean(self.backbone(images))

    def release(self):
        self.decoder = self.log_variance = None


class BaseReconstructionClusterer(BaseDeepClusterer):
    """Base of methods that learn a code by reconstruction.

    Parameters
    ----------
    code_dim : int, default=20
        Width of the code from which samples are reconstructed.
    """

    code_dim: int = 20

    _auto_epochs = 0.5
    _collapse_remedies = ("More epochs", "another code_dim", "fewer clusters")

    def _head_is_trained(self):
        return False  # there is none; clusters are those of features

    def _check_parameters(self):
        super()._check_parameters()
        check_integer("code_dim", self.code_dim, 1)


class AutoencoderClustering(BaseReconstructionClusterer):
    """Cluster images by the code of an autoencoder.

    An encoder maps an image to a narrow code, from which a decoder reconstructs it; both are
    trained to keep the squared error small. Clusters are found by k-means of the code.

    Attributes
    ----------
    history_ : list of dict
        Mean loss of each epoch: "reconstruction", the squared error per pixel.

    See Also
    --------
    DenoisingAutoencoderClustering : Reconstructs images from corrupted ones.

    VariationalAutoencoderClustering : Has a distribution in place of a code.

    DEC : Trains the encoder further, by its own clusters.

    Notes
    -----
    The row AE of the table of Contrastive Clustering. The network behind its figures is not
    documented; here the encoder is the backbone and a linear layer to the code. Clustered are the
    principal components of the code, as many as there are clusters, each at variance 1: the decoder
    can undo any invertible affine map of the code, so the loss leaves open at what scale a
    direction is learned, and k-means depends on it. No augmentation is used.

    On small gray images expect about the accuracy of k-means of the pixels, and several points of
    difference between seeds: nothing in the loss asks for clusters.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import AutoencoderClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = AutoencoderClustering(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    def _phases(self, setup):
        yield Phase(AutoencoderObjective(setup, **self._parameters_for(AutoencoderObjective)))


class DenoisingAutoencoderClustering(BaseReconstructionClusterer):
    """Cluster images by the code of an autoencoder that reconstructs them from corrupted ones.

    Pixels are masked, or noise is added, and the network reconstructs the image as it was [1]_. So
    the code has to keep what can be inferred from the rest of the image. Clusters are found by
    k-means of the code of the plain image.

    Parameters
    ----------
    corruption : {"gaussian", "masking"}, default="gaussian"
        Whether Gaussian noise is added, or pixels, or features of vectors, are set to 0.

    corruption_level : float, default=0.3
        Standard deviation of the noise, where pixels are from 0 to 1 and features of vectors
        have a standard deviation of 1; or probability of being masked.

    Attributes
    ----------
    history_ : list of dict
        Mean loss of each epoch: "reconstruction", the squared error per pixel.

    See Also
    --------
    AutoencoderClustering : The same without corruption.

    Notes
    -----
    The row DAE of the table of Contrastive Clustering; see `AutoencoderClustering` for the network
    and for what to expect.

    References
    ----------
    .. [1] P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio, P.-A. Manzagol. "Stacked Denoising
       Autoencoders". JMLR 11, 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DenoisingAutoencoderClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = DenoisingAutoencoderClustering(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    corruption: str = "gaussian"
    corruption_level: float = 0.3

    def _check_parameters(self):
        super()._check_parameters()
        check_choice("corruption", self.corruption, ["masking", "gaussian"])
        highest = 1 if self.corruption == "masking" else math.inf
        check_real("corruption_level", self.corruption_level, 0, highest)

    def _phases(self, setup):
        yield Phase(AutoencoderObjective(setup, **self._parameters_for(AutoencoderObjective)))


class VariationalAutoencoderClustering(BaseReconstructionClusterer):
    """Cluster images by the mean code of a variational autoencoder.

    An encoder gives a Gaussian for each image, a decoder reconstructs the image from a sample of
    it, and all Gaussians together are held to a standard one; that maximises a lower bound of the
    likelihood [1]_. Clusters are found by k-means of the means.

    Parameters
    ----------
    likelihood : {"gaussian", "bernoulli"}, default="gaussian"
        Distribution of a pixel around its reconstruction. The variance of the Gaussian is the
        one of largest likelihood, the mean squared error of the batch [2]_, so that no weight
        between the two terms has to be chosen. Bernoulli is for images only, and best for black
        and white.

    Attributes
    ----------
    history_ : list of dict
        Both terms of the negative lower bound, in nats per image, as means over each epoch:
        "reconstruction", summed over pixels and channels, and "divergence", summed over the
        coordinates of the code.

    See Also
    --------
    AutoencoderClustering : Has a code in place of a distribution.

    Notes
    -----
    The row VAE of the table of Contrastive Clustering; see `AutoencoderClustering` for the network.
    Both terms are sums, as in the bound. A mean over pixels in one of them would give the other
    hundreds of times its weight, and the code would hold nothing.

    References
    ----------
    .. [1] D. P. Kingma, M. Welling. "Auto-Encoding Variational Bayes". ICLR 2014.

    .. [2] O. Rybkin, K. Daniilidis, S. Levine. "Simple and Effective VAE Training with Calibrated
       Decoders". ICML 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import VariationalAutoencoderClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = VariationalAutoencoderClustering(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    likelihood: str = "gaussian"

    def _check_parameters(self):
        super()._check_parameters()
        check_choice("likelihood", self.likelihood, ["gaussian", "bernoulli"])

    def _phases(self, setup):
        if self.likelihood == "bernoulli" and len(setup.view_shape) == 1:
            raise ValueError(
                "likelihood='bernoulli' is for images, whose pixels are from 0 to 1, and X holds "
                f"vectors of {setup.view_shape[0]} features; wanted likelihood='gaussian'"
            )
        yield Phase(VariationalObjective(setup, **self._parameters_for(VariationalObjective)))
