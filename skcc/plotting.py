"""Displays, in scikit-learn's manner: numbers in the constructor, drawing in `plot`."""

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from skcc import data
from skcc.metrics import matched_confusion
from skcc.similarity import PAIRS, SimilarityMonitor, pair_similarity
from skcc.validation import check_choice, check_integer


class ClusterGridDisplay:
    """A row of images per cluster.

    Parameters
    ----------
    images : list of ndarray of shape (m, height, width, channels)
        Images to show of each cluster; uint8, all of one size.

    sizes : list of int
        How many images each cluster has altogether.
    """

    def __init__(self, *, images, sizes):
        self.images = images
        self.sizes = sizes

    @classmethod
    def from_estimator(cls, estimator, X, *, n_images=12, ax=None):
        """Show the most confident images of each cluster.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Fitted.

        X : array-like, tensor, str, Path or list
            Images as in the estimator's `fit`.

        n_images : int, default=12
            Most images per cluster.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterGridDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        ValueError
            If the estimator was fitted on vectors.
        """
        p = estimator.predict_proba(X)
        if estimator.image_shape_ is None:
            raise ValueError("ClusterGridDisplay shows images; the estimator was fitted on vectors")
        store, _ = data.read(
            X,
            image_shape=estimator.image_shape_,
            n_jobs=estimator.n_jobs,
            on_error=estimator.on_error,
        )
        p = p[store.sample_indices]
        labels, confidence = p.argmax(axis=1), p.max(axis=1)
        images, sizes = [], []
        for cluster in range(p.shape[1]):
            members = np.flatnonzero(labels == cluster)
            best = members[np.argsort(-confidence[members], kind="stable")][:n_images]
            images.append(store.samples[best].cpu().numpy())
            sizes.append(len(members))
        return cls(images=images, sizes=sizes).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the grid.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterGridDisplay
            Itself.
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
                canvas[top : top + height, left : left + width] = image[..., _shown(channels)]
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
    """Positions of samples on a map, from their features.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Finite. Only directions count, as everywhere in this package.

    method : {"pca", "tsne"}, default="pca"
        Principal components keep large distances, and are quick; t-SNE keeps neighbours together.

    random_state : int, RandomState instance or None, default=None
        Seed of t-SNE.

    Returns
    -------
    positions : ndarray of shape (n_samples, 2)
        Float64.

    Raises
    ------
    ValueError
        If there is no such method, or features are no finite table.
    """
    from sklearn.decomposition import PCA  # here, for the time that it takes
    from sklearn.preprocessing import normalize

    check_choice("method", method, ["pca", "tsne"])
    rows = normalize(check_array(features, dtype=np.float64))
    if method == "tsne" and len(rows) > 3:  # so few have no neighbours to speak of
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
    """Where to name a group on a map: the member that is closest to a third of the others.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
        Of the members; at least one.

    Returns
    -------
    index : int
        Of that member. A mean or median may lie where nothing is, if a group is in parts.
    """
    positions = np.asarray(positions, dtype=float)
    third = len(positions) // 3
    differences = positions[:, None] - positions[None]
    distances = np.hypot(differences[..., 0], differences[..., 1])
    return int(np.partition(distances, third, axis=1)[:, third].argmin())


