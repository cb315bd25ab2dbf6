"""
A folder of photos
==================

Files go in, clusters come out: no image need be loaded, resized or sorted by hand first.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from skcc import ContrastiveClustering
from skcc.plotting import ClusterGridDisplay, ClusterSizeDisplay

# %%
# Some photos
# -----------
# Two photographs come with scikit-learn: a temple and a flower. Pieces of them, in sizes that
# differ, stand in for a folder of photos. Take the path of your own folder instead, and skip
# this cell.
folder = Path(tempfile.mkdtemp()) / "photos"
folder.mkdir()
rng = np.random.default_rng(0)
for photo in load_sample_images().images:
    for _ in range(200):
        side = rng.integers(80, 120)
        top, left = rng.integers(0, np.array(photo.shape[:2]) - side)
        piece = Image.fromarray(photo[top : top + side, left : left + side])
        piece.save(folder / f"{len(list(folder.iterdir())):04}.jpg", quality=90)

# %%
# Clusters
# --------
# The folder is all that ``fit`` needs: it is searched for images, also in folders within
# folders. Files in colour get the views of natural photographs: crops, flips, and changes of
# colour.
model = ContrastiveClustering(n_clusters=6, image_size=16, max_epochs=25, random_state=0)
labels = model.fit_predict(folder)
ClusterGridDisplay.from_estimator(model, folder, n_images=14)
plt.show()

# %%
# Nothing but the images was used: no class, no network trained on other photos. How many pieces
# each cluster has:
ClusterSizeDisplay.from_predictions(labels)
plt.show()

# %%
# Which file is where
# -------------------
# ``labels_`` is in the order of the files, sorted by their paths.
files = sorted(folder.rglob("*.jpg"))
for cluster in range(3):
    members = [file.name for file, label in zip(files, model.labels_, strict=True)
               if label == cluster]  # fmt: skip
    print(f"cluster {cluster}: {', '.join(members[:5])}, ...")

# %%
# Photos that come later are assigned by the fitted model, with a probability for each cluster:
print(model.predict_proba(files[:3]).round(2))

# %%
# The same without Python, with a page ``out/report.html`` to look at:
#
# .. code-block:: sh
#
#     skcc fit photos/ -k 6 -o out/
#     skcc predict out/model.safetensors new/ -o labels.csv
