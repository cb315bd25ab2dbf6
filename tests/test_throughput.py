"""What the benchmark of decoding compares is the same thing."""

import numpy as np
import pytest

from skcc.benchmarks import throughput
from skcc.data import read

pytestmark = pytest.mark.experiments


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_the_bare_pool_gives_the_same_pixels(tmp_path, kind):
    files = throughput.write_files(tmp_path, 60, 50, kind)
    store, _ = read(tmp_path, side=lambda short: 20, n_jobs=2)
    np.testing.assert_array_equal(throughput.bare_pool(files, 20, 2), store.samples)
