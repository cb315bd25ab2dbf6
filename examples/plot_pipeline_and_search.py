"""
In a pipeline and in a search
=============================

The estimator works inside scikit-learn: its features are the input of a classifier, and
``GridSearchCV`` chooses the number of clusters without labels.
"""

import matplotlib.pyplot as plt
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from skcc import ContrastiveClustering
from skcc.datasets import load_digits

digits = load_digits()
images, held_out, classes, held_out_classes = train_test_split(
    digits.images, digits.target, test_size=0.4, random_state=0
)

# %%
# Few labels are enough
# ---------------------
# First train on all images, without labels. ``FrozenEstimator`` keeps the pipeline from training
# the network again.
model = ContrastiveClustering(n_clusters=10, max_epochs=18, batch_size=128, random_state=0)
model.fit(images)
learned = make_pipeline(FrozenEstimator(model), Normalizer(), LogisticRegression(C=100))
# For comparison, a classifier of the pixels.
pixels = make_pipeline(StandardScaler(), LogisticRegression())

numbers = [20, 50, 100, 200, 500]
scores = {"features of skcc": [], "pixels": []}
for n in numbers:
    learned.fit(images[:n], classes[:n])
    scores["features of skcc"].append(learned.score(held_out, held_out_classes))
    pixels.fit(images[:n].reshape(n, -1), classes[:n])
    scores["pixels"].append(pixels.score(held_out.reshape(len(held_out), -1), held_out_classes))

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, accuracy in scores.items():
    ax.plot(numbers, accuracy, "o-", label=name)
ax.set(xscale="log", xlabel="images with a label", ylabel="accuracy on held-out images")
ax.set_xticks(numbers, numbers)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# How many clusters?
# ------------------
# ``score`` measures how well two random views of an image agree on its cluster. It needs no
# labels, so a search over ``n_clusters`` needs none either. These are the digits 0 to 3.
few = digits.images[digits.target < 4][:400]
search = GridSearchCV(
    ContrastiveClustering(max_epochs=20, batch_size=90, random_state=0),
    {"n_clusters": [2, 3, 4, 5]},
    cv=2,
)
search.fit(few)

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.errorbar(
    search.cv_results_["param_n_clusters"],
    search.cv_results_["mean_test_score"],
    search.cv_results_["std_test_score"],
    marker="o",
)
ax.set(xlabel="n_clusters", ylabel="score on held-out images", xticks=[2, 3, 4, 5])
ax.set_title(f"picked: {search.best_params_['n_clusters']}")
plt.show()
