"""Timing of alternatives in turns, and the ceilings of a device.

The machine may be shared, so that only ratios of one measurement are reported: the alternatives
are timed alternately, and their medians are compared. Times are processor times on a CPU and times
between events on CUDA.
"""

import statistics
import time
from collections.abc import Callable

import torch


def medians(
    candidates: dict[str, Callable], *, repeats: int, device: torch.device
) -> dict[str, float]:
    """Time all candidates in turns, and return the median of each."""
    times = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, function in candidates.items():
            seconds = _seconds(function, device)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(function, device):
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(torch.cuda.current_stream(device))
        function()
        end.record(torch.cuda.current_stream(device))
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    started = time.process_time()
    function()
    return time.process_time() - started


def wall_clock_median(function: Callable, *, repeats: int, device: torch.device) -> float:
    """Return the median wall-clock time of a function."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def ceilings(device: torch.device) -> dict[str, float]:
    """Measure what the device reaches in a matrix product and in a copy."""
    on_gpu = device.type == "cuda"
    n = 8192 if on_gpu else 1024
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    block = torch.empty(2**30 if on_gpu else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    seconds = medians(
        {"product": lambda: a @ a, "copy": lambda: target.copy_(block)}, repeats=5, device=device
    )
    return {
        "gigaflops": 2 * n**3 / seconds["product"] / 1e9,
        "gigabytes_per_second": 2 * block.numel() / seconds["copy"] / 1e9,
    }
