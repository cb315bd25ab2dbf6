"""Deconvolutional networks (Zeiler, Krishnan, Taylor, Fergus, CVPR 2010).

The row DeCNN of the table of Contrastive Clustering: convolutional sparse coding, layer by layer.
There is no encoder: the feature maps of an image are inferred by minimising their cost, and only
the filters are learned. Inference is by FISTA (Beck, Teboulle, 2009), where the paper has a
continuation method for the same kind of cost.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.methods.pooling import pool_to_grid
from skcc.objective import Objective, Phase
from skcc.validation import check_integer, check_real

GRID = 4  # frequencies per pixel of a filter at which its gain is measured
MARGIN = 1.05  # for the frequencies between them
UPPER_FILTER_SIZE = 3  # pixels, of all layers above the first


def synthesise(maps: Tensor, filters: Tensor) -> Tensor:
    """Sum of the convolutions of maps with their filters.

    Parameters
    ----------
    maps : Tensor of shape (n, n_maps, h + size_h - 1, w + size_w - 1)
        Feature maps; they reach over the border, so that each pixel is covered equally often.

    filters : Tensor of shape (n_maps, c, size_h, size_w)
        One per map.

    Returns
    -------
    x : Tensor of shape (n, c, h, w)
        Images.
    """
    return F.conv2d(maps, filters.transpose(0, 1).flip(2, 3))


def correlate(x: Tensor, filters: Tensor) -> Tensor:
    """Adjoint of `synthesise`: the correlation of images with each filter at each place.

    Parameters
    ----------
    x : Tensor of shape (n, c, h, w)
        Images.

    filters : Tensor of shape (n_maps, c, size_h, size_w)
        One per map.

    Returns
    -------
    maps : Tensor of shape (n, n_maps, h + size_h - 1, w + size_w - 1)
        One per filter.
    """
    return F.conv_transpose2d(x, filters.transpose(0, 1).flip(2, 3))


def gain(filters: Tensor) -> Tensor:
    """Largest curvature of the squared error in the maps, which bounds the step of inference.

    Parameters
    ----------
    filters : Tensor of shape (n_maps, c, size_h, size_w)
        One per map.

    Returns
    -------
    gain : Tensor of shape ()
        Largest squared singular value of the filters' spectra over all frequencies.
    """
    grid = [1 if size == 1 else GRID * size for size in filters.shape[2:]]
    spectra = torch.fft.rfft2(filters.float(), s=grid).permute(2, 3, 1, 0)
    gram = spectra @ spectra.mH  # of the channels; there are fewer of them than maps, mostly
    largest = torch.linalg.eigvalsh(gram)[..., -1].max()
    return MARGIN * largest.clamp_min(torch.finfo(largest.dtype).tiny)


def infer_maps(x: Tensor, filters: Tensor, *, sparsity: float, n_steps: int) -> Tensor:
    """Infer sparse maps that reconstruct images, by FISTA.

    They minimise ``0.5 * |synthesise(maps, filters) - x|^2 + sparsity * sum(maps)`` over maps that
    are not negative.

    Parameters
    ----------
    x : Tensor of shape (n, c, h, w)
        Images.

    filters : Tensor of shape (n_maps, c, size_h, size_w)
        One per map.

    sparsity : float
        Weight of the sum of the maps.

    n_steps : int
        Proximal steps, from maps of zeros.

    Returns
    -------
    maps : Tensor of shape (n, n_maps, h + size_h - 1, w + size_w - 1)
        None is negative.
    """
    step = 1 / gain(filters).to(x.dtype)
    maps = ahead = torch.zeros_like(correlate(x, filters))
    momentum = 1.0
    for _ in range(n_steps):
        error = synthesise(ahead, filters) - x
        new = F.relu(ahead - step * (correlate(error, filters) + sparsity))
        next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / next_momentum * (new - maps)
        maps, momentum = new, next_momentum
    return maps


class DeconvolutionalLayer(nn.Module):
    """Filters, and the scale of what they reconstruct.

    Parameters
    ----------
    n_in, n_maps : int
        Channels of the input, and feature maps.

    size : tuple of (int, int)
        Height and width of the filters, in pixels.

    sparsity : float
        See `DeconvolutionalClustering`.

    n_steps : int
        See `DeconvolutionalClustering`.
    """

    def __init__(self, n_in, n_maps, size, *, sparsity, n_steps):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(n_maps, n_in, *size))
        self.register_buffer("scale", torch.ones(()))
        self.sparsity, self.n_steps = sparsity, n_steps
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Give all filters the length 1, since shorter maps would cost less."""
        length = self.filters.flatten(1).norm(dim=1).clamp_min(1e-8)
        self.filters.div_(length[:, None, None, None])

    @torch.no_grad()
    def maps(self, x: Tensor) -> Tensor:
        """Infer the maps of scaled inputs."""
        return infer_maps(x, self.filters, sparsity=self.sparsity, n_steps=self.n_steps)


