import argparse
import socket
import sys
import types
import urllib.error

import apache_beam as beam
import google.auth.exceptions
import pytest
from apache_beam.options import pipeline_options
from distributed.scheduler import KilledWorker

from pipelines.errors import UserError
from pipelines.runner import Runner

_DATAFLOW = (
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=europe-west1",
    "--temp_location=gs://bucket/a",
)


class _Double(beam.DoFn):
    def process(self, number):
        if number == 3:
            raise UserError("shard 3: is odd; take another")
        if number == 4:
            raise ZeroDivisionError("ours to mend")
        yield 2 * number


def _run(tmp_path, numbers, *argv):
    def build(pipeline):
        _ = pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.ParDo(_Double())

    runner = Runner(argv)
    with runner.stage("test", "numbers", str(tmp_path)):
        runner.run(build, lambda: (0.5, 1))


@pytest.mark.parametrize("argv", [(), ("--runner=DirectRunner",), ("--runner=FnApiRunner",)])
def test_a_workers_user_error_is_ours_again(tmp_path, argv):
    _run(tmp_path, [1, 2], *argv)
    with pytest.raises(UserError, match=r"^shard 3: is odd; take another$"):
        _run(tmp_path, [1, 3], *argv)


def test_our_own_mistakes_are_not_hidden(tmp_path):
    with pytest.raises(Exception, match="ours to mend") as error:
        _run(tmp_path, [4])
    assert not isinstance(error.value, UserError)


def test_beams_flags_are_beams():
    seen = []
    Runner(["--direct_num_workers=3", "--runner=FnApiRunner"]).run(
        lambda pipeline: seen.append(pipeline.options.get_all_options()) or pipeline | beam.Create([]), lambda: (1, 1)
    )
    assert (seen[0]["direct_num_workers"], seen[0]["runner"]) == (3, "FnApiRunner")
    assert seen[0]["save_main_session"] is False
    assert Runner(["--direct_num_workers=3"]).processes == 3 and Runner().processes == 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--runer=x"], "did you mean '--runner'"),
        (["--direct_num_worker=3"], "did you mean '--direct_num_workers'"),
        (["surplus"], "surplus: unknown flag; flags are given as --name=value"),
        (["--direct_num_workers=many"], "invalid int value: 'many'"),
        (["--runner=no.such.Runner"], "cannot be imported"),
        (["--runner=NoRunner"], "Unexpected pipeline runner: NoRunner"),
        (
            ["--runner=DataflowRunner"],
            "DataflowRunner: --project=, --region=, --temp_location=gs://BUCKET/FOLDER must be given",
        ),
        ([*_DATAFLOW[:3], "--temp_location=/tmp"], "DataflowRunner: --temp_location=gs://BUCKET/FOLDER must be given"),
        ([*_DATAFLOW, "--num_workers=3", "--max_num_workers=2"], r"num_workers \(3\) cannot exceed max_num_workers"),
        ([*_DATAFLOW, "--worker_zone=b", "--worker_region=a"], "worker_region and worker_zone are mutually exclusive"),
        (["--runner=PortableRunner"], "--job_endpoint=HOST:PORT must be given"),
        (["--gcs_custom_audit_entries=1"], "has a value that Beam cannot read"),
        (["--dry_run=true"], "--dry_run: DirectRunner does not have it"),
    ],
)
def test_wrong_flags_are_worded(argv, sentence, monkeypatch):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=sentence):
        Runner(argv)


def test_an_unknown_runner_is_worded(tmp_path):
    with pytest.raises(UserError, match="NoRunner"):
        _run(tmp_path, [1], "--runner=NoRunner")


