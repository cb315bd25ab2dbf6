"""
A folder of photos
==================

Cluster the image files of a folder, without loading, resizing or sorting them first.
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
# Two photographs come with scikit-learn: a temple and a flower. Pieces of them, of different
# sizes, make a folder of photos for this example. With a folder of your own, skip this cell.
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
# ``fit`` takes the path of the folder, and finds the images in it and in its subfolders. Colour
# images get the views of natural photographs: crops, flips, and changes of colour.
model = ContrastiveClustering(n_clusters=6, image_size=16, max_epochs=25, random_state=0)
labels = model.fit_predict(folder)
ClusterGridDisplay.from_estimator(model, folder, n_images=14)
plt.show()

# %%
# Only the images were used: no classes, and no network trained on other photos. The sizes of the
# clusters:
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
# The same from the command line, with the page ``out/report.html``:
#
# .. code-block:: sh
#
#     skcc fit photos/ -k 6 -o out/
#     skcc predict out/model.safetensors new/ -o labels.csv
