"""Displays, as in scikit-learn: the constructor takes data, and `plot` draws it."""

from typing import Self

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from skcc import data
from skcc.cluster_number import suggest_n_clusters
from skcc.metrics import matched_confusion
from skcc.similarity import PAIRS, SimilarityMonitor, pair_similarity
from skcc.validation import check_choice, check_integer


class ClusterGridDisplay:
    """Grid of images with one row per cluster.

    Parameters
    ----------
    images : list of ndarray of shape (m, height, width, channels)
        Images of each cluster that are shown; uint8, all of one size.

    sizes : list of int
        Number of all images of each cluster.
    """

    def __init__(self, *, images, sizes):
        self.images = images
        self.sizes = sizes

    @classmethod
    def from_estimator(cls, estimator, X, *, n_images=12, ax=None) -> Self:
        """Show the most confident images of each cluster.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            A fitted estimator.

        X : array-like, tensor, str, Path or list
            Images, as in `fit`.

        n_images : int, default=12
            Largest number of images per cluster.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterGridDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        ValueError
            If the estimator was fitted on vectors.
        """
        source = data.resolve(X)
        p = estimator.predict_proba(source)
        if estimator.image_shape_ is None:
            raise ValueError("ClusterGridDisplay shows images; the estimator was fitted on vectors")
        store, _ = data.read(
            source, known=estimator._format, n_jobs=estimator.n_jobs, on_error=estimator.on_error
        )
        if isinstance(store, data.SourceStore):
            store = store.read()
        p = p[store.sample_indices]
        labels, confidence = p.argmax(axis=1), p.max(axis=1)
        images, sizes = [], []
        for cluster in range(p.shape[1]):
            members = np.flatnonzero(labels == cluster)
            best = members[np.argsort(-confidence[members], kind="stable")][:n_images]
            images.append(store.samples[best].cpu().numpy())
            sizes.append(len(members))
        return cls(images=images, sizes=sizes).plot(ax=ax)

    def plot(self, ax=None) -> Self:
        """Plot the grid.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterGridDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        height, width, channels = next(i for i in self.images if len(i)).shape[1:]
        columns = max(len(images) for images in self.images)
        gap = max(1, height // 8)
        canvas = np.full(
            (len(self.images) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255
        )
        for row, images in enumerate(self.images):
            for column, image in enumerate(images):
                top, left = row * (height + gap), column * (width + gap)
                canvas[top : top + height, left : left + width] = image[
                    ..., _rgb_channels(channels)
                ]
        if ax is None:
            size = 0.55 * columns + 1.8, 0.55 * len(self.images) * height / width + 0.3
            _, ax = plt.subplots(figsize=size, layout="compressed")
        ax.imshow(canvas, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks(
            np.arange(len(self.images)) * (height + gap) + (height - 1) / 2,
            [f"cluster {row}  ({size:,})" for row, size in enumerate(self.sizes)],
        )
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def embed_in_plane(features, *, method="pca", random_state=None) -> np.ndarray:
    """Project features to two dimensions.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Finite values. Rows are normalised first, since features are compared by cosine.

    method : {"pca", "tsne"}, default="pca"
        PCA is fast and preserves large distances; t-SNE preserves neighbourhoods.

    random_state : int, RandomState instance or None, default=None
        Seed of t-SNE.

    Returns
    -------
    positions : ndarray of shape (n_samples, 2)
        Coordinates in the plane.

    Raises
    ------
    ValueError
        If the method is unknown, or the features are no finite table.
    """
    from sklearn.decomposition import PCA  # imported here because it is slow
    from sklearn.preprocessing import normalize

    check_choice("method", method, ["pca", "tsne"])
    rows = normalize(check_array(features, dtype=np.float64))
    if method == "tsne" and len(rows) > 3:  # below, the perplexity would be less than 1
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(rows) - 1) / 3)
        rows = PCA(min(50, *rows.shape), svd_solver="full").fit_transform(rows)
        init = "pca" if rows.shape[1] > 1 else "random"
        return TSNE(perplexity=perplexity, init=init, random_state=random_state).fit_transform(rows)
    positions = np.zeros((len(rows), 2))
    if len(rows) > 1:
        components = PCA(min(2, *rows.shape), svd_solver="full").fit_transform(rows)
        positions[:, : components.shape[1]] = components
    return positions


def densest(positions) -> int:
    """Index of the point with the smallest distance to its n/3-th nearest neighbour.

    The label of a cluster is placed there: a mean or median may lie outside of a cluster that has
    several parts.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
        Points; at least one.

    Returns
    -------
    index : int
        Index of the point.
    """
    positions = np.asarray(positions, dtype=float)
    k = len(positions) // 3
    differences = positions[:, None] - positions[None]
    distances = np.hypot(differences[..., 0], differences[..., 1])
    return int(np.partition(distances, k, axis=1)[:, k].argmin())


class EmbeddingDisplay:
    """Scatter plot of the features in two dimensions, coloured by cluster.

    Parameters
    ----------
    positions : ndarray of shape (m, 2)
        Coordinates of the samples that are shown.

    labels : ndarray of shape (m,)
        Their clusters; -1 means no cluster.

    indices : ndarray of shape (m,), default=None
        Their indices among all samples. None means the first m.
    """

    def __init__(self, *, positions, labels, indices=None):
        self.positions = positions
        self.labels = labels
        self.indices = np.arange(len(labels)) if indices is None else indices

    @classmethod
    def from_estimator(
        cls, estimator, X, *, method="pca", n_samples=2000, random_state=None, ax=None
    ) -> Self:
        """Plot the features that an estimator computes, coloured by its clusters.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            A fitted estimator.

        X : array-like, tensor, str, Path or list
            Images, as in `fit`.

        method : {"pca", "tsne"}, default="pca"
            PCA is fast and preserves large distances; t-SNE preserves neighbourhoods.

        n_samples : int, default=2000
            Largest number of samples that are shown; of more, a random subset is shown.

        random_state : int, RandomState instance or None, default=None
            Seed of the subset and of t-SNE.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : EmbeddingDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.
        """
        return cls.from_predictions(
            estimator.transform(X),
            estimator.predict(X),
            method=method,
            n_samples=n_samples,
            random_state=random_state,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls, features, labels, *, method="pca", n_samples=2000, random_state=None, ax=None
    ) -> Self:
        """Plot given features, coloured by given clusters.

        Parameters
        ----------
        features : array-like of shape (n_samples, n_features)
            Rows are normalised first. Samples with non-finite features, such as those of images
            that could not be read, are omitted.

        labels : array-like of shape (n_samples,)
            Integers; -1 means no cluster.

        method : {"pca", "tsne"}, default="pca"
            PCA is fast and preserves large distances; t-SNE preserves neighbourhoods.

        n_samples : int, default=2000
            Largest number of samples that are shown; of more, a random subset is shown.

        random_state : int, RandomState instance or None, default=None
            Seed of the subset and of t-SNE.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : EmbeddingDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        ValueError
            If the lengths differ, or no sample has finite features.
        """
        check_integer("n_samples", n_samples, 1)
        features, labels = np.asarray(features), column_or_1d(labels)
        check_consistent_length(features, labels)
        random_state = check_random_state(random_state)
        indices = np.flatnonzero(np.isfinite(features).all(axis=1))
        if len(indices) > n_samples:
            indices = np.sort(random_state.choice(indices, n_samples, replace=False))
        positions = embed_in_plane(features[indices], method=method, random_state=random_state)
        return cls(positions=positions, labels=labels[indices], indices=indices).plot(ax=ax)

    def plot(self, ax=None) -> Self:
        """Plot the samples, with the number of each cluster at its densest point.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : EmbeddingDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt
        from matplotlib.patheffects import withStroke

        if ax is None:
            _, ax = plt.subplots(figsize=(6, 6), layout="constrained")
        size = np.clip(3000 / len(self.labels), 4, 36)
        colours = _colours(int(self.labels.max()) + 1)
        for cluster in np.unique(self.labels):
            members = self.positions[self.labels == cluster]
            colour = colours[cluster] if cluster >= 0 else (0.6, 0.6, 0.6)
            name = f"cluster {cluster}" if cluster >= 0 else "none"
            ax.scatter(*members.T, s=size, color=colour, alpha=0.7, linewidths=0, label=name)
            if cluster >= 0:
                text = ax.text(
                    *members[densest(members)],
                    str(cluster),
                    ha="center",
                    va="center",
                    weight="bold",
                )
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_aspect("equal", adjustable="datalim")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class TrainingCurveDisplay:
    """Loss terms by epoch, one plot below the other.

    Parameters
    ----------
    history : list of dict of str to float
        Loss terms of each epoch; their names may differ between the phases of training.
    """

    def __init__(self, *, history):
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, *, ax=None) -> Self:
        """Plot the history of a fitted estimator.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            A fitted estimator.

        ax : matplotlib.axes.Axes or array of them, default=None
            Axes to draw on: one for all terms, or one for each. None creates a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_is_fitted(estimator)
        return cls.from_predictions(estimator.history_, ax=ax)

    @classmethod
    def from_predictions(cls, history, *, ax=None) -> Self:
        """Plot a given history.

        Parameters
        ----------
        history : list of dict of str to float
            Loss terms of each epoch, as in ``history_``.

        ax : matplotlib.axes.Axes or array of them, default=None
            Axes to draw on: one for all terms, or one for each. None creates a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        ValueError
            If the history is empty.
        """
        return cls(history=history).plot(ax=ax)

    def plot(self, ax=None) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or array of them, default=None
            Axes to draw on: one for all terms, or one for each. None creates a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            The display itself; ``ax_`` is an array with the axes of each term.

        Raises
        ------
        ValueError
            If the history is empty, or the number of axes is neither 1 nor that of the terms.
        """
        import matplotlib.pyplot as plt

        curves = curves_of(self.history)
        if ax is None:
            size = 6, 1.6 * len(curves) + 0.4
            _, ax = plt.subplots(len(curves), sharex=True, figsize=size, layout="constrained")
        axes = np.ravel(ax)
        if len(axes) not in (1, len(curves)):
            raise ValueError(
                f"ax must be one Axes, or {len(curves)} for {', '.join(curves)}; got {len(axes)}"
            )
        self.ax_ = np.broadcast_to(axes, len(curves))
        for axis, (name, (epochs, values)) in zip(self.ax_, curves.items(), strict=True):
            axis.plot(epochs, values, label=name)
            axis.set_ylabel(name if len(axes) == len(curves) else "loss")
        if len(axes) < len(curves):
            axes[0].legend()
        axes[-1].set_xlabel("epoch")
        self.figure_ = axes[0].figure
        return self