@pytest.mark.parametrize("names", ["GoogleCloudOptions", "WorkerOptions", "SetupOptions", "FlinkRunnerOptions"])
def test_every_flag_of_a_service_is_known(names):
    parser = argparse.ArgumentParser(add_help=False)
    getattr(pipeline_options, names)._add_argparse_args(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert len(flags) > 5
    for flag in flags:
        try:
            Runner([f"{flag}=1"])
        except UserError as error:
            assert "unknown flag" not in str(error), flag


def test_a_service_keeps_our_settings(monkeypatch):
    # It asks Google for the bucket, again and again for two minutes where no credentials are.
    monkeypatch.setattr(pipeline_options.GoogleCloudOptions, "validate", lambda self, validator: [])
    seen = []

    def build(pipeline):
        seen.append(pipeline.options.get_all_options())
        raise UserError("seen")

    with pytest.raises(UserError, match="seen"):
        Runner(_DATAFLOW).run(build, lambda: (0, 0))
    assert (seen[0]["save_main_session"], seen[0]["streaming"], seen[0]["dry_run"]) == (False, False, False)


@pytest.mark.parametrize(
    ("flag", "module", "extra"),
    [
        ("--runner=DataflowRunner", "google.cloud.dataflow", "gcp"),
        ("--runner=apache_beam.runners.dask.dask_runner.DaskRunner", "distributed", "dask"),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, flag, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^{flag}: is not installed; run pip install 'web-memory\[{extra}\]'$"):
        Runner([flag])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            google.auth.exceptions.DefaultCredentialsError("No credentials.\nRead on"),
            r"^Google Cloud: No credentials.$",
        ),
        (
            KilledWorker("task", types.SimpleNamespace(address="tcp://a:1"), 3),
            r"^a worker process was killed \(out of memory\?\); run the same command again",
        ),
        (
            RuntimeError("Traceback ..\nOSError: [Errno 28] No space left on device: '/x' [while running 'Embed-1']\n"),
            r"^the job: no space is left on its disk, .*; make room and run the same command again, it resumes$",
        ),
        (
            OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
            r"^the job: no space is left on its disk, or on that of the temporary files \(/.*\); make room",
        ),
        (
            RuntimeError("Traceback ..\nPermissionError: [Errno 13] Permission denied: '/x' [while running 'Embed']"),
            r"^\[Errno 13\] Permission denied: '/x'; fix that and run the same command again, it resumes$",
        ),
    ],
)
def test_failures_of_a_service_are_worded(tmp_path, error, sentence):
    def build(_):
        raise error

    with pytest.raises(UserError, match=sentence):
        Runner().run(build, lambda: (0.5, 1))


def _open(path: str) -> None:
    with open(path):
        pass


@pytest.mark.parametrize("runner", ["DirectRunner", "FnApiRunner"])
def test_a_file_that_a_worker_cannot_open_is_a_sentence(tmp_path, runner):
    def build(pipeline):
        _ = pipeline | beam.Create([str(tmp_path)]) | beam.Map(_open)

    sentence = rf"^\[Errno 21\] Is a directory: '{tmp_path}'; fix that and run the same command again, it resumes$"
    with pytest.raises(UserError, match=sentence):
        Runner([f"--runner={runner}"]).run(build, lambda: (0.5, 1))


@pytest.mark.parametrize("endpoint", ["localhost:1", "nonsense", "localhost:x", "localhost:99999", "no.such.host:8099"])
def test_a_job_service_that_is_not_there_is_worded(tmp_path, endpoint):
    with pytest.raises(UserError, match=rf"^--job_endpoint: no job service answers there \({endpoint}: .*\)$"):
        _run(tmp_path, [1], "--runner=PortableRunner", f"--job_endpoint={endpoint}")


def test_a_server_that_is_no_job_service_is_worded(tmp_path):
    with socket.create_server(("localhost", 0)) as silent:
        endpoint = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match="^--job_endpoint: no job service answers there"):
            _run(tmp_path, [1], "--runner=PortableRunner", f"--job_endpoint={endpoint}", "--job_server_timeout=1")


@pytest.mark.parametrize(
    ("runner", "flag"),
    [
        ("FlinkRunner", "--flink_job_server_jar"),
        ("SparkRunner", "--spark_job_server_jar"),
        ("PrismRunner", "--prism_location"),
    ],
)
def test_a_runner_whose_parts_cannot_be_fetched_is_worded(tmp_path, monkeypatch, runner, flag):
    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("apache_beam.utils.subprocess_server.urlopen", urlopen)
    monkeypatch.setattr("apache_beam.runners.portability.prism_runner.urlopen", urlopen)
    monkeypatch.setattr("apache_beam.utils.subprocess_server.JavaJarServer.JAR_CACHE", str(tmp_path / "jars"))
    monkeypatch.setenv("HOME", str(tmp_path))
    sentence = (
        rf"^--runner={runner}: a part of it cannot be downloaded; get https://\S+[^:\s] where there is a network and "
        f"name it by {flag}=FILE, or leave --runner out$"
    )
    with pytest.raises(UserError, match=sentence):
        _run(tmp_path, [1], f"--runner={runner}")
