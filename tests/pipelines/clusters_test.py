"""Every stage on two worker processes of Dask: the bytes of one process, also when one of them is killed.

`runners_test` has the same for images, and for other runners.
"""

import dataclasses
import hashlib
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from configs.base import Config, Embed, Encoders, Filters, Index, Neighbors, Source
from tests.world import REPOSITORY, unit, without_rates

_PATIENCE_SECS = 240
_DIM = 24
# Run ids and times, and what contains the work folder.
_OF_A_RUN = ("_done", "stages")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, processes=True, threads_per_worker=1, dashboard_address="localhost:0") as cluster:
        yield cluster


class Line:
    """A memory and three splits of vectors that others computed, and the commands that use them."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self._serial = root, 0
        (root / "data/metadata").mkdir(parents=True)
        for split, rows in {"train": 500, "val": 300, "test": 200}.items():
            self.put(split, rows)
        for number in range(12):
            self.put(f"memory_{number:04d}", 400)
        source = Source("vectors", metadata="metadata")
        config = Config(
            data=str(root / "data"),
            workdir=str(root / "out"),
            memory=dataclasses.replace(source, path="memory_*.npy"),
            train_set=dataclasses.replace(source, path="train.npy"),
            val_set=dataclasses.replace(source, path="val.npy"),
            test_set=dataclasses.replace(source, path="test.npy"),
            encoders=Encoders("precomputed:one", (), ()),
            embed=Embed(batch_size=64),
            filters=Filters(leakage=0.9, exact_duplicates=True, near_duplicates=0.97),
            index=Index(searcher="exact", shards=4, k=5, max_queries=200),
            neighbors=Neighbors(k=7, block_rows=32),
        )
        self.config_file = root / "config.py"
        self.config_file.write_text(f"from configs.base import *\n\ndef get_config():\n    return {config!r}\n")

    def put(self, name: str, rows: int) -> None:
        self._serial += 1
        np.save(self.root / f"data/{name}.npy", unit(rows, _DIM, seed=self._serial, clusters=300))
        urls = [f"http://host/{self._serial}/{row}.jpg" for row in range(rows)]
        columns = {"url": urls, "caption": urls, "label": [row % 5 for row in range(rows)]}
        pq.write_table(pa.table(columns), self.root / f"data/metadata/{name}.parquet")

    def start(self, stage: str, out: str, flags: list[str]) -> subprocess.Popen:
        argv = [sys.executable, "-m", stage, f"--config={self.config_file}", f"--config.workdir={self.root / out}"]
        return subprocess.Popen([*argv, *flags], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)

    def run(self, stage: str, out: str, flags: list[str]) -> None:
        process = self.start(stage, out, flags)
        _, errors = process.communicate(timeout=_PATIENCE_SECS)
        assert process.returncode == 0, errors

    def run_alone(self, stage: str) -> None:
        """Runs a stage in one process, and keeps the workdir as it was before and is after it."""
        (self.root / "out").mkdir(exist_ok=True)
        shutil.copytree(self.root / "out", self.root / f"before-{stage}")
        self.run(STAGES[stage][0], "out", [])
        shutil.copytree(self.root / "out", self.root / f"after-{stage}")

    def bytes_of(self, out: str) -> dict[str, str]:
        """Returns the digest of every file of a workdir that is the same in every run."""
        root = self.root / out
        files = [path for path in root.rglob("*") if path.is_file() and path.name != "config.json"]
        return {
            str(path.relative_to(root)): hashlib.sha256(without_rates(path.name, path.read_bytes())).hexdigest()
            for path in files
            if not set(path.relative_to(root).parts) & set(_OF_A_RUN)
        }


def _dask(cluster: LocalCluster) -> list[str]:
    return [
        "--runner=apache_beam.runners.dask.dask_runner.DaskRunner",
        f"--dask_client_address={cluster.scheduler_address}",
        "--dask_npartitions=8",
    ]


# The command, and the files of which the first says that its job is under way.
STAGES = {
    "selection": ("pipelines.embed", "memory/_dropped/**/*.json"),
    "build": ("index.build", "index/builds/00001/_parts/**/*.parquet"),
    "neighbors": ("index.neighbors", "neighbors/versions/*/_parts/**/*.parquet"),
    "reindex": ("index.reindex", "index/builds/00002/**/*.parquet"),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Returns the line of each stage; its folder `before` is the workdir then, `after-STAGE` that of one process."""
    whole, changed = Line(tmp_path_factory.mktemp("line")), Line(tmp_path_factory.mktemp("changed"))
    for stage in ("selection", "build", "neighbors"):
        whole.run_alone(stage)
    changed.run(STAGES["reindex"][0], "out", [])
    # One file of vectors is new, another has other rows.
    changed.put("memory_0012", 300)
    changed.put("memory_0003", 350)
    changed.run_alone("reindex")
    return {stage: changed if stage == "reindex" else whole for stage in STAGES}


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("kills", [False, True], ids=["whole", "killed"])
def test_a_stage_on_two_workers_gives_the_bytes_of_one_process(lines, cluster, stage, kills):
    line, (command, under_way), out = lines[stage], STAGES[stage], f"dask-{stage}-{kills}"
    shutil.copytree(line.root / f"before-{stage}", line.root / out)
    flags = _dask(cluster)
    if kills:
        process = line.start(command, out, flags)
        deadline = time.monotonic() + _PATIENCE_SECS
        while not list((line.root / out).glob(under_way)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert process.poll() is None, process.stderr.read()
        psutil.Process(next(iter(cluster.workers.values())).pid).send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=_PATIENCE_SECS)
        assert process.returncode in (0, 2) and "Traceback" not in errors, errors
    line.run(command, out, flags)
    assert line.bytes_of(out) == line.bytes_of(f"after-{stage}")
