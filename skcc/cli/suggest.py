"""``skcc suggest``: what several criteria say about the number of clusters in a folder."""

import numpy as np

from skcc.cli.inputs import find_images, load, set_parameters
from skcc.cli.options import reading_parameters
from skcc.cli.output import count, plain_warnings, print_message
from skcc.cli.run_folder import model_file
from skcc.cluster_number import suggest_n_clusters
from skcc.embedding import ImageEmbedder


def run(options):
    """Print the table, or yield it as a record, and draw it."""
    low, high = options.range
    if not 2 <= low <= high:
        raise ValueError(f"--range {low} {high}; wanted two numbers, 2 or more, the lower first")
    with plain_warnings():
        files, _ = find_images(options.path)
        print_message(options, f"{count(len(files), 'image')} in {options.path}")
        numbers = suggest_n_clusters(
            _features(options, files),
            range(low, high + 1),
            random_state=options.seed,
            device=options.device or "auto",
            n_jobs=options.jobs,
            on_error=options.on_error or "raise",
        )
    if options.out:
        from skcc.plotting import ClusterNumberDisplay

        figure = ClusterNumberDisplay.from_predictions(numbers).figure_
        figure.savefig(options.out)
        print_message(options, f"look at {options.out}")
    if options.json:
        table = {name: _plain(values) for name, values in numbers.table.items()}
        yield {
            "table": table,
            "suggestions": numbers.suggestions,
            "n_components": numbers.n_components,
            "n_samples": numbers.n_samples,
        }
    else:
        yield str(numbers)


def _plain(values):
    """A list for JSON, in which a missing number is null."""
    return [None if value != value else value for value in values.tolist()]


def _features(options, files):
    """What is compared: features of a network where one is named, else the files themselves."""
    if options.model:
        estimator = load(model_file(options.model), options.device, options.weights_file)
        return _readable(set_parameters(estimator, reading_parameters(options)).transform(files))
    if options.embedder:
        parameters = reading_parameters(options)
        if options.weights_file:
            parameters["weights"] = options.weights_file
        embedder = ImageEmbedder(options.embedder).set_params(**parameters)
        return _readable(embedder.fit_transform(files))
    if options.weights_file:
        raise ValueError("--weights-file holds the weights of a network: name it by --embedder")
    return files


def _readable(features):
    """Without the rows of NaN that stand for images that could not be read."""
    return features[np.isfinite(features).all(axis=1)]