class DeconvolutionalObjective(Objective):
    """The top one of some layers is trained; the pooled maps of all are the features.

    Parameters
    ----------
    layers : list of DeconvolutionalLayer
        From the lowest; all but the last are trained already.

    view_shape : tuple of int
        Shape of a view; a vector is an image of one pixel.

    grid_size : int
        See `DeconvolutionalClustering`.
    """

    n_views = 0

    def __init__(
        self, layers: list[DeconvolutionalLayer], view_shape: tuple[int, ...], *, grid_size: int
    ):
        super().__init__()
        self.layers, self.grid_size = nn.ModuleList(layers), grid_size
        for layer in layers[:-1]:
            layer.requires_grad_(False)
            layers[-1].to(layer.filters.device)
        with torch.no_grad():
            blank = torch.zeros(1, *view_shape, device=layers[-1].filters.device)
            self.n_embedding = self.embed(blank).shape[1]

    def parameters_of(self, turn: str):
        return self.layers[-1].parameters()

    def before_epoch(self, epoch):
        if epoch.number == 0:
            power = epoch.sweep(lambda x: self._top_input(x).square().flatten(1).mean(1))
            scale = power.double().mean().sqrt()
            self.layers[-1].scale.copy_(scale if scale > 0 else torch.ones(()))

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        (x,) = views
        layer = self.layers[-1]
        x = self._top_input(x) / layer.scale
        maps = layer.maps(x)
        error = (synthesise(maps, layer.filters) - x).square().flatten(1).sum(dim=1)
        error, size = gather(error, maps.flatten(1).sum(dim=1))
        return {"reconstruction": 0.5 * error.mean(), "sparsity": layer.sparsity * size.mean()}

    def after_step(self):
        self.layers[-1].normalise()

    def embed(self, images: Tensor) -> Tensor:
        pooled = []
        for maps in self._maps(images, self.layers):
            # Layers count equally, whatever the size of their maps.
            pooled.append(F.normalize(pool_to_grid(maps, self.grid_size)))
        return torch.cat(pooled, dim=1)

    def _top_input(self, images):
        """What the top layer reconstructs, before it is scaled."""
        *lower, _ = self.layers
        x = as_zero_mean_images(images)
        for maps in self._maps(images, lower):
            x = reduced(maps)
        return x

    @staticmethod
    def _maps(images, layers):
        """Maps of each layer, from the lowest."""
        x = as_zero_mean_images(images)
        for layer in layers:
            maps = layer.maps(x / layer.scale)
            yield maps
            x = reduced(maps)


def as_zero_mean_images(views: Tensor) -> Tensor:
    """Subtract from each image its mean; a vector becomes an image of one pixel.

    Parameters
    ----------
    views : Tensor of shape (n, c, h, w) or (n, d)
        Images in [0, 1], or standardised vectors.

    Returns
    -------
    x : Tensor of shape (n, c, h, w) or (n, d, 1, 1)
        At least in float32.
    """
    x = views if views.dtype == torch.float64 else views.float()
    if x.ndim == 2:
        return x[:, :, None, None]
    return x - x.mean(dim=(1, 2, 3), keepdim=True)


def reduced(maps: Tensor) -> Tensor:
    """Halve the sides of maps by max pooling, for the layer above.

    Parameters
    ----------
    maps : Tensor of shape (n, n_maps, h, w)
        Of a layer.

    Returns
    -------
    x : Tensor of shape (n, n_maps, ceil(h / 2), ceil(w / 2))
        Input of the layer above.
    """
    return F.max_pool2d(maps, 2, ceil_mode=True)


