"""The wheel works without the checkout, with the packages that it requires and no others."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import skcc

HOME = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]


def test_the_description_needs_no_files_beside_it():
    text = (HOME / PROJECT["readme"]).read_text()
    assert "](" not in text
    assert "<img" not in text


def test_the_citation_names_this_release():
    citation = (HOME / "CITATION.cff").read_text()
    assert f"\nversion: {skcc.__version__}\n" in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation
    assert f"## {skcc.__version__}" in (HOME / "docs" / "changelog.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built of it."""
    pytest.importorskip("hatchling", reason="hatchling is not here")
    dist = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(dist)]
    subprocess.run([*build, "-t", "sdist"], cwd=HOME, check=True, capture_output=True)
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        sdist.extractall(dist / "sources", filter="data")
    (sources,) = (dist / "sources").iterdir()
    subprocess.run([*build, "-t", "wheel"], cwd=sources, check=True, capture_output=True)
    return sources, next(dist.glob("*.whl"))


def closure(requirements):
    """All distributions that these need, by their markers."""
    found, wanted = {}, list(requirements)
    while wanted:
        requirement = Requirement(wanted.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name not in found:
            found[name] = importlib.metadata.distribution(requirement.name)
            wanted += found[name].requires or []
    return found.values()


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """A folder with the wheel, and links to what it requires."""
    home = tmp_path_factory.mktemp("environment")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(home)
    for distribution in closure(PROJECT["dependencies"]):
        for part in {file.parts[0] for file in distribution.files if file.parts[0] != ".."}:
            source = Path(distribution.locate_file(part))
            if source.exists() and part != "__pycache__" and not (home / part).exists():
                (home / part).symlink_to(source)
    return home


def run(environment, *arguments, cwd):
    """Run Python with this folder in place of the packages that are installed."""
    variables = {"PYTHONPATH": str(environment), "PATH": os.environ["PATH"], "HOME": str(cwd)}
    done = subprocess.run(
        [sys.executable, "-S", *arguments], cwd=cwd, env=variables | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.site
def test_data_files_are_in_and_tests_are_not(built):
    sources, wheel = built
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    package = {path.relative_to(HOME) for path in (HOME / "skcc").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert {name for name in names if name.parts[0] == "skcc"} == package
    assert {name.parts[0] for name in names} == {"skcc", f"skcc-{skcc.__version__}.dist-info"}
    assert {"LICENSE", "CITATION.cff", "Makefile", "tests", "docs", "examples"} <= {
        path.name for path in sources.iterdir()
    }
    assert not [path for path in sources.rglob("*") if "cache" in path.name and path.is_dir()]


@pytest.mark.site
def test_the_wheel_does_what_the_readme_says(environment, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(40):
        image = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        image.save(tmp_path / "photos" / f"{i}.png")
    where = "import skcc.report, sys; print(skcc.__file__, 'tqdm' in sys.modules)"
    assert run(environment, "-c", where, cwd=tmp_path).startswith(str(environment))
    with pytest.raises(AssertionError, match="No module named 'matplotlib'"):
        run(environment, "-c", "import matplotlib", cwd=tmp_path)  # of an extra
    fit = ["fit", "photos", "-k", "2", "-o", "out", "--epochs", "1", "--quiet"]
    run(environment, "-m", "skcc", *fit, cwd=tmp_path)
    assert "<h1>photos</h1>" in (tmp_path / "out" / "report.html").read_text()
    rows = run(environment, "-m", "skcc", "predict", "out", "photos", "--quiet", cwd=tmp_path)
    assert rows == (tmp_path / "out" / "labels.csv").read_text()
    digits = ["run", "contrastive", "digits", "--images", "300", "--set", "max_epochs=1"]
    assert '"method": "contrastive"' in run(environment, "-m", "skcc", *digits, cwd=tmp_path)