class EmbeddingDisplay:
    """A map of samples by their features, coloured by cluster.

    Parameters
    ----------
    positions : ndarray of shape (m, 2)
        Where each sample that is shown lies.

    labels : ndarray of shape (m,)
        Their clusters; -1 is none.

    indices : ndarray of shape (m,), default=None
        Which of the samples they are. None stands for the first m.
    """

    def __init__(self, *, positions, labels, indices=None):
        self.positions = positions
        self.labels = labels
        self.indices = np.arange(len(labels)) if indices is None else indices

    @classmethod
    def from_estimator(
        cls, estimator, X, *, method="pca", n_samples=2000, random_state=None, ax=None
    ):
        """Map images by the features of an estimator, coloured by the clusters it finds.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Fitted.

        X : array-like, tensor, str, Path or list
            Images as in the estimator's `fit`.

        method : {"pca", "tsne"}, default="pca"
            Principal components keep large distances, and are quick; t-SNE keeps neighbours
            together.

        n_samples : int, default=2000
            Most samples that are shown; of more, a random part.

        random_state : int, RandomState instance or None, default=None
            Seed of that part and of t-SNE.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : EmbeddingDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.
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
    ):
        """Map samples whose features and clusters are known.

        Parameters
        ----------
        features : array-like of shape (n_samples, n_features)
            Compared by direction. Samples whose features are not finite, as those of images that
            could not be read, are left out.

        labels : array-like of shape (n_samples,)
            Integers; -1 is no cluster.

        method : {"pca", "tsne"}, default="pca"
            Principal components keep large distances, and are quick; t-SNE keeps neighbours
            together.

        n_samples : int, default=2000
            Most samples that are shown; of more, a random part.

        random_state : int, RandomState instance or None, default=None
            Seed of that part and of t-SNE.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : EmbeddingDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        ValueError
            If lengths differ, or no features are finite.
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

    def plot(self, ax=None):
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : EmbeddingDisplay
            Itself.
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
    """The terms of the loss over the epochs, each below the other.

    Parameters
    ----------
    history : list of dict of str to float
        Terms of each epoch; those of another phase may have other names.
    """

    def __init__(self, *, history):
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Show how an estimator was trained.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Fitted.

        ax : matplotlib.axes.Axes or array of them, default=None
            Where to draw: one for all terms, or one for each. None makes a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_is_fitted(estimator)
        return cls.from_predictions(estimator.history_, ax=ax)

    @classmethod
    def from_predictions(cls, history, *, ax=None):
        """Show a history.

        Parameters
        ----------
        history : list of dict of str to float
            Terms of each epoch, as in ``history_``.

        ax : matplotlib.axes.Axes or array of them, default=None
            Where to draw: one for all terms, or one for each. None makes a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        ValueError
            If there are no epochs.
        """
        return cls(history=history).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or array of them, default=None
            Where to draw: one for all terms, or one for each. None makes a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            Itself; ``ax_`` is the array of axes, one for each term.

        Raises
        ------
        ValueError
            If there are no epochs, or not as many axes as terms.
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
    """The terms of a history, one by one.

    Parameters
    ----------
    history : list of dict of str to float
        Terms of each epoch.

    Returns
    -------
    curves : dict of str to (ndarray, ndarray)
        Epochs, counted from 1, and values of each term.

    Raises
    ------
    ValueError
        If there are no epochs.
    """
    if not history:
        raise ValueError("there are no epochs to show")
    names = dict.fromkeys(name for terms in history for name in terms)
    curves = {}
    for name in names:
        epochs = np.array([e for e, terms in enumerate(history, 1) if name in terms])
        curves[name] = epochs, np.array([history[e - 1][name] for e in epochs])
    return curves


class ClusterSizeDisplay:
    """A bar per cluster, as long as it has members.

    Parameters
    ----------
    sizes : array-like of shape (n_clusters,)
        How many.
    """

    def __init__(self, *, sizes):
        self.sizes = sizes

    @classmethod
    def from_estimator(cls, estimator, X=None, *, ax=None):
        """Show how large the clusters are.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Fitted.

        X : array-like, tensor, str, Path or list, default=None
            Images as in the estimator's `fit`. None stands for those it was fitted on.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterSizeDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_is_fitted(estimator)
        labels = estimator.labels_ if X is None else estimator.predict(X)
        return cls.from_predictions(labels, n_clusters=estimator.n_clusters, ax=ax)

    @classmethod
    def from_predictions(cls, labels, *, n_clusters=None, ax=None):
        """Show how often each label occurs.

        Parameters
        ----------
        labels : array-like of shape (n_samples,)
            Integers; -1, which is no cluster, is not counted.

        n_clusters : int, default=None
            How many clusters there are at least, so that empty ones are shown.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterSizeDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.
        """
        labels = column_or_1d(labels)
        sizes = np.bincount(labels[labels >= 0], minlength=n_clusters or 1)
        return cls(sizes=sizes).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterSizeDisplay
            Itself.
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
    """Classes against clusters, each cluster below the class that it is matched with.

    Parameters
    ----------
    table : ndarray of shape (n_classes, n_clusters)
        How many samples of a class are in a cluster.

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
    def from_estimator(cls, estimator, X, y, *, ax=None):
        """Compare the clusters that an estimator finds with classes.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Fitted.

        X : array-like, tensor, str, Path or list
            Images as in the estimator's `fit`.

        y : array-like of shape (n_samples,)
            Classes; numbers or strings.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterConfusionDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.
        """
        return cls.from_predictions(y, estimator.predict(X), ax=ax)

    @classmethod
    def from_predictions(cls, y_true, y_pred, *, ax=None):
        """Compare clusters with classes.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Classes; numbers or strings.

        y_pred : array-like of shape (n_samples,)
            Clusters.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterConfusionDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.
        """
        table, classes, clusters = matched_confusion(y_true, y_pred)
        return cls(table=table, classes=classes, clusters=clusters).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the table; the shade of a cell is its share of the class.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : ClusterConfusionDisplay
            Itself.
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
    """A colour per cluster; neighbours in number differ, whatever their number."""
    from matplotlib import colormaps

    if n <= 20:
        return colormaps["tab10" if n <= 10 else "tab20"].colors
    return colormaps["hsv"](np.arange(n) * 0.618034 % 1)  # the golden ratio spreads them