def curves_of(history) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split a history into one curve per loss term.

    Parameters
    ----------
    history : list of dict of str to float
        Loss terms of each epoch.

    Returns
    -------
    curves : dict of str to (ndarray, ndarray)
        Epochs, counted from 1, and values of each term.

    Raises
    ------
    ValueError
        If the history is empty.
    """
    if not history:
        raise ValueError("there are no epochs to show")
    names = dict.fromkeys(name for terms in history for name in terms)
    curves = {}
    for name in names:
        epochs = np.array([epoch for epoch, terms in enumerate(history, 1) if name in terms])
        curves[name] = epochs, np.array([history[epoch - 1][name] for epoch in epochs])
    return curves


class ClusterNumberDisplay:
    """Criteria of the number of clusters, one plot below the other.

    Parameters
    ----------
    table : dict of str to ndarray of shape (n_candidates,)
        As ``table`` of `skcc.ClusterNumbers`.

    suggestions : dict of str to list of int, default=None
        As ``suggestions`` of `skcc.ClusterNumbers`; they are marked.
    """

    def __init__(self, *, table, suggestions=None):
        self.table = table
        self.suggestions = suggestions

    @classmethod
    def from_samples(cls, X, n_clusters=range(2, 21), *, random_state=0, ax=None):
        """Compute the criteria and plot them.

        Parameters
        ----------
        X : array-like, tensor, str, Path or list
            Features or images, as in `skcc.suggest_n_clusters`.

        n_clusters : iterable of int, default=range(2, 21)
            Candidates.

        random_state : int, default=0
            Seed.

        ax : array of matplotlib.axes.Axes, default=None
            Axes to draw on, one for each criterion. None creates a figure.

        Returns
        -------
        display : ClusterNumberDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.
        """
        numbers = suggest_n_clusters(X, n_clusters, random_state=random_state)
        return cls.from_predictions(numbers, ax=ax)

    @classmethod
    def from_predictions(cls, numbers, *, ax=None):
        """Plot criteria that were computed.

        Parameters
        ----------
        numbers : ClusterNumbers
            From `skcc.suggest_n_clusters`.

        ax : array of matplotlib.axes.Axes, default=None
            Axes to draw on, one for each criterion. None creates a figure.

        Returns
        -------
        display : ClusterNumberDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.
        """
        return cls(table=numbers.table, suggestions=numbers.suggestions).plot(ax=ax)

    def plot(self, ax=None):
        """Plot the criteria.

        Parameters
        ----------
        ax : array of matplotlib.axes.Axes, default=None
            Axes to draw on, one for each criterion. None creates a figure.

        Returns
        -------
        display : ClusterNumberDisplay
            The display itself; ``ax_`` is an array with the axes of each criterion.

        Raises
        ------
        ValueError
            If the number of axes is not that of the criteria.
        """
        import matplotlib.pyplot as plt

        names = [name for name in self.table if name not in ("n_clusters", "stability_error")]
        if ax is None:
            size = 6, 1.4 * len(names) + 0.4
            _, ax = plt.subplots(len(names), sharex=True, figsize=size, layout="constrained")
        self.ax_ = np.ravel(ax)
        if len(self.ax_) != len(names):
            raise ValueError(
                f"ax must be {len(names)} axes for {', '.join(names)}; got {len(self.ax_)}"
            )
        ks, marked = np.asarray(self.table["n_clusters"]), self.suggestions or {}
        for axis, name in zip(self.ax_, names, strict=True):
            values = np.asarray(self.table[name], float)
            error = self.table.get("stability_error") if name == "stability" else None
            axis.errorbar(ks, values, error, marker=".", capsize=2)
            best = np.isin(ks, marked.get(name, []))
            axis.plot(ks[best], values[best], "o", markersize=9, fillstyle="none", color="C3")
            for k, value in zip(ks[best], values[best], strict=True):
                offset = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
                axis.annotate(str(k), (k, value), color="C3", **offset)
            if np.isnan(values).all():
                axis.text(0.5, 0.5, "clusters touch: says nothing", ha="center", va="center",
                          transform=axis.transAxes)  # fmt: skip
            axis.set_ylabel(name)
            axis.margins(y=0.25)
        self.ax_[-1].set_xlabel("number of clusters")
        self.ax_[-1].xaxis.get_major_locator().set_params(integer=True)
        self.figure_ = self.ax_[0].figure
        self.figure_.align_ylabels()
        return self


class ClusterSizeDisplay:
    """Bar chart of the sizes of the clusters.

    Parameters
    ----------
    sizes : array-like of shape (n_clusters,)
        Number of samples of each cluster.
    """

    def __init__(self, *, sizes):
        self.sizes = sizes

    @classmethod
    def from_estimator(cls, estimator, X=None, *, ax=None) -> Self:
        """Plot the sizes of the clusters of an estimator.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            A fitted estimator.

        X : array-like, tensor, str, Path or list, default=None
            Images, as in `fit`. None means the training images.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterSizeDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_is_fitted(estimator)
        labels = estimator.labels_ if X is None else estimator.predict(X)
        return cls.from_predictions(labels, n_clusters=estimator.n_clusters, ax=ax)

    @classmethod
    def from_predictions(cls, labels, *, n_clusters=None, ax=None) -> Self:
        """Plot the sizes of given clusters.

        Parameters
        ----------
        labels : array-like of shape (n_samples,)
            Integers; -1 means no cluster and is not counted.

        n_clusters : int, default=None
            Smallest number of clusters that are shown, so that empty ones are included.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterSizeDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.
        """
        labels = column_or_1d(labels)
        sizes = np.bincount(labels[labels >= 0], minlength=n_clusters or 1)
        return cls(sizes=sizes).plot(ax=ax)

    def plot(self, ax=None) -> Self:
        """Plot the bars.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterSizeDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6, 0.3 * len(self.sizes) + 1), layout="constrained")
        clusters = np.arange(len(self.sizes))
        bars = ax.barh(clusters, self.sizes, color=_colours(len(clusters))[: len(clusters)])
        ax.bar_label(bars, [f"{size:,}" for size in self.sizes], padding=3)
        ax.set_yticks(clusters, [str(cluster) for cluster in clusters])
        ax.invert_yaxis()
        ax.margins(x=0.1)
        ax.set_xlabel("images")
        ax.set_ylabel("cluster")
        ax.spines[["top", "right"]].set_visible(False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class ClusterConfusionDisplay:
    """Confusion matrix of classes and clusters, with matched pairs on the diagonal.

    Parameters
    ----------
    table : ndarray of shape (n_classes, n_clusters)
        Number of samples by class and cluster.

    classes : array-like of shape (n_classes,)
        Names of the rows.

    clusters : array-like of shape (n_clusters,)
        Names of the columns.
    """

    def __init__(self, *, table, classes, clusters):
        self.table = table
        self.classes = classes
        self.clusters = clusters

    @classmethod
    def from_estimator(cls, estimator, X, y, *, ax=None) -> Self:
        """Compare the predictions of an estimator with classes.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            A fitted estimator.

        X : array-like, tensor, str, Path or list
            Images, as in `fit`.

        y : array-like of shape (n_samples,)
            Classes; numbers or strings.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterConfusionDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.
        """
        return cls.from_predictions(y, estimator.predict(X), ax=ax)

    @classmethod
    def from_predictions(cls, y_true, y_pred, *, ax=None) -> Self:
        """Compare given clusters with classes.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Classes; numbers or strings.

        y_pred : array-like of shape (n_samples,)
            Clusters.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterConfusionDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.
        """
        table, classes, clusters = matched_confusion(y_true, y_pred)
        return cls(table=table, classes=classes, clusters=clusters).plot(ax=ax)

    def plot(self, ax=None) -> Self:
        """Plot the table; the colour of a cell is its fraction of the class.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : ClusterConfusionDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        rows, columns = np.shape(self.table)
        if ax is None:
            size = 0.5 * columns + 2, 0.4 * rows + 1.2
            _, ax = plt.subplots(figsize=size, layout="constrained")
        shares = self.table / np.maximum(np.sum(self.table, axis=1, keepdims=True), 1)
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(self.table):
            colour = "white" if shares[row, column] > 0.5 else "black"
            ax.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
        ax.set_xticks(np.arange(columns), [str(cluster) for cluster in self.clusters])
        ax.set_yticks(np.arange(rows), [str(name) for name in self.classes])
        ax.set_xlabel("cluster")
        ax.set_ylabel("class")
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _colours(n):
    """At least n colours; those of consecutive clusters differ clearly."""
    from matplotlib import colormaps

    if n <= 20:
        return colormaps["tab10" if n <= 10 else "tab20"].colors
    return colormaps["hsv"](np.arange(n) * 0.618034 % 1)  # steps by the golden ratio


