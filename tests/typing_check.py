"""What `make typing` checks: code of users, as in README. It is not run."""

from pathlib import Path

import numpy as np
from PIL import Image

import skcc
from skcc import ContrastiveClustering, ImageEmbedder, NeighborClustering, TwinContrastClustering
from skcc.augment import ImageAugmentation
from skcc.base import BaseDeepClusterer
from skcc.callbacks import CSVLogger
from skcc.datasets import load_digits
from skcc.exceptions import ImageReadError
from skcc.metrics import clustering_accuracy, matched_confusion
from skcc.objective import Objective, Phase, Setup
from skcc.plotting import ClusterGridDisplay


class Mine(BaseDeepClusterer):
    strength: float = 1.0

    def _phases(self, setup: Setup):  # type: ignore[no-untyped-def]
        yield Phase(Objective())


def use() -> None:
    X = load_digits().images
    model = ContrastiveClustering(10, random_state=0, max_epochs=2, checkpoint_dir=Path("run"))
    model = model.fit(X, unlabeled=None)
    labels = model.fit_predict(X)
    p = model.predict_proba([Image.new("L", (8, 8))])
    features: np.ndarray = model.transform(X)
    score: float = model.score(X)
    model.save("digits.safetensors")
    loaded = ContrastiveClustering.load("digits.safetensors", device="cpu")
    print(loaded.predict("photos/"), loaded.labels_, loaded.settings_, loaded.history_)
    accuracy: float = clustering_accuracy([0, 1], labels)
    table, classes, clusters = matched_confusion([0, 1], [1, 0])
    ClusterGridDisplay.from_estimator(model, "photos/").figure_.savefig("photos.png")
    others: list[BaseDeepClusterer] = [
        TwinContrastClustering(n_clusters=3, augment=ImageAugmentation(flip=0.0), n_jobs=-1),
        skcc.IIC(5, backbone="resnet18", learning_rate=1e-3, on_error="warn"),
        skcc.DEC(5, image_size=32, max_seconds=60.0),
    ]
    others[0].set_callbacks(CSVLogger("logs"))
    others[1].start_from(model)
    embeddings = ImageEmbedder("torchvision/resnet50", cache_dir="cache").fit_transform("photos/")
    NeighborClustering(n_clusters=3).fit_predict(embeddings)
    version: str = skcc.__version__
    Mine(3, strength=2.0)
    try:
        model.predict(["no such file"])
    except ImageReadError as error:
        print(error)