class DeconvolutionalClustering(BaseDeepClusterer):
    """Cluster images by sparse feature maps from which they can be reconstructed.

    An image is the sum of sparse maps, each convolved with its filter. The maps of an image are
    found by minimising a cost, not by an encoder; training learns the filters. A second layer does
    the same for the maps of the first, after that is trained. Clusters are found by k-means of the
    pooled maps of all layers [1]_.

    Parameters
    ----------
    n_maps : tuple of int, default=(16, 32)
        Feature maps of each layer, from the lowest.

    filter_size : int, default=5
        Height and width of the filters of the first layer, in pixels; those of other layers have
        3. Vectors have no extent, and this is ignored.

    sparsity : float, default=0.5
        Weight of the sum of the maps against half the squared error, where the input has a root
        mean square of 1. Larger values leave more of the maps at zero.

    n_inference_steps : int, default=20
        Steps in which maps are inferred.

    grid_size : int, default=4
        Rows and columns of the grid in whose cells the maximum of a map is taken.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch of all layers: "reconstruction", half the squared error of an
        image in units of the mean square, and "sparsity", the weighted sum of its maps.

    See Also
    --------
    AutoencoderClustering : Has an encoder in place of inference.

    Notes
    -----
    `max_epochs` are divided evenly among the layers. The network is given by the filters, so
    `backbone` must be left at "auto".

    Convolutional sparse coding, layer by layer, is that of the paper. Three things differ: maps are
    not negative and their sum is penalised, where the paper has a norm of exponent 0.8 to 1 of
    signed maps; inference is by FISTA [2]_, where it has a continuation method; maps are halved
    between layers, which makes the second layer four times cheaper. On digits expect an accuracy
    like that of k-means of the pixels.

    References
    ----------
    .. [1] M. D. Zeiler, D. Krishnan, G. W. Taylor, R. Fergus. "Deconvolutional Networks". CVPR
       2010.

    .. [2] A. Beck, M. Teboulle. "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear
       Inverse Problems". SIAM Journal on Imaging Sciences 2(1), 2009.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DeconvolutionalClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = DeconvolutionalClustering(n_clusters=3, max_epochs=4, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    n_maps: tuple[int, ...] = (16, 32)
    filter_size: int = 5
    sparsity: float = 0.5
    n_inference_steps: int = 20
    grid_size: int = 4

    _auto_epochs = 0.25
    _collapse_remedies = ("More epochs", "more maps", "fewer clusters")

    def _head_is_trained(self):
        return False  # there is none; clusters are those of features

    def _check_parameters(self):
        super()._check_parameters()
        if not isinstance(self.n_maps, (tuple, list)) or not self.n_maps:
            raise ValueError(f"n_maps must be a tuple of at least one int; got {self.n_maps!r}")
        for number in self.n_maps:
            check_integer("each entry of n_maps", number, 1)
        for name in ("filter_size", "n_inference_steps", "grid_size"):
            check_integer(name, getattr(self, name), 1)
        check_real("sparsity", self.sparsity, 0, closed=False)
        if self.backbone != "auto":
            raise ValueError(
                "the filters are the network of DeconvolutionalClustering: wanted backbone='auto', "
                f"got {self.backbone!r}"
            )

    def _phases(self, setup):
        is_image = len(setup.view_shape) == 3
        channels, *sides = setup.view_shape if is_image else (*setup.view_shape, 1, 1)
        if is_image and self.filter_size > min(sides):
            raise ValueError(
                f"filter_size={self.filter_size} does not fit into views of {sides[0]} x "
                f"{sides[1]} pixels; give a smaller one, or a larger image_size"
            )
        layers, size = [], self.filter_size
        for number, (n_maps, epochs) in enumerate(zip(self.n_maps, self._epochs(), strict=True)):
            layers.append(
                DeconvolutionalLayer(
                    channels,
                    n_maps,
                    (size, size) if is_image else (1, 1),
                    sparsity=self.sparsity,
                    n_steps=self.n_inference_steps,
                )
            )
            objective = DeconvolutionalObjective(layers, setup.view_shape, grid_size=self.grid_size)
            yield Phase(objective, f"layer {number + 1}", epochs=epochs)
            channels, size = n_maps, UPPER_FILTER_SIZE

    def _epochs(self):
        """Epochs of each layer; the first ones have one more if they cannot be equal."""
        n_layers, epochs = len(self.n_maps), self.settings_["max_epochs"]
        return [max(1, (epochs + i) // n_layers) for i in reversed(range(n_layers))]

    def _planned_epochs(self):
        return sum(self._epochs())
