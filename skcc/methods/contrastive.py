"""Contrastive Clustering (Li et al., AAAI 2021).

One departure from the paper: several cluster heads may share the backbone, an idea of Invariant
Information Clustering (Ji et al., ICCV 2019). Each is trained as the paper's one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.losses import cluster_contrast, negative_entropy, nt_xent
from skcc.objective import HEAD_LOSS_WEIGHT, Objective, mlp_head
from skcc.parameters import demand_tracks


class ContrastiveObjective(Objective):
    """The two heads of Contrastive Clustering and their losses.

    Parameters
    ----------
    backbone : nn.Module
        From views to features.

    n_features : int
        Width of the features.

    n_clusters : int
        Width of the assignments.

    projection_dim, n_heads, instance_temperature, cluster_temperature : int, int, float, float
        See `ContrastiveClustering`.

    instance_weight, cluster_weight, entropy_weight : float
        See `ContrastiveClustering`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_clusters: int,
        *,
        projection_dim: int,
        n_heads: int,
        instance_temperature: float,
        cluster_temperature: float,
        instance_weight: float,
        cluster_weight: float,
        entropy_weight: float,
    ):
        super().__init__()
        self.backbone = backbone
        self.instance_head = mlp_head(n_features, projection_dim)
        self.cluster_heads = nn.ModuleList(mlp_head(n_features, n_clusters) for _ in range(n_heads))
        self.register_buffer("head_loss", torch.zeros(n_heads))
        self.instance_temperature = instance_temperature
        self.cluster_temperature = cluster_temperature
        self.instance_weight = instance_weight
        self.cluster_weight = cluster_weight
        self.entropy_weight = entropy_weight

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self.losses(*map(self.backbone, views))  # two calls: batch statistics are per view

    def losses(self, h_a: Tensor, h_b: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, from the features of the two views.

        Parameters
        ----------
        h_a, h_b : Tensor of shape (n, n_features)
            Row ``i`` of both belongs to one image.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Weighted; their sum is minimised.
        """
        terms = self._instance_losses(h_a, h_b) if self.instance_weight else {}
        if self.cluster_weight:
            contrast, entropy = self._cluster_losses(h_a, h_b)
            terms["cluster"] = self.cluster_weight * contrast.mean()
            terms["entropy"] = self.cluster_weight * self.entropy_weight * entropy.mean()
        return terms

    def unlabeled(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self._instance_losses(*map(self.backbone, views))

    def _instance_losses(self, h_a, h_b):
        z_a, z_b = gather(self.instance_head(h_a), self.instance_head(h_b))
        loss = nt_xent(z_a, z_b, temperature=self.instance_temperature)
        return {"instance": self.instance_weight * loss}

    def _cluster_losses(self, h_a, h_b):
        """Contrast and entropy of each cluster head, of shape (n_heads,)."""
        contrast, entropy = [], []
        views = [_probabilities(head, h) for head in self.cluster_heads for h in (h_a, h_b)]
        views = gather(*views)
        for p, q in zip(views[::2], views[1::2], strict=True):
            contrast.append(cluster_contrast(p, q, temperature=self.cluster_temperature))
            entropy.append(negative_entropy(p) + negative_entropy(q))
        contrast, entropy = torch.stack(contrast), torch.stack(entropy)
        loss = (contrast + self.entropy_weight * entropy).detach()
        self.head_loss.lerp_(loss, HEAD_LOSS_WEIGHT)
        return contrast, entropy

    def assign(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        p = torch.stack([_probabilities(head, h) for head in self.cluster_heads])
        return p.index_select(0, self.head_loss.argmin()[None])[0]

    def embed(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def project(self, images: Tensor) -> Tensor:
        return self.instance_head(self.backbone(images))


def _probabilities(head, h):
    logits = head(h)
    return F.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)


class ContrastiveClustering(BaseDeepClusterer):
    """Cluster images by contrasting both instances and clusters.

    Two random views of each image pass through one backbone. A first head pulls the two views
    of an image together and pushes other images away; a second head gives soft cluster
    assignments and does the same with its *columns*, so that a cluster is a set of images on
    which both views agree. Images go to the cluster of largest assignment [1]_.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.

    backbone : str or nn.Module, default="auto"
        Network from images to features: a name in `skcc.backbones.BACKBONES`, or a module
        from (n, channels, height, width) to (n, d), which is copied, never trained in place.
        "auto" is a small convolutional network on CPUs, a ResNet-18 on accelerators, and a
        perceptron for vectors.

    augment : str or callable, default="auto"
        How views are drawn: a name in `skcc.augment.AUGMENTATIONS`, an instance of
        `skcc.augment.ImageAugmentation`, or a function from a float batch of images in [0, 1],
        (n, channels, height, width), to a batch of views. "auto" goes by channels: colour
        images as in the paper, gray ones without flips.

    image_size : int, default=None
        Short side of the views, in pixels. None is that of the images, but on CPUs at most 16, or
        20 for images of 40 or more, and on accelerators at most 224.

    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of the images that come as rows of a
        table, or where the axes of an array leave it open. None takes a table for vectors.

    projection_dim : int, default=128
        Dimension in which instances are contrasted.

    n_heads : int, default=5
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do. The paper has one.

    instance_temperature : float, default=0.5
        Sharpness of the contrast between instances. Smaller is sharper.

    cluster_temperature : float, default=1.0
        Sharpness of the contrast between clusters. Smaller is sharper.

    instance_weight : float, default=1.0
        Weight of the contrast between instances. 0 leaves that between clusters alone.

    cluster_weight : float, default=1.0
        Weight of the contrast between clusters and of the entropy. 0 leaves the contrast between
        instances alone, and needs ``readout="kmeans"``.

    entropy_weight : float, default=1.0
        Weight of the term that wants clusters of equal size. Smaller values suit clusters of
        unequal size; too small ones let clusters run empty.

    augmented_views : {0, 1, 2}, default=2
        How many of the two views are augmented. With 1 the other view is the plain image, with
        0 both are.

    readout : {"head", "kmeans"}, default="head"
        How clusters are read off the trained network: by the cluster head, or by k-means of
        the features.

    max_epochs : int, default="auto"
        Passes over the images. "auto" goes by a budget of optimizer steps.

    max_seconds : float, default=None
        Wall-clock seconds that training may take. It ends after the last epoch that fits; with
        `checkpoint_dir`, calling `fit` again goes on from there. None sets no limit.

    batch_size : int, default="auto"
        Images per optimizer step. "auto" goes by the number of images and clusters.

    learning_rate : float, default="auto"
        Peak step size of AdamW.

    weight_decay : float, default=0.0
        Decay of the weights by AdamW.

    schedule : {"one-cycle", "constant"}, default="one-cycle"
        How the step size changes during training.

    checkpoint_dir : str or Path, default=None
        Folder where the state of training is kept. Calling `fit` again with the same folder,
        data and parameters continues an interrupted run, and merely loads a finished one.

    device : str, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", "mps". "auto" takes an accelerator if there
        is one.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which networks compute. "auto" is bfloat16 on CUDA, float32 elsewhere.

    sync_batchnorm : bool, default=True
        Whether the statistics of batch normalisation are those of the whole batch where several
        processes train, so that many give what one gives. False takes those of each process's
        part, which is faster.

    n_jobs : int, default=None
        Threads that decode image files. None means 1, -1 all cores.

    cache_dir : str or Path, default=None
        Folder in which `fit` keeps decoded images, mapped into memory: for sets that memory does
        not hold, and for a quick start with the same files later. None decodes into memory.

    on_error : {"raise", "warn"}, default="raise"
        What an image does that cannot be read: end with an error that names it, or be listed in
        `invalid_` and get the label -1.

    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, views and batch order. An int makes runs repeatable.

    verbose : int, default=0
        0 is silent, 1 shows the progress of training.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each training image. Clusters are numbered by size, the largest is 0. Images
        that could not be read have -1.

    invalid_ : list of (int, str)
        Index and reason of each training image that could not be read.

    n_iter_ : int
        Epochs of training.

    history_ : list of dict
        Mean loss terms of each epoch: "instance", "cluster" and "entropy", weighted, in nats.

    settings_ : dict
        What every "auto" came to.

    image_shape_ : tuple of (int, int, int) or None
        Height, width and channels at which images are stored; None for vectors.

    weights_ : dict of str to ndarray
        The fitted network.

    cluster_centers_ : ndarray of shape (n_clusters, n_features_out)
        Centres in the space of normalised features; with ``readout="kmeans"`` only.

    n_features_in_ : int
        Numbers per image, or columns of the table; 1 for files and PIL images.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it has any that are strings.

    See Also
    --------
    sklearn.cluster.KMeans : Clusters the pixels, or the features of another network.

    Notes
    -----
    The objective is that of the paper. The default network, sizes, epochs and optimizer are
    chosen for small images and a CPU; `skcc.benchmark.RECIPES` holds the paper's own settings.

    References
    ----------
    .. [1] Y. Li, P. Hu, Z. Liu, D. Peng, J. T. Zhou, X. Peng. "Contrastive Clustering". AAAI
       2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import ContrastiveClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = ContrastiveClustering(n_clusters=3, max_epochs=30, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    def __init__(
        self,
        n_clusters=8,
        *,
        backbone="auto",
        augment="auto",
        image_size=None,
        image_shape=None,
        projection_dim=128,
        n_heads=5,
        instance_temperature=0.5,
        cluster_temperature=1.0,
        instance_weight=1.0,
        cluster_weight=1.0,
        entropy_weight=1.0,
        augmented_views=2,
        readout="head",
        max_epochs="auto",
        max_seconds=None,
        batch_size="auto",
        learning_rate="auto",
        weight_decay=0.0,
        schedule="one-cycle",
        checkpoint_dir=None,
        device="auto",
        precision="auto",
        sync_batchnorm=True,
        n_jobs=None,
        cache_dir=None,
        on_error="raise",
        random_state=None,
        verbose=0,
    ):
        self.n_clusters = n_clusters
        self.backbone = backbone
        self.augment = augment
        self.image_size = image_size
        self.image_shape = image_shape
        self.projection_dim = projection_dim
        self.n_heads = n_heads
        self.instance_temperature = instance_temperature
        self.cluster_temperature = cluster_temperature
        self.instance_weight = instance_weight
        self.cluster_weight = cluster_weight
        self.entropy_weight = entropy_weight
        self.augmented_views = augmented_views
        self.readout = readout
        self.max_epochs = max_epochs
        self.max_seconds = max_seconds
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.precision = precision
        self.sync_batchnorm = sync_batchnorm
        self.n_jobs = n_jobs
        self.cache_dir = cache_dir
        self.on_error = on_error
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        demand_tracks(self)

    def _phases(self, backbone, n_features, settings):
        objective = ContrastiveObjective(
            backbone,
            n_features,
            self.n_clusters,
            projection_dim=self.projection_dim,
            n_heads=self.n_heads,
            instance_temperature=self.instance_temperature,
            cluster_temperature=self.cluster_temperature,
            instance_weight=self.instance_weight,
            cluster_weight=self.cluster_weight,
            entropy_weight=self.entropy_weight,
        )
        yield objective, settings
