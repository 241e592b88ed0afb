"""DataflowRunner against a stand-in for the service on this machine: Beam's own client builds, stages and submits.

The stand-in keeps the job that it is sent and, like the service, runs the staged graph with nothing of ours but the
staged package. What it cannot show: Google's machines, images and storage.
"""

import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import threading
import time

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from google.cloud.dataflow import JobState, JobType

from pipelines.encoders import handles as encoders_module
from tests.pipelines.embed_test import World, encoders  # noqa: F401  a fixture
from tests.wheel_test import copy_sources

_WORKER = """
import sys
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
import pipelines
assert pipelines.__file__.startswith(sys.argv[2]), pipelines.__file__
graph = beam_runner_api_pb2.Pipeline.FromString(open(sys.argv[1], "rb").read())
for environment in graph.components.environments.values():
    environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    del environment.dependencies[:]
FnApiRunner().run_via_runner_api(graph, PipelineOptions()).wait_until_finish()
"""


class Service(http.server.ThreadingHTTPServer):
    """Answers as Dataflow's REST interface does; runs the job it is sent if `works`."""

    def __init__(self, root: pathlib.Path, works: bool = True) -> None:
        super().__init__(("localhost", 0), _Handler)
        self.root, self.works = root, works
        self.job: dict = {}
        self.requested: list[int] = []
        self.worker: subprocess.Popen | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def staging(self) -> pathlib.Path:
        return self.root / "staging"

    @property
    def package(self) -> pathlib.Path:
        return self.root / "package"

    def flags(self, *more: str) -> list[str]:
        self.staging.mkdir(exist_ok=True)
        return [
            "--runner=DataflowRunner",
            "--project=my-project",
            "--region=europe-west1",
            f"--temp_location={self.staging}",
            f"--dataflow_endpoint=http://localhost:{self.server_port}",
            "--no_auth",
            *more,
        ]

    def graph(self) -> beam_runner_api_pb2.Pipeline:
        return beam_runner_api_pb2.Pipeline.FromString((self.staging / "pipeline.pb").read_bytes())

    def start(self) -> None:
        with tarfile.open(self.staging / "workflow.tar.gz") as tar:
            tar.extractall(self.package, filter="data")
        (folder,) = self.package.iterdir()
        argv = [sys.executable, "-c", _WORKER, str(self.staging / "pipeline.pb"), str(folder)]
        env = os.environ | {"PYTHONPATH": str(folder)}
        self.worker = subprocess.Popen(argv, cwd=self.root, env=env, stderr=(self.root / "log").open("wb"))

    def state(self) -> str:
        if JobState.JOB_STATE_CANCELLED in self.requested:
            return "JOB_STATE_CANCELLED"
        code = self.worker.poll() if self.worker else None
        return "JOB_STATE_RUNNING" if code is None else "JOB_STATE_FAILED" if code else "JOB_STATE_DONE"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.server.job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.works:
            self.server.start()
        self._answer(self._job())

    def do_PUT(self) -> None:
        self.server.requested.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["requestedState"])
        self._answer(self._job())

    def do_GET(self) -> None:
        if not self.path.split("?")[0].endswith("/messages"):
            return self._answer(self._job())
        messages = []
        if self.server.state() == "JOB_STATE_FAILED":
            text = (self.server.root / "log").read_text()
            message = {"id": "1", "time": "2026-01-01T00:00:00Z", "messageText": text}
            messages = [message | {"messageImportance": "JOB_MESSAGE_ERROR"}]
        return self._answer({"jobMessages": messages})

    def _job(self) -> dict:
        names = ("name", "clientRequestId", "type")
        return {"id": "job-1", "currentState": self.server.state()} | {n: self.server.job.get(n) for n in names}

    def _answer(self, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def world(tmp_path, encoders):  # noqa: F811
    return World(tmp_path, encoders[0])


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    if service.worker:
        service.worker.kill()
    service.shutdown()
    service.server_close()


def _embed_shard(graph):
    (embed,) = [t for t in graph.components.transforms.values() if t.unique_name == "Embed"]
    payload = beam_runner_api_pb2.ParDoPayload.FromString(embed.spec.payload)
    return payload.do_fn.payload


@pytest.mark.slow
def test_a_job_with_nothing_but_what_was_staged_gives_the_same_bytes(world, service, tmp_path, capsys):
    assert world.embed("direct") == 0
    sources = copy_sources(tmp_path / "sources")
    flags = service.flags(
        f"--setup_file={sources}/setup.py",
        "--machine_type=n1-standard-8",
        "--num_workers=2",
        "--max_num_workers=30",
        "--number_of_worker_harness_threads=1",
        "--experiments=no_use_multiple_sdk_containers",
        "--disk_size_gb=50",
        "--sdk_container_image=europe-docker.pkg.dev/my-project/images/web-memory:0.1",
        "--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    )
    assert world.embed("dataflow", *flags) == 0
    assert world.parquet("dataflow") == world.parquet("direct")
    assert "19 rows" in capsys.readouterr().out

    transforms = service.graph().components.transforms
    (root,) = service.graph().root_transform_ids
    assert [transforms[name].unique_name for name in transforms[root].subtransforms] == ["Shards", "Spread", "Embed"]

    environment = service.job["environment"]
    assert service.job["type"] == JobType.JOB_TYPE_BATCH
    assert environment["serviceOptions"] == ["worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    (pool,) = environment["workerPools"]
    assert (pool["machineType"], pool["numWorkers"], pool["diskSizeGb"]) == ("n1-standard-8", 2, 50)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 30
    assert pool["numThreadsPerWorker"] == 1
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == "europe-docker.pkg.dev/my-project/images/web-memory:0.1"
    options = environment["sdkPipelineOptions"]["options"]
    assert (options["save_main_session"], options["streaming"]) == (False, False)

    packages = {package["name"] for package in pool["packages"]}
    assert "workflow.tar.gz" in packages and not any("main_session" in name for name in packages)
    with tarfile.open(service.staging / "workflow.tar.gz") as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    modules = {
        f"{package}/{file.name}"
        for package in ("configs", "index", "model", "pipelines")
        for file in (sources / package).glob("*.py")
    }
    assert modules | {"setup.py", "pyproject.toml", "README.md"} <= names


def test_the_graph_holds_our_do_fn_and_its_encoders(world, service, tmp_path):
    service.works = False
    template = tmp_path / "job.json"
    with pytest.raises(SystemExit) as end:
        world.embed("out", *service.flags(f"--template_location={template}"))
    assert end.value.code == 0
    assert json.loads(template.read_text())["type"] == "JOB_TYPE_BATCH"
    assert not service.job and not world.parquet()
    code = (
        "import sys; from apache_beam.internal import pickler; fn = pickler.loads(sys.stdin.buffer.read())[0]\n"
        "print(type(fn).__module__, type(fn).__name__, fn.embed.batch_size)\n"
        "for role, spec in sorted(fn.encoders.items()): print(role, spec.kind, spec.info.fingerprint)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=_embed_shard(service.graph()), capture_output=True)
    expected = ["pipelines.embedding.job EmbedShard 4"]
    for role, name in (("key", "image"), ("value_text", "text")):
        spec = encoders_module.resolve(str(world.flags[f"encoders.{role}"]), "float32")
        expected.append(f"{role} {name} {spec.info.fingerprint}")
    assert done.stdout.decode().splitlines() == expected, done.stderr.decode()


def test_a_dry_run_validates_and_submits_nothing(world, service, capsys):
    with pytest.raises(SystemExit) as end:
        world.embed("out", *service.flags("--dry_run=true"))
    assert end.value.code == 0
    assert "the job is valid and was not submitted" in capsys.readouterr().out
    assert not service.job and not list(service.staging.iterdir()) and not world.parquet()


@pytest.mark.slow
def test_an_interrupt_cancels_the_job(world, service):
    service.works = False
    argv = [sys.executable, "-m", "pipelines.embed", *world.argv("out", *service.flags())]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not service.job:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to resume" in errors
    assert service.requested == [JobState.JOB_STATE_CANCELLED]