def _rgb_channels(channels):
    """Indices of the channels that are shown as red, green and blue."""
    return [0, 1, 2] if channels >= 3 else [0, 0, 0]


class SimilarityDisplay:
    """Cosine similarities of positive and negative pairs by epoch.

    Parameters
    ----------
    similarity : list of dict of str to (float, float)
        Mean and standard deviation for each name in `skcc.similarity.PAIRS`, at each epoch.

    epochs : list of int, default=None
        Numbers of the epochs. None counts from 1.
    """

    def __init__(self, *, similarity, epochs=None):
        self.similarity = similarity
        self.epochs = epochs

    @classmethod
    def from_estimator(cls, estimator, X, *, random_state=0, ax=None) -> Self:
        """Train a clone of an estimator and plot the similarities after each epoch.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            An estimator, fitted or not.

        X : array-like, tensor, str, Path or list
            Images, as in `fit`.

        random_state : int, default=0
            Seed of the views and of the batches.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : SimilarityDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        ImportError
            If scikit-learn is older than 1.9 and has no callbacks.
        """
        monitor = SimilarityMonitor(random_state)
        clone(estimator).set_callbacks(monitor).fit(X)
        return cls(similarity=monitor.similarity_).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls, z, p, *, epochs=None, batch_size=256, random_state=None, ax=None
    ) -> Self:
        """Plot the similarities of embeddings and assignments recorded during training.

        Parameters
        ----------
        z : sequence of ndarray of shape (n_samples, 2, n_dimensions)
            Embeddings of two views of each sample, at each epoch.

        p : sequence of ndarray of shape (n_samples, 2, n_clusters)
            Soft assignments of the two views, at each epoch.

        epochs : list of int, default=None
            Numbers of the epochs. None counts from 1.

        batch_size : int, default=256
            See `skcc.similarity.pair_similarity`.

        random_state : int, RandomState instance or None, default=None
            Seed of the order of the samples.

        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : SimilarityDisplay
            The display; its attributes ``ax_`` and ``figure_`` hold the plot.

        Raises
        ------
        ValueError
            If the shapes or the numbers of epochs do not match.
        """
        similarity = [
            pair_similarity(*z_and_p, batch_size=batch_size, random_state=random_state)
            for z_and_p in zip(z, p, strict=True)
        ]
        return cls(similarity=similarity, epochs=epochs).plot(ax=ax)

    def plot(self, ax=None) -> Self:
        """Plot a curve for each kind of pair, with a band of one standard deviation.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        display : SimilarityDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        epochs = self.epochs or list(range(1, len(self.similarity) + 1))
        for number, name in enumerate(PAIRS):
            mean, std = np.array([values[name] for values in self.similarity]).T
            style = "--" if "clusters" in name else "-"
            (line,) = ax.plot(epochs, mean, style, label=name, color=f"C{number}")
            band = np.clip([mean - std, mean + std], -1, 1)
            ax.fill_between(epochs, *band, color=line.get_color(), alpha=0.15, linewidth=0)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylabel("cosine similarity")
        ax.set_ylim(top=1.02)
        ax.legend(loc="center right")
        self.ax_, self.figure_ = ax, ax.figure
        return self
