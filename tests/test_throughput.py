"""What the benchmark of decoding compares is the same thing."""

import numpy as np
import pytest

from skcc import throughput
from skcc.data import read


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_the_bare_pool_gives_the_same_pixels(tmp_path, kind):
    files = throughput._write_files(tmp_path, 60, 50, kind)
    store, _ = read(tmp_path, side=lambda short: 20, n_jobs=2)
    np.testing.assert_array_equal(throughput.bare_pool(files, 20, 2), store.samples)


@pytest.mark.long
def test_folders_are_read_at_eight_tenths_of_the_speed_of_a_bare_pool():
    for record in throughput.decode(n=600, repeats=7):
        assert record["speed_over_bare"] > 0.8
        assert record["first_start_over_cached"] > 5
