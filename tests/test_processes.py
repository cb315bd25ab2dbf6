"""The benchmark of several processes starts them, and measures each kind."""

import pytest

from skcc.benchmarks.processes import processes


@pytest.mark.long
def test_speed_is_measured_for_one_and_two_processes():
    records = list(processes(n=128, batch=64, repeats=1, device="cpu"))
    kinds = [(r["processes"], r["sync_batchnorm"]) for r in records]
    assert kinds == [(1, True), (2, True), (2, False)]
    assert records[0]["over_one"] == records[0]["efficiency"] == 1
    assert all(r["images_per_second"] > 0 for r in records)
