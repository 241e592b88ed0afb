"""The embed command on runners whose workers are other processes, and what it does when one of them is killed.

All give the bytes of DirectRunner. Flink and Spark need job servers written in Java; Beam's own job service stands in
for them: it speaks the same protocol and starts the same workers.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import apache_beam as beam
import psutil
import pytest
from distributed import Client, LocalCluster

from pipelines import beam_fixes
from pipelines.errors import UserError
from pipelines.runner import Runner
from tests import world as index_world
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines.embed_test import World, encoders  # noqa: F401  a fixture

_WORKER = "apache_beam.runners.worker.sdk_worker_main"
_PATIENCE_SECS = 180

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path, encoders):  # noqa: F811
    return World(tmp_path, encoders[0])


@pytest.fixture
def large_world(world):
    """Two small tars, then six that take some tenths of a second each."""
    images = [tiny.image_bytes(i) for i in range(10)]
    for shard in range(2, 8):
        pairs = [(f"{shard}{i:04d}", images[i % 10], "a dog") for i in range(600)]
        tiny.write_tar(world.root / f"pairs/{shard:05d}.tar", pairs)
    return world


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, processes=True, threads_per_worker=1, dashboard_address="localhost:0") as cluster:
        yield cluster


def _dask(cluster: LocalCluster) -> list[str]:
    return [
        "--runner=apache_beam.runners.dask.dask_runner.DaskRunner",
        f"--dask_client_address={cluster.scheduler_address}",
        "--dask_npartitions=8",
    ]


def _start(world: World, out: str, flags: list[str]) -> subprocess.Popen:
    argv = [sys.executable, "-m", "pipelines.embed", *world.argv(out, *flags)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + _PATIENCE_SECS
    while not list((world.root / out).glob("**/_done/*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return process


def _have_loaded_encoders(cluster: LocalCluster) -> list[bool]:
    with Client(cluster) as client:
        # Nothing else imports TensorFlow.
        return list(client.run(eval, "'tensorflow' in __import__('sys').modules").values())


def test_dask_gives_the_same_bytes_and_both_workers_take_part(world, cluster):
    assert _have_loaded_encoders(cluster) == [False, False]
    assert world.embed("direct") == 0
    assert world.embed("dask", *_dask(cluster)) == 0
    assert world.parquet("dask") == world.parquet("direct")
    assert _have_loaded_encoders(cluster) == [True, True]


def test_dask_gives_the_same_index_and_lists(tmp_path, cluster):
    worlds = [index_world.World(tmp_path / name).write() for name in ("direct", "dask")]
    for world, flags in zip(worlds, ([], _dask(cluster)), strict=True):
        assert world.build(*flags) == 0
        assert world.neighbors(*flags) == 0
    for stage in ("index", "neighbors"):
        direct, dask = [index_world.snapshot(world.folder / stage) for world in worlds]
        assert direct == dask and len(direct) > 10


class _Refuse(beam.DoFn):
    def process(self, number):
        raise UserError(f"shard {number}: is odd; take another")


def test_a_mistake_found_in_a_dask_worker_is_one_sentence(tmp_path, cluster):
    def build(pipeline):
        _ = pipeline | beam.Create([1, 3]) | beam.Reshuffle() | beam.ParDo(_Refuse())

    runner = Runner(_dask(cluster))
    with runner.stage("test", "numbers", str(tmp_path)):
        with pytest.raises(UserError, match=r"^shard [13]: is odd; take another$"):
            runner.run(build, lambda: (0.5, 1))


def test_dask_goes_on_when_a_worker_is_killed(large_world, cluster):
    assert large_world.embed("direct") == 0
    process = _start(large_world, "killed", _dask(cluster))
    psutil.Process(next(iter(cluster.workers.values())).pid).send_signal(signal.SIGKILL)
    process.communicate(timeout=_PATIENCE_SECS)
    if process.returncode:
        assert large_world.embed("killed", *_dask(cluster)) == 0
    assert large_world.parquet("killed") == large_world.parquet("direct")


def test_a_killed_worker_process_ends_the_job_and_the_same_command_goes_on(large_world):
    assert large_world.embed("direct") == 0
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    process = _start(large_world, "killed", flags)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if child.cmdline()[1:3] == ["-m", _WORKER]]
    assert len(workers) == 2
    for worker in workers[:1]:
        worker.kill()
    _, errors = process.communicate(timeout=_PATIENCE_SECS)
    assert process.returncode == 2
    assert errors.splitlines()[-1] == f"error: {large_world.root}/killed: {beam_fixes.KILLED}"
    assert "Traceback" not in errors and "KeyError" not in errors
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)
    assert len(large_world.parquet("killed")) < len(large_world.parquet("direct"))
    assert large_world.embed("killed", *flags) == 0
    assert large_world.parquet("killed") == large_world.parquet("direct")


@pytest.mark.parametrize(("stage", "delay_secs"), [(s, d) for s in ("build", "neighbors") for d in (0, 0.5, 1, 2, 3)])
def test_a_killed_worker_of_the_index_is_one_sentence(tmp_path, stage, delay_secs):
    world = index_world.World(tmp_path / "killed", rows=20_000).write()
    assert stage == "build" or world.build() == 0
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    argv = [sys.executable, "-m", f"index.{stage}", f"--config={world.config_file}", *flags]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=errors, cwd=index_world.REPOSITORY)
        workers: list[psutil.Process] = []
        while process.poll() is None and not workers:
            family = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in family if child.cmdline()[1:3] == ["-m", _WORKER]]
            time.sleep(0.01)
        time.sleep(delay_secs)
        if workers and workers[0].is_running():
            workers[0].kill()
        process.wait(_PATIENCE_SECS)
    said = (tmp_path / "errors").read_text()
    killed = f"error: {world.folder}: {beam_fixes.KILLED}\n"
    assert (process.returncode, "Traceback" in said) in ((0, False), (2, False))
    assert process.returncode == 0 or said.endswith(killed)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    # The same command resumes.
    assert subprocess.run(argv, cwd=index_world.REPOSITORY, capture_output=True).returncode == 0


def _await_listener(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECS
    while True:
        try:
            return socket.create_connection(("localhost", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextlib.contextmanager
def _serve(folder: pathlib.Path, module: str, flag: str):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # The pool starts its workers by the name `python`.
    env = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / f"{module}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", module, f"--{flag}={port}"], stdout=log, stderr=log, env=env)
    try:
        _await_listener(port)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def test_a_job_service_with_a_pool_of_workers_gives_the_same_bytes(world, tmp_path):
    assert world.embed("direct") == 0
    service = _serve(tmp_path, "apache_beam.runners.portability.local_job_service_main", "port")
    pool = _serve(tmp_path, "apache_beam.runners.worker.worker_pool_main", "service_port")
    with service as job_endpoint, pool as pool_endpoint:
        flags = ["--runner=PortableRunner", f"--job_endpoint={job_endpoint}"]
        flags += ["--environment_type=EXTERNAL", f"--environment_config={pool_endpoint}"]
        assert world.embed("portable", *flags) == 0
    assert world.parquet("portable") == world.parquet("direct")
