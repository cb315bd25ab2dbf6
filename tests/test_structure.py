"""The house keeps its storeys."""

import ast
import subprocess
import sys
from pathlib import Path

import skcc

ROOT = Path(skcc.__file__).parent
# From the ground up; a file may import only from lower storeys.
STOREYS = [
    {"_version"},
    {"losses", "backbones", "augment", "decoding", "metrics", "checkpoint", "parameters"}
    | {"distributed"},
    {"callbacks", "objective", "persistence", "cache", "sources", "records", "outputs"},
    {"files", "stores"},
    {"data"},
    {"datasets", "defaults"},
    {"engine"},
    {"base"},
    {"methods.contrastive", "methods.twin", "similarity"},
    {"plotting"},
    {"__init__", "methods.__init__"},
    {"benchmark", "speed"},
    {"quality", "throughput", "parallel", "reproduce", "study", "report"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
STOREY = {name: number for number, names in enumerate(STOREYS) for name in names}
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
            known = {f"skcc.{name}" for name in FILES}
            found |= (submodules & known) or {node.module}
    names = {name.removeprefix("skcc").removeprefix(".") or "__init__"
             for name in found if name.split(".")[0] == "skcc"}  # fmt: skip
    return names


def test_every_file_has_its_storey():
    assert set(FILES) == set(STOREY)


def test_imports_go_down_only():
    for name, path in FILES.items():
        for other in imports(path):
            assert STOREY[other] < STOREY[name], f"{name} imports {other}"


def test_there_is_one_backward_and_it_is_the_engines():
    holders = [name for name, path in FILES.items() if ".backward(" in path.read_text()]
    assert holders == ["engine"]
    assert FILES["engine"].read_text().count(".backward(") == 1


def test_no_file_is_a_drawer():
    assert not {"utils", "common", "misc", "helpers"} & {name.split(".")[-1] for name in FILES}


def test_the_table_of_contents_is_sorted_and_complete():
    assert skcc.__all__ == sorted(skcc.__all__)
    assert all(hasattr(skcc, name) for name in skcc.__all__)


def test_importing_skcc_imports_no_torchvision_or_matplotlib():
    code = "import sys, skcc; print([m for m in ('torchvision', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_only_public_api_of_scikit_learn_is_used():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn"):
                private = [p for p in node.module.split(".") if p.startswith("_")]
                private += [a.name for a in node.names if a.name.startswith("_")]
                assert not private, f"{name} imports {private}"