def _shown(channels):
    """Which channels stand for red, green and blue."""
    return [0, 1, 2] if channels >= 3 else [0, 0, 0]


class SimilarityDisplay:
    """How alike pairs of views and of clusters are, over the epochs.

    Parameters
    ----------
    similarity : list of dict of str to (float, float)
        Mean and standard deviation of cosines, by `skcc.similarity.PAIRS`, at each epoch.

    epochs : list of int, default=None
        Which epochs these are. None counts from 1.
    """

    def __init__(self, *, similarity, epochs=None):
        self.similarity = similarity
        self.epochs = epochs

    @classmethod
    def from_estimator(cls, estimator, X, *, random_state=0, ax=None):
        """Train a clone of an estimator, and look at it after each epoch.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Need not be fitted.

        X : array-like, tensor, str, Path or list
            Images as in the estimator's `fit`.

        random_state : int, default=0
            Seed of the views that are compared.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : SimilarityDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        ImportError
            If scikit-learn has no callbacks, as before 1.9.
        """
        monitor = SimilarityMonitor(random_state)
        clone(estimator).set_callbacks(monitor).fit(X)
        return cls(similarity=monitor.similarity_).plot(ax=ax)

    @classmethod
    def from_predictions(cls, z, p, *, epochs=None, batch_size=256, random_state=None, ax=None):
        """Compare embeddings and assignments that were kept during training.

        Parameters
        ----------
        z : sequence of ndarray of shape (n_samples, 2, n_dimensions)
            Embeddings of two views of each sample, at each epoch.

        p : sequence of ndarray of shape (n_samples, 2, n_clusters)
            Soft assignments of them.

        epochs : list of int, default=None
            Which epochs these are. None counts from 1.

        batch_size : int, default=256
            Pairs are made within batches of at most so many samples.

        random_state : int, RandomState instance or None, default=None
            Order of the samples.

        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : SimilarityDisplay
            Its ``ax_`` and ``figure_`` hold the drawing.

        Raises
        ------
        ValueError
            If shapes or numbers of epochs do not match.
        """
        similarity = [
            pair_similarity(*both, batch_size=batch_size, random_state=random_state)
            for both in zip(z, p, strict=True)
        ]
        return cls(similarity=similarity, epochs=epochs).plot(ax=ax)

    def plot(self, ax=None):
        """Draw a curve for each kind of pairs, and a band of one standard deviation about it.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        display : SimilarityDisplay
            Itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        epochs = self.epochs or list(range(1, len(self.similarity) + 1))
        for number, name in enumerate(PAIRS):
            mean, spread = np.array([at[name] for at in self.similarity]).T
            dashes = "--" if "clusters" in name else "-"
            (line,) = ax.plot(epochs, mean, dashes, label=name, color=f"C{number}")
            band = np.clip([mean - spread, mean + spread], -1, 1)
            ax.fill_between(epochs, *band, color=line.get_color(), alpha=0.15, linewidth=0)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylabel("cosine similarity")
        ax.set_ylim(top=1.02)
        ax.legend(loc="center right")
        self.ax_, self.figure_ = ax, ax.figure
        return self
