"""The documentation is compared with the code, and its code is run."""

import ast
import importlib
import inspect
import os
import pkgutil
import pydoc
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from estimators import EACH, EVERY
from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import validate
from sklearn.utils import Bunch

import skcc
from skcc.augment import AUGMENTATIONS
from skcc.backbones import BACKBONES

HOME = Path(__file__).parents[1]
ESTIMATORS = EVERY
# Errors of numpydoc's validation that are no rule here, such as missing examples.
IGNORED = {"ES01", "EX01", "SA01", "SA04", "GL08", "RT03", "PR06", "YD01", "SS05", "SS06", "RT02"}
NO_SECTIONS = {"PR01", "RT01"}  # allowed in addition where prose is enough


def named_objects():
    """Every function, class and method without underscore in the package, by its full name."""
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


NAMED = sorted(named_objects())


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


def public_objects():
    """What docs/api.rst lists, by the full name of where it is defined."""
    module = ""
    for line in (HOME / "docs" / "api.rst").read_text().splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif name := re.fullmatch(r"   ([\w.]+)", line):
            thing = load(f"{module}.{name[1]}")
            yield f"{thing.__module__}.{thing.__qualname__}"


PUBLIC = set(public_objects())


def test_the_api_lists_what_is_there():
    assert PUBLIC.issubset(NAMED)
    everything = [getattr(skcc, name) for name in skcc.__all__]
    assert PUBLIC.issuperset(f"{cls.__module__}.{cls.__name__}" for cls in everything)


@pytest.mark.parametrize("name", NAMED)
def test_docstrings_are_numpydoc(name):
    """What the API lists is documented in full; for the rest prose without sections is enough."""
    is_public = name in PUBLIC or name.rpartition(".")[0] in PUBLIC
    has_sections = re.search(r"^ *---", load(name).__doc__, flags=re.MULTILINE)
    ignored = IGNORED if is_public or has_sections else IGNORED | NO_SECTIONS
    problems = [f"{code}: {text}" for code, text in validate(name)["errors"]
                if code not in ignored]  # fmt: skip
    assert not problems


def documented(thing):
    doc = ClassDoc(thing) if inspect.isclass(thing) else FunctionDoc(thing)
    return {
        name.strip(): (parameter.type, " ".join(parameter.desc))
        for parameter in doc["Parameters"]
        for name in parameter.name.split(",")
    }


@pytest.mark.parametrize("name", NAMED)
def test_documented_defaults_are_the_signatures(name):
    thing = load(name)
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    signature = inspect.signature(thing)
    docs = documented(thing)
    for parameter, (kind, _) in docs.items():
        default = signature.parameters[parameter.lstrip("*")].default
        stated = re.search(r"default=(.+)$", kind)
        assert bool(stated) == (default is not inspect.Parameter.empty), f"{parameter}: {kind}"
        if stated:
            assert eval(stated[1], {"torch": torch}) == default, f"{parameter}: {kind}"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of two epochs
@pytest.mark.parametrize("cls", EACH)
def test_estimators_document_every_parameter_in_order_and_every_attribute(cls, shapes):
    parameters = [p for p in inspect.signature(cls).parameters]
    assert list(documented(cls)) == parameters
    assert parameters == sorted(cls().get_params(), key=parameters.index)
    attributes = {p.name for p in ClassDoc(cls)["Attributes"]}
    fitted = cls(3, max_epochs=2, batch_size=40, random_state=0, readout="kmeans").fit(shapes[0])
    learned = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    assert learned <= attributes
    assert attributes - learned <= {"feature_names_in_", "readout_scores_", "agreement_"}


def test_shared_parameters_have_the_same_description_everywhere():
    descriptions = {}
    for cls in ESTIMATORS:
        for name, (kind, *text) in documented(cls).items():
            described = kind.partition(", default=")[0], *text  # a method may have its own default
            known = descriptions.setdefault(name, described)
            assert known == described, f"{name} of {cls.__name__}"


class UserClustering(skcc.ContrastiveClustering):
    """A method of a user.

    Parameters
    ----------
    strength : float, default=2.0
        Declared by the user.

    n_heads : int, default=1
        Described by the user.

    Attributes
    ----------
    history_ : list of dict
        Also described by the user.

    trace_ : list of float
        Added by the user.
    """

    strength: float = 2.0
    n_heads: int = 1


