"""``skcc bench all``: every ratio beside its goal; docs/speed.md has them, too."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skcc.benchmarks.augment import augment
from skcc.benchmarks.embed import embed
from skcc.benchmarks.losses import losses
from skcc.benchmarks.memory import import_time, memory
from skcc.benchmarks.predict import predict
from skcc.benchmarks.processes import processes
from skcc.benchmarks.programs import programs
from skcc.benchmarks.quality import quality
from skcc.benchmarks.readout import readout
from skcc.benchmarks.step import scaling, step
from skcc.benchmarks.throughput import decode
from skcc.benchmarks.variants import variants
from skcc.exceptions import warn
from skcc.training.settings import has_fast_bfloat16

Records = list[dict]


@dataclass(frozen=True)
class Goal:
    """A bound that a figure is to keep.

    Parameters
    ----------
    figure : str
        What it is, in words.

    value : callable
        Computes it from the records of a benchmark.

    bound : float
        The goal.

    is_most : bool, default=False
        Whether the figure may be at most, or has to be at least, the bound.
    """

    figure: str
    value: Callable[[Records], float]
    bound: float
    is_most: bool = False

    def __str__(self) -> str:
        return f"{'<=' if self.is_most else '>='} {self.bound:g}"

    def is_reached(self, value: float) -> bool:
        """Whether a value keeps the bound; NaN does not.

        Parameters
        ----------
        value : float
            The figure.

        Returns
        -------
        is_reached : bool
            A value equal to the bound reaches it.
        """
        return value <= self.bound if self.is_most else value >= self.bound


@dataclass(frozen=True)
class Row:
    """A benchmark, its options, and the goals of its figures.

    Parameters
    ----------
    name : str
        Of the benchmark, as in ``skcc bench NAME``.

    function : callable
        Makes its records.

    options : dict
        Changes to the defaults.

    goals : tuple of Goal
        Of its figures.

    applies : callable, default=None
        Whether this machine can do it at all.
    """

    name: str
    function: Callable
    options: dict
    goals: tuple[Goal, ...]
    applies: Callable[[], bool] | None = None

    @property
    def command(self) -> str:
        """The command that measures it alone."""
        given = {k: " ".join(map(str, v)) if isinstance(v, tuple) else v
                 for k, v in self.options.items()}  # fmt: skip
        return " ".join([self.name, *(f"--{name} {value}" for name, value in given.items())])


def _get(name: str, row: int = 0) -> Callable[[Records], float]:
    return lambda records: records[row][name]


def _farthest_from_one(records):
    return max(abs(share - 1) for share in records[0]["time_per_image"].values())


def _growth_of_predict(records):
    few, many = records[0]["predict_mib"].values()
    return many - few


ROWS = (
    Row("augment", augment, {}, (Goal("speed over Pillow, 32 px", _get("times_faster"), 5),)),
    Row("augment", augment, {"size": 224, "batch": 16}, (
        Goal("speed over Pillow, 224 px, blur", _get("times_faster"), 2),
    )),
    Row("losses", losses, {"clusters": (200,), "batches": (256,)}, (
        Goal("instance loss, speed over masks", _get("times_faster"), 2),
        Goal("cluster loss, speed over broadcasting", _get("times_faster", 1), 20),
    )),
    Row("step", step, {}, (
        Goal("step, time over a bare loop", _get("engine_over_bare"), 1.1, True),
    )),
    Row("step", step, {"method": "twin"}, (
        Goal("twin, time over contrastive", _get("engine_over_contrastive"), 0.8, True),
        Goal("twin, both directions", _get("engine_over_contrastive", 1), 1.5, True),
    )),
    Row("step", step, {"precision": "bf16"}, (
        Goal("bfloat16, speed over float32", _get("times_float32"), 1.5),
    ), has_fast_bfloat16),
    Row("scaling", scaling, {}, (
        Goal("time per image, change at 4 n", _farthest_from_one, 0.15, True),
        Goal("time of 200 clusters over 10",
             lambda r: [*r[0]["over_10_clusters"].values()][-1], 1.3, True),
    )),
    Row("variants", variants, {"backbone": "conv4", "side": 16, "batch": 128, "steps": 8}, (
        Goal("training, speed over the published recipe",
             lambda r: max(record["times_the_first"] for record in r), 2),
    )),
    Row("predict", predict, {}, (
        Goal("predict, speed over a bare pass", _get("speed_over_bare"), 0.95),
    )),
    Row("predict", predict, {"precision": "bf16"}, (
        Goal("predict in bfloat16, speed over a bare pass", _get("speed_over_bare"), 0.95),
    ), has_fast_bfloat16),
    Row("readout", readout, {}, (
        Goal("read-out, share of a fit", _get("readout_over_fit"), 0.2, True),
    )),
    Row("decode", decode, {"n": 600}, (
        Goal("folder, speed over Pillow, 32 px", _get("speed_over_bare"), 0.9),
    )),
    Row("embed", embed, {}, (
        Goal("embedding, time over a bare loop", _get("arrays_cpu_over_bare"), 1.1, True),
        Goal("embedding of files", _get("files_cpu_over_bare"), 1.2, True),
    )),
    Row("import", import_time, {}, (
        Goal("import, time over sklearn.cluster", _get("over_scikit_learn"), 1.2, True),
    )),
    Row("memory", memory, {}, (
        Goal("fit on 60,000 x 32 x 32 x 3, MiB", _get("fit_mib"), 1500, True),
        Goal("predict on 4 times the files, MiB more", _growth_of_predict, 20, True),
    )),
    Row("processes", processes, {"n": 2048}, (
        Goal("two processes, speed over one", _get("over_one", 1), 1.3),
    )),
    Row("programs", programs, {}, (
        Goal("two fits at once, time over one by one", _get("at_once_over_in_a_row"), 1.15, True),
    )),
)  # fmt: skip
LONG_ROWS = (
    Row("quality", quality, {"variants": ("defaults",)}, (
        Goal("digits, processor seconds to ACC .97",
             lambda r: r[0]["cpu_seconds_to"]["0.97"] or math.nan, 15, True),
    )),
)  # fmt: skip


def measure_all(*, only: tuple[str, ...] = ("",), long: int = 0, device: str) -> Iterator[dict]:
    """Measure all ratios, and compare each with its goal.

    Parameters
    ----------
    only : tuple of str, default=("",)
        Beginnings of the commands that are run, such as "step"; the default takes all.

    long : int, default=0
        1 includes time to accuracy, which takes a minute or more.

    device : str
        Device of the benchmarks that have one.

    Yields
    ------
    record : dict
        Command, figure, value, goal and whether it is reached, as soon as it is known. The value
        is None where the benchmark failed, or where the machine cannot do it, which `passed` tells
        apart: False, or None.
    """
    for row in (*ROWS, *(LONG_ROWS if long else ())):
        if row.command.startswith(tuple(only)):
            yield from _measure(row, device)


def _measure(row, device):
    """The records of a row: one per goal."""
    values: list = [None] * len(row.goals)
    can_run = row.applies is None or row.applies()
    if can_run:
        try:
            takes_device = "device" in inspect.signature(row.function).parameters
            options = row.options | ({"device": device} if takes_device else {})
            made = row.function(**options)
            records = [made] if isinstance(made, dict) else list(made)
            values = [goal.value(records) for goal in row.goals]
        except Exception as error:  # of one benchmark; the others are measured all the same
            warn(f"skcc bench {row.command} failed: {type(error).__name__}: {error}")
    for goal, value in zip(row.goals, values, strict=True):
        yield {
            "bench": "all",
            "command": row.command,
            "figure": goal.figure,
            "value": value,
            "goal": str(goal),
            "passed": goal.is_reached(value) if value is not None else (False if can_run else None),
        }
