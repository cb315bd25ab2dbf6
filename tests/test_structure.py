"""Imports go down only, without a circle; what there may be one of, there is one of."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from estimators import EVERY

import skcc

ROOT = Path(skcc.__file__).parent
# From the bottom up. A folder is one entry; a file may import only from lower layers, and from
# files of its own folder.
LAYERS = [
    {"_version"},
    {"exceptions", "ambient", "contention", "atomic", "rng", "docstrings", "validation"},
    {"losses", "backbones", "decoders", "augment", "metrics", "distributed"},
    {"callbacks", "readouts"},
    {"objective", "data"},
    {"datasets"},
    {"training"},
    {"parameters", "persistence", "inference"},
    {"fitting"},
    {"base"},
    {"cluster_number", "embedding", "methods", "similarity"},
    {"plotting"},
    {"__init__"},
    {"pipelines"},
    {"experiments", "benchmarks", "report"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")
}


def imports(path):
    """Modules of skcc that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {f"skcc.{name.removesuffix('.__init__')}" for name in FILES}
            found |= (submodules & known) or {node.module}
    return {
        name.removeprefix("skcc").removeprefix(".") or "__init__"
        for name in found
        if name.split(".")[0] == "skcc"
    }


def entry_of(name):
    """The folder of a module, or the module itself if it is in none."""
    return name.split(".")[0]


def test_every_folder_and_file_has_its_layer():
    assert {entry_of(name) for name in FILES} == set(LAYER)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_go_down_only(name):
    own = entry_of(name)
    for other in imports(FILES[name]):
        if entry_of(other) != own:
            assert LAYER[entry_of(other)] < LAYER[own], f"{name} imports {other}"


def test_no_folder_has_a_circle():
    packages = {name.removesuffix(".__init__") for name in FILES if name.endswith(".__init__")}
    graph = {}
    for name, path in FILES.items():
        targets = imports(path) - {"__init__"}
        graph[name] = {f"{t}.__init__" if t in packages else t for t in targets}
    list(TopologicalSorter(graph).static_order())


def test_there_is_one_backward_and_it_is_the_engines():
    holders = [name for name, path in FILES.items() if ".backward(" in path.read_text()]
    assert holders == ["training.engine"]
    assert FILES["training.engine"].read_text().count(".backward(") == 1


def test_no_estimator_writes_its_constructor():
    for name, cls in ((cls.__name__, cls) for cls in EVERY):
        home = FILES[cls.__module__.removeprefix("skcc.")]
        tree = ast.parse(home.read_text())
        definitions = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name]
        assert len(definitions) == 1
        assert "__init__" not in {getattr(node, "name", None) for node in definitions[0].body}


def sizes(kinds):
    """Code lines, without docstrings, comments and blank lines, of each definition."""
    for name, path in FILES.items():
        text = path.read_text()
        lines, tree = text.splitlines(), ast.parse(text)
        documented = set()
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
                node, clean=False
            ):
                documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        code = {
            number
            for number, line in enumerate(lines, start=1)
            if line.strip() and not line.strip().startswith("#") and number not in documented
        }
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                size = sum(n in code for n in range(node.lineno, node.end_lineno + 1))
                yield size, f"{name}:{node.name}"


def test_functions_and_classes_fit_on_a_screen_or_a_few():
    assert max(sizes(ast.FunctionDef)) <= (45, "~")
    assert max(sizes(ast.ClassDef)) <= (350, "~")


def test_no_module_is_a_drawer():
    assert not {"utils", "common", "misc", "helpers"} & {name.split(".")[-1] for name in FILES}


def test_the_table_of_contents_is_sorted_and_complete():
    assert skcc.__all__ == sorted(skcc.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(skcc, name) for name in skcc.__all__)
    assert {*skcc.__all__, "datasets", "plotting"} <= {*dir(skcc)}
    assert {*skcc.__all__} <= {*skcc._HOME_OF}
    homes = {name: getattr(skcc, name).__module__ for name in skcc._HOME_OF}
    assert homes | {"ImageEmbedder": "skcc.embedding"} == skcc._HOME_OF
    assert {f"skcc.{name}" for name in skcc._MODULES} <= {
        f"skcc.{name.removesuffix('.__init__')}" for name in FILES
    }
    with pytest.raises(AttributeError, match="'skcc' has no attribute 'KMeans'"):
        _ = skcc.KMeans


def loaded(code):
    """Which of the slow packages a program imports."""
    slow = {"torch", "torchvision", "sklearn", "matplotlib"}
    code += f"\nimport sys; print(*sorted({slow} & {{*sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.split("\n")[-2].split()


def test_slow_packages_are_imported_late():
    assert loaded("import skcc; skcc.__version__") == []
    helping = "from skcc.cli import main\ntry: main({})\nexcept SystemExit: pass"
    for command in ([], ["fit"], ["predict"], ["report"], ["suggest"]):
        assert loaded(helping.format([*command, "--help"])) == []
    assert loaded("from skcc import ContrastiveClustering, ImageEmbedder") == ["sklearn", "torch"]


def test_the_only_public_api_of_scikit_learn_is_used():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn"):
                private = [p for p in node.module.split(".") if p.startswith("_")]
                private += [a.name for a in node.names if a.name.startswith("_")]
                assert not private, f"{name} imports {private}"
