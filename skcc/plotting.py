"""Displays, in scikit-learn's manner: numbers in the constructor, drawing in `plot`."""

import numpy as np

from skcc import data


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
        p = p[store.places]
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


def _shown(channels):
    """Which channels stand for red, green and blue."""
    return [0, 1, 2] if channels >= 3 else [0, 0, 0]
