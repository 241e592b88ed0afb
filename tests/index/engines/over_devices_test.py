import json
import os
import subprocess
import sys

import numpy as np

from configs.base import Index
from index.engines import jax_searcher, over_devices
from index.engines.searcher import ArrayKeys
from tests.world import brute_force, unit

# Run in a process of its own, since the number of devices is fixed when JAX starts.
_SCRIPT = """
import json, sys
import jax, numpy as np
from configs.base import Index
from index.engines import jax_searcher
from index.engines.planner import Parameters
from index.engines.searcher import ArrayKeys
from tests.world import unit

keys, queries = unit(20_000, dim=24), unit(1100, dim=24, seed=1)
plan = jax_searcher.plan(20_000, 24, Index(reorder="float32"))
engine = jax_searcher.build(ArrayKeys(keys), plan)
rows, scores = engine.search(queries, 20)
some, _ = engine.with_parameters(Parameters(3, 20, 20)).search(queries, 20)
short, _ = jax_searcher.build(ArrayKeys(keys[:30]), jax_searcher.plan(30, 24, Index())).search(queries[:2], 40)
facts = [len(jax.devices()), rows.tolist(), scores.tolist(), some.tolist(), short.tolist()]
print(json.dumps(facts))
"""


def test_eight_devices_find_what_brute_force_finds():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=True)
    devices, rows, scores, some, short = json.loads(done.stdout.splitlines()[-1])
    keys, queries = unit(20_000, dim=24), unit(1100, dim=24, seed=1)
    right, right_scores = brute_force(queries, keys, 20)
    assert devices == 8
    assert (np.array(rows) == right).mean() > 0.999
    assert np.abs(np.array(scores) - right_scores).max() < 1e-6
    # Processors have no approximate top-k: it is exact.
    assert (np.array(some) == right).mean() > 0.999
    assert [sorted(row)[10:] for row in short] == [list(range(30))] * 2
    assert (np.array(short)[:, 30:] == -1).all()


def test_one_device_finds_the_same_as_leaf_by_leaf():
    keys, queries = unit(3000, dim=16), unit(70, dim=16, seed=1)
    plan = jax_searcher.plan(3000, 16, Index(leaves=30))
    engine = jax_searcher.build(ArrayKeys(keys), plan)
    rows, scores = over_devices.DeviceTiles(engine.tiles).search(queries, 15)
    expected = engine.search(queries, 15)
    np.testing.assert_allclose(scores, expected[1], atol=1e-6)
    assert (rows == expected[0]).mean() > 0.99
