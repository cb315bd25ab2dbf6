"""``skcc bench``: measure speed, memory or time to accuracy."""

import inspect

import torch

from skcc.benchmarks.augment import augment
from skcc.benchmarks.embed import embed
from skcc.benchmarks.goals import measure_all
from skcc.benchmarks.gpu import gpu
from skcc.benchmarks.graphs import graphs
from skcc.benchmarks.losses import losses
from skcc.benchmarks.memory import import_time, memory
from skcc.benchmarks.predict import predict, serve
from skcc.benchmarks.processes import processes
from skcc.benchmarks.programs import programs
from skcc.benchmarks.quality import quality
from skcc.benchmarks.readout import readout
from skcc.benchmarks.step import scaling, step
from skcc.benchmarks.throughput import decode
from skcc.benchmarks.timing import ceilings
from skcc.benchmarks.variants import variants
from skcc.experiments.runs import versions
from skcc.training.settings import resolve_device

BENCHMARKS = {
    "augment": augment,
    "losses": losses,
    "step": step,
    "predict": predict,
    "readout": readout,
    "serve": serve,
    "memory": memory,
    "scaling": scaling,
    "processes": processes,
    "programs": programs,
    "import": import_time,
    "variants": variants,
    "graphs": graphs,
    "decode": decode,
    "embed": embed,
    "quality": quality,
    "gpu": gpu,
    "all": measure_all,
}


_VERDICTS = {True: "pass", False: "fail", None: "n/a"}  # None: this machine cannot do it


def add_parser(commands, name: str, summary: str) -> None:
    """Add the command to the command line; options are the parameters of a benchmark's function."""
    bench = commands.add_parser(name, help=summary)
    benchmarks = bench.add_subparsers(dest="bench", required=True)
    for benchmark, function in BENCHMARKS.items():
        first, *_ = inspect.getdoc(function).splitlines()
        parser = benchmarks.add_parser(benchmark, help=first, description=first)
        parser.set_defaults(handler=_bench, function=function)
        parser.add_argument(
            "--threads", type=int, default=1, help="of torch on the CPU (default: 1)"
        )
        parser.add_argument(
            "--ceilings", action="store_true", help="also what the device can do (always on CUDA)"
        )
        if benchmark == "all":
            parser.add_argument("--json", action="store_true", help="JSON lines, not a table")
        for parameter in inspect.signature(function).parameters.values():
            _add_option(parser, parameter)


def _add_option(parser, parameter):
    """Add the option of a function's parameter; its type is that of the default value."""
    option, default = f"--{parameter.name}", parameter.default
    if default is inspect.Parameter.empty:
        parser.add_argument(option, default="cpu", help="default: cpu")
    elif isinstance(default, tuple):
        kind = type(default[0])
        parser.add_argument(option, nargs="+", type=kind, default=default, help=f"{default}")
    else:
        kind = int if default is None else type(default)
        kind = str if parameter.name == "root" else kind
        parser.add_argument(option, type=kind, default=default, help=f"default: {default}")


def _bench(options):
    """Run a benchmark, and yield its records, or a table if they are of several benchmarks."""
    records = _records(options)
    return _table(records) if options.bench == "all" and not options.json else records


def _table(records):
    """Yield the lines of a table as soon as each is known, and a last one with the totals."""
    form, counts = "{:<42} {:>9}  {:<8} {:<6} {}", dict.fromkeys(_VERDICTS.values(), 0)
    yield form.format("figure", "value", "goal", "", "skcc bench")
    for record in records:
        word = _VERDICTS[record["passed"]]
        counts[word] += 1
        value = "-" if record["value"] is None else f"{record['value']:.3g}"
        yield form.format(record["figure"], value, record["goal"], word, record["command"])
    yield ", ".join(f"{count} {word}" for word, count in counts.items())


def _records(options):
    """Run a benchmark, and yield its records with the machine and the ceilings of the device."""
    torch.set_num_threads(options.threads)
    names = inspect.signature(options.function).parameters
    record = options.function(**{name: getattr(options, name) for name in names})
    records = [record] if isinstance(record, dict) else record
    machine, rates = {"threads": options.threads, "versions": versions()}, {}
    if "device" in names:
        device = resolve_device(options.device)
        machine["device"] = str(device)
        if device.type == "cuda" or options.ceilings:
            rates = ceilings(device)
    for record in records:
        yield {**record, **_shares(record, rates), **machine}


def _shares(record, rates):
    """Return the measured rates as fractions of the ceilings of the device."""
    shares = {f"share_of_{name}": record[name] / rates[name] for name in rates if name in record}
    return shares | {"ceilings": rates} if rates else {}