@pytest.mark.parametrize("cls", [*ESTIMATORS, UserClustering], ids=lambda c: c.__name__)
def test_help_shows_every_parameter_in_the_order_of_the_signature(cls):
    parameters = [*inspect.signature(cls).parameters]
    text = pydoc.plain(pydoc.render_doc(cls))
    section = text[text.index(" |  Parameters\n") : text.index(" |  Attributes\n")]
    assert re.findall(r"^ \|  (\w+) : ", section, flags=re.MULTILINE) == parameters
    assert inspect.getdoc(cls).count("\nParameters\n---") == 1


def test_a_subclass_inherits_entries_and_may_replace_them():
    base, own = documented(skcc.ContrastiveClustering), documented(UserClustering)
    assert [*own] == [*inspect.signature(UserClustering).parameters]
    assert own.keys() - base.keys() == {"strength"}
    assert {name for name in base if own[name] != base[name]} == {"n_heads"}
    assert own["n_heads"] == ("int, default=1", "Described by the user.")
    assert UserClustering().n_heads == UserClustering().get_params()["n_heads"] == 1
    attributes = {p.name: p.desc for p in ClassDoc(UserClustering)["Attributes"]}
    inherited = {p.name: p.desc for p in ClassDoc(skcc.ContrastiveClustering)["Attributes"]}
    assert attributes == inherited | {
        "history_": ["Also described by the user."],
        "trace_": ["Added by the user."],
    }


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


WITH_CODE = [page for page in (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))
             if python_blocks(page)]  # fmt: skip
SEEN_FIRST = {"README", "getting-started"}  # the code of other pages runs in `make test-site`


def test_pages_have_code():
    assert {page.stem for page in WITH_CODE} >= {"README", "getting-started", "losses", "saving"}


def test_names_of_the_package_in_pages_and_docstrings_exist():
    sources = [*(HOME / "docs").glob("*.md"), HOME / "README.md", HOME / "docs" / "api.rst"]
    sources += [*(HOME / "skcc").rglob("*.py"), *(HOME / "examples").glob("*.py")]
    names = {name for path in sources if path.name != "log.md"
             for name in re.findall(r"`(skcc(?:\.\w+)+)", path.read_text())}  # fmt: skip
    assert len(names) > 30
    for name in names:
        load(name)


def test_every_name_is_in_the_tables_of_choices():
    names = set(re.findall(r"`([a-z0-9-]+)`", (HOME / "docs" / "choosing.md").read_text()))
    resnets = {f"resnet{depth}-{stem}" for depth in (18, 34, 50) for stem in ("small", "image")}
    assert names >= set(AUGMENTATIONS)
    assert names >= set(BACKBONES) - resnets  # of those one stands for all
    assert names >= {"resnet18-small", "resnet18-image"}


@pytest.mark.filterwarnings("ignore")  # after one epoch clusters may be empty
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.stem in SEEN_FIRST else pytest.mark.site, id=page.name)
        for page in WITH_CODE
    ],
)
def test_the_code_of_the_pages_runs(page, monkeypatch, tmp_path):
    from PIL import Image

    from skcc import datasets

    digits = datasets.load_digits()
    few = Bunch(images=digits.images[:320], target=digits.target[:320])
    monkeypatch.setattr(datasets, "load_digits", lambda: few)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("skcc.training.settings.max_epochs", lambda *_: 1)
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
    monkeypatch.setattr("skcc.training.settings.max_epochs", lambda *_: 3)  # of 62
    runpy.run_path(str(path), run_name="__main__")
    rows = [
        line.split()
        for line in capsys.readouterr().out.splitlines()
        if re.search(r"[01]\.\d{3}", line)
    ]
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
            for line in out.splitlines() if re.search(r"[01]\.\d{3}  [01]\.", line)}  # fmt: skip
    assert rows["ContrastiveClustering"] >= 0.95
    assert rows["on held-out images"] >= 0.93
    assert rows["ContrastiveClustering"] > rows["k-means of the pixels"] + 0.1
    assert (tmp_path / "digits_clusters.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", sorted((HOME / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_parse_and_open_with_a_sentence(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.site
def test_nothing_in_the_project_names_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=HOME, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for path in (HOME / name for name in tracked):
        if path.exists():  # it may be deleted and not yet committed
            text = path.read_text(errors="ignore")
            assert not re.search(r"/(home|root|work)/\w", text), path
