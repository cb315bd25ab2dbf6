"""``skcc bench all``: figures beside their goals."""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch

from skcc.benchmarks import goals
from skcc.benchmarks.goals import LONG_ROWS, ROWS, Goal, Row
from skcc.cli import main
from skcc.cli.main import _build_parser

pytestmark = pytest.mark.experiments

EVERY = [*ROWS, *LONG_ROWS]


def fast(*, speed: float = 3.0, device: str) -> dict:
    return {"speed": speed, "device": device}


def several(*, n: int = 2):
    yield from ({"seconds": float(i)} for i in range(n))


def broken(*, device: str) -> dict:
    raise RuntimeError("no such network")


STUBS = (
    Row("fast", fast, {}, (Goal("speed", lambda r: r[0]["speed"], 2),)),
    Row("fast", fast, {"speed": 1.5}, (Goal("speed", lambda r: r[0]["speed"], 2),)),
    Row("several", several, {}, (
        Goal("seconds", lambda r: r[1]["seconds"], 1, True), Goal("none", lambda r: math.nan, 1),
    )),
    Row("broken", broken, {}, (Goal("anything", lambda r: 1, 1),)),
    Row("fast", fast, {"speed": 9}, (Goal("elsewhere", lambda r: 1, 1),), lambda: False),
)  # fmt: skip


@pytest.fixture
def stubs(monkeypatch):
    monkeypatch.setattr(goals, "ROWS", STUBS)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:skcc bench broken failed")
def test_the_table_says_what_passes(stubs, capsys):
    assert main(["bench", "all"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["figure", "value", "goal", "skcc", "bench"]
    assert [row.split() for row in rows] == [
        ["speed", "3", ">=", "2", "pass", "fast"],
        ["speed", "1.5", ">=", "2", "fail", "fast", "--speed", "1.5"],
        ["seconds", "1", "<=", "1", "pass", "several"],
        ["none", "nan", ">=", "1", "fail", "several"],
        ["anything", "-", ">=", "1", "fail", "broken"],
        ["elsewhere", "-", ">=", "1", "n/a", "fast", "--speed", "9"],
    ]
    assert total == "2 pass, 3 fail, 1 n/a"


def test_an_error_is_told_and_some_can_be_chosen(stubs, capsys):
    with pytest.warns(UserWarning, match="skcc bench broken failed: RuntimeError: no such network"):
        assert main(["bench", "all", "--json", "--only", "broken", "sev"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["command"], r["passed"]) for r in records] == [
        ("several", True), ("several", False), ("broken", False)
    ]  # fmt: skip


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.command)
def test_every_row_is_a_command_with_its_goals_in_the_docs(row):
    options = _build_parser().parse_args(["bench", *row.command.split()])
    for name, value in row.options.items():
        given = getattr(options, name)
        assert (tuple(given) if isinstance(given, list) else given) == value
    inspect.signature(row.function).bind_partial(**row.options)
    page = (Path(__file__).parents[1] / "docs" / "speed.md").read_text()
    sign = {"<=": "at most", ">=": "at least"}
    for goal in row.goals:
        bound = f"{sign[str(goal)[:2]]} {goal.bound:g}"
        assert f"| `{row.command}` | {goal.figure} | {bound} |" in page
