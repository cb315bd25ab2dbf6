"""``skcc predict``: assign images to the clusters of a fitted model."""

import sys

import numpy as np

from skcc import distributed, pipelines
from skcc.cli.inputs import find_images, load, set_parameters
from skcc.cli.options import reading_parameters
from skcc.cli.output import count, plain_warnings, print_message
from skcc.cli.run_folder import model_file
from skcc.data.items import join_some
from skcc.report import outputs


def run(options):
    """Predict, and write the table to a file or to standard output."""
    distributed.init_process_group()
    options.quiet |= not distributed.is_rank_zero()
    with plain_warnings():
        estimator = load(model_file(options.model), options.device, options.weights_file)
        set_parameters(estimator, reading_parameters(options))
        files = [file for path in options.paths for file in find_images(path)[0]]
        print_message(options, f"{count(len(files), 'image')} in {join_some(options.paths)}")
        n_clusters = pipelines.parts(estimator)[1].n_clusters
        names = outputs.read_names(options.rename, n_clusters) if options.rename else None
        to_bytes = outputs.labels_as_json if options.json else outputs.labels_as_csv
        table = to_bytes([str(file) for file in files], *predict_labels(estimator, files), names)
    if not distributed.is_rank_zero():
        return
    if options.out:
        outputs.write(options.out, table)
        print_message(options, f"wrote {options.out}")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(table)
        sys.stdout.buffer.flush()
    yield from ()  # no record to print


def predict_labels(estimator, files) -> tuple[np.ndarray, np.ndarray]:
    """Predict the cluster of each image and its probability."""
    p = estimator.predict_proba(files)
    unreadable = np.isnan(p).any(axis=1)
    best = np.where(unreadable[:, None], 0, p).argmax(axis=1)
    labels = np.where(unreadable, -1, best)
    return labels, p[np.arange(len(p)), best].astype(float)
