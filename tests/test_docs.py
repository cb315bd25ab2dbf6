"""Documentation is held against the code, and run."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import validate
from sklearn.utils import Bunch

import skcc
from skcc.augment import AUGMENTATIONS
from skcc.backbones import BACKBONES

HOME = Path(__file__).parents[1]
ESTIMATORS = [getattr(skcc, name) for name in skcc.__all__]
# What numpydoc asks of every docstring beyond our conventions: sections that say nothing new.
NOT_ASKED = {"ES01", "EX01", "SA01", "SA04", "GL08", "RT03", "PR06", "YD01", "SS05", "SS06", "RT02"}


def public_objects():
    """Every public function, class and method of the package, by its full name."""
    for info in pkgutil.walk_packages(skcc.__path__, "skcc."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{info.name}.{name}"
            if inspect.isclass(thing):
                for method, function in vars(thing).items():
                    public = not method.startswith("_") or method == "__call__"
                    if public and inspect.isfunction(function) and function.__doc__:
                        yield f"{info.name}.{name}.{method}"


PUBLIC = sorted(public_objects())


def load(full_name):
    parts = full_name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(full_name)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_are_numpydoc(name):
    problems = [f"{code}: {text}" for code, text in validate(name)["errors"]
                if code not in NOT_ASKED]  # fmt: skip
    assert not problems


def documented(thing):
    doc = ClassDoc(thing) if inspect.isclass(thing) else FunctionDoc(thing)
    return {
        name.strip(): (parameter.type, " ".join(parameter.desc))
        for parameter in doc["Parameters"]
        for name in parameter.name.split(",")
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_documented_defaults_are_the_signatures(name):
    thing = load(name)
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    signature = inspect.signature(thing)
    docs = documented(thing)
    for parameter, (kind, _) in docs.items():
        default = signature.parameters[parameter.lstrip("*")].default
        said = re.search(r"default=(.+)$", kind)
        assert bool(said) == (default is not inspect.Parameter.empty), f"{parameter}: {kind}"
        if said:
            assert eval(said[1], {"torch": torch}) == default, f"{parameter}: {kind}"


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda c: c.__name__)
def test_estimators_document_every_parameter_in_order_and_every_attribute(cls, shapes):
    parameters = [p for p in inspect.signature(cls).parameters]
    assert list(documented(cls)) == parameters
    assert parameters == sorted(cls().get_params(), key=parameters.index)
    attributes = {p.name for p in ClassDoc(cls)["Attributes"]}
    fitted = cls(3, max_epochs=8, batch_size=40, readout="kmeans", random_state=0).fit(shapes[0])
    learned = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    assert learned <= attributes
    assert attributes - learned <= {"feature_names_in_"}


def test_shared_parameters_say_the_same_everywhere():
    said = {}
    for cls in ESTIMATORS:
        for name, words in documented(cls).items():
            assert said.setdefault(name, words) == words, f"{name} of {cls.__name__}"


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


WITH_CODE = [page for page in (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))
             if python_blocks(page)]  # fmt: skip


def test_pages_have_code():
    assert {page.stem for page in WITH_CODE} >= {"README", "getting-started", "losses", "saving"}


def test_every_name_is_in_the_tables_of_choices():
    names = set(re.findall(r"`([a-z0-9-]+)`", (HOME / "docs" / "choosing.md").read_text()))
    resnets = {f"resnet{depth}-{stem}" for depth in (18, 34, 50) for stem in ("small", "image")}
    assert names >= set(AUGMENTATIONS)
    assert names >= set(BACKBONES) - resnets  # of those one stands for all
    assert names >= {"resnet18-small", "resnet18-image"}


@pytest.mark.filterwarnings("ignore")  # an epoch finds little
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda path: path.name)
def test_the_code_of_the_pages_runs(page, monkeypatch, tmp_path):
    from PIL import Image

    from skcc import datasets

    digits = datasets.load_digits()
    few = Bunch(images=digits.images[:700], target=digits.target[:700])
    monkeypatch.setattr(datasets, "load_digits", lambda: few)  # pages are about what is said
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("skcc.defaults.max_epochs", lambda *_: 1)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(digits.images[:40]):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    namespace = {}
    for block in python_blocks(page):
        exec(compile(block, page, "exec"), namespace)  # ours, not a user's


def test_the_quickstart_runs_and_draws(tmp_path, monkeypatch, capsys):
    path = HOME / "examples" / "quickstart.py"
    assert len(path.read_text().splitlines()) < 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("skcc.defaults.max_epochs", lambda *_: 12)  # of 62
    runpy.run_path(str(path), run_name="__main__")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "0." in line]
    assert [" ".join(words[:-3]) for words in rows] == [
        *("k-means of the pixels", "ContrastiveClustering", "on held-out images")
    ]
    assert all(float(words[-3]) > 0.5 for words in rows)
    assert (tmp_path / "digits_clusters.png").stat().st_size > 10_000


@pytest.mark.long
def test_the_quickstart_clusters_digits(tmp_path):
    path = HOME / "examples" / "quickstart.py"
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    out = subprocess.run(
        [sys.executable, "-W", "error", path], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rows = {line[:24].strip(): float(line[24:].split()[0])
            for line in out.splitlines() if re.search(r"0\.\d{3}  0\.", line)}  # fmt: skip
    assert rows["ContrastiveClustering"] >= 0.95
    assert rows["on held-out images"] >= 0.93
    assert rows["ContrastiveClustering"] > rows["k-means of the pixels"] + 0.1
    assert (tmp_path / "digits_clusters.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", sorted((HOME / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_parse_and_open_with_a_sentence(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_in_the_project_names_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=HOME, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        text = (HOME / name).read_text(errors="ignore")
        assert not re.search(r"/(home|root|work)/\w", text), name
