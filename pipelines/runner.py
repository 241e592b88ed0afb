"""Runs the Beam pipelines of a command: checks the flags once, shows progress, words the failure.

A command makes one `Runner` in its `main` and hands it on. Beam is imported when the first pipeline, or a flag for it,
asks for it. docs/running.md says how each of Beam's runners is used.
"""

import argparse
import contextlib
import difflib
import importlib
import multiprocessing
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines import progress
from pipelines.errors import UserError, full_disk, nearest
from pipelines.progress import Stage

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

# Flags of runners for a part that they would download.
_PARTS = {
    "prism": "--prism_location",
    "flink": "--flink_job_server_jar",
    "spark": "--spark_job_server_jar",
}
_NO_SERVICE = "--job_endpoint: no job service answers there"
_ENDPOINT_SECS = 10.0
# Runners that need more than Beam: a module, and the extra of ours that installs it.
_EXTRAS = {"dataflow": ("google.cloud.dataflow", "gcp"), "dask": ("distributed", "dask")}


class Runner:
    """Runs pipelines with the flags of one command line; between `stage` and its end, progress goes to that stage."""

    def __init__(self, argv: Sequence[str] = (), ours: Sequence[str] = ()) -> None:
        """Checks the flags.

        Args:
            argv: flags for Beam.
            ours: flags that the command itself takes, which a misspelt flag may have meant.

        Raises:
            UserError: if Beam does not know a flag; if its runner is unknown, not installed, or lacks a flag.
        """
        self._argv = list(argv)
        self._stage: Stage | None = None
        if self._argv:
            _check_flags(self._argv, ours)

    @contextlib.contextmanager
    def stage(self, name: str, unit: str, workdir: str) -> Iterator[Stage]:
        """Opens a stage of the command; arguments as of `progress.Stage`."""
        with Stage(name, unit, workdir) as stage:
            self._stage = stage
            try:
                yield stage
            finally:
                self._stage = None

    @property
    def processes(self) -> int:
        """Worker processes on this machine that share its cores."""
        from apache_beam.options.pipeline_options import DirectOptions

        # Beam takes 0 for as many as there are cores.
        return self._options().view_as(DirectOptions).direct_num_workers or multiprocessing.cpu_count()

    def _options(self) -> "PipelineOptions":
        """Returns Beam's options; new ones, since pipelines write to theirs."""
        from pipelines.beam_fixes import Options

        return Options(self._argv, **_ours(self._argv))

    def run(
        self,
        build: "Callable[[beam.Pipeline], None]",
        measure: Callable[[], tuple[float, int]],
        doing: str = "starting",
        step: str = "",
        unit: str = "",
    ) -> None:
        """Builds and runs a pipeline to its end; arguments after `measure` are those of `Stage.step`.

        Args:
            build: adds the transforms to the pipeline.
            measure: gives the share done and the units done, from what is on storage, so that it works on any runner.
            doing: what workers do before `measure` changes.
            step: name of this part of the stage.
            unit: of what `measure` counts; empty for that of the stage.

        Raises:
            UserError: as a worker raised it.
        """
        if self._stage:
            self._stage.step(step, doing, unit)
        import apache_beam as beam
        from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, TestOptions

        from pipelines import beam_fixes

        options = self._options()
        processes = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
        watched = self._stage.watch(measure) if self._stage else contextlib.nullcontext()
        workdir = self._stage.workdir if self._stage else ""
        with watched, beam_fixes.watched() if processes else contextlib.nullcontext():
            try:
                _check_endpoint(options)
                _run_to_end(beam.Pipeline(options=options), build)
            except Exception as error:
                raise _worded(error, _runner_name(self._argv), workdir) from error
        template = options.view_as(GoogleCloudOptions).template_location
        if options.view_as(TestOptions).dry_run or template:
            written = f"; its template is {template}" if template else ""
            progress.say(f"the job is valid and was not submitted{written}")
            raise SystemExit(0)


def _run_to_end(pipeline: "beam.Pipeline", build: "Callable[[beam.Pipeline], None]") -> None:
    result: Any = None
    try:
        build(pipeline)
        result = pipeline.run()
        result.wait_until_finish()
    except KeyboardInterrupt:
        if result:
            # Work on other machines would go on.
            result.cancel()
        raise
    finally:
        # DaskRunner leaves its client open.
        if client := getattr(result, "client", None):
            client.close()


def _ours(argv: Sequence[str]) -> dict[str, Any]:
    """Returns the options that we set ourselves.

    DirectRunner would first try to download and start a Go binary, and hang where a firewall drops the packets. It does
    not for pipelines that allow unsafe triggers; ours have no triggers at all.
    """
    return {"runner": _runner_name(argv), "save_main_session": False, "allow_unsafe_triggers": True}


def _runner_name(argv: Sequence[str]) -> str:
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    named.add_argument("--runner", default="DirectRunner")
    try:
        return str(named.parse_known_args(list(argv))[0].runner)
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(f"{error}") from error


def _check_flags(argv: Sequence[str], ours: Sequence[str]) -> None:
    """Raises a `UserError` for a flag that Beam does not know, or a runner that cannot be used."""
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = _runner_name(argv)
    kind = runner.rsplit(".", 1)[-1].lower().removesuffix("runner")
    _import_runner(runner, kind)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for options in PipelineOptions.__subclasses__():
        # Two option classes may declare the same flag: the later wins, as in Beam itself.
        options._add_argparse_args(_Lenient(parser))
    try:
        _, unknown = parser.parse_known_args(list(argv))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(f"{error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        # Beam reads flags that take JSON without a check.
        raise UserError(f"{' '.join(argv)}: one of these has a value that Beam cannot read ({error})") from error
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
        raise UserError(f"{unknown[0]}: unknown flag; {_suggestion(unknown[0].partition('=')[0], ours, known)}")
    _check_runner(PipelineOptions(list(argv), **_ours(argv)), runner, kind)


def _suggestion(flag: str, ours: Sequence[str], beams: Sequence[str]) -> str:
    """Returns what an unknown flag may have meant: one of ours first, then one of Beam's."""
    if not flag.startswith("-"):
        return "flags are given as --name=value"
    if found := difflib.get_close_matches(flag, ours, n=1, cutoff=0.7):
        return f"did you mean {found[0]!r}?"
    near = nearest(flag, beams)
    return near if near.startswith("did you mean") else "it is neither ours (--config...) nor Beam's"


def _import_runner(runner: str, kind: str) -> None:
    if kind in _EXTRAS:
        module, extra = _EXTRAS[kind]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"--runner={runner}: is not installed; run pip install 'web-memory[{extra}]'") from error
    if "." in runner:
        # A runner named by its class may have flags of its own, which exist once its module is imported.
        try:
            importlib.import_module(runner.rsplit(".", 1)[0])
        except ImportError as error:
            raise UserError(f"--runner={runner}: cannot be imported ({error})") from error


def _check_runner(options: "PipelineOptions", runner: str, kind: str) -> None:
    """Raises a `UserError` for what Beam finds only when it makes the pipeline, after the first work was done."""
    from apache_beam.options.pipeline_options import PortableOptions, TestOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    try:
        known = create_runner(runner)
    except (ValueError, ImportError) as error:
        raise UserError(f"--runner: {error}") from error
    validator = PipelineOptionsValidator(options, known)
    test = options.view_as(TestOptions)
    if kind == "dataflow":
        _check_dataflow(options, validator, runner, known)
    elif test.dry_run:
        raise UserError(f"--dry_run: {runner} does not have it, only DataflowRunner does")
    if kind == "portable" and not options.view_as(PortableOptions).job_endpoint:
        raise UserError(
            f"--runner={runner}: --job_endpoint=HOST:PORT must be given, the job service to send the job to"
        )
    # A dry run asks nothing of the network.
    test.dry_run = True
    if errors := validator.validate():
        raise UserError(f"--runner={runner}: {'; '.join(error.strip().rstrip('.') for error in errors)}")


def _check_dataflow(options: "PipelineOptions", validator: Any, runner: str, known: Any) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    cloud = options.view_as(GoogleCloudOptions)
    missing = [] if cloud.project else ["--project="]
    missing += [] if cloud.region or known.get_default_gcp_region() else ["--region="]
    places = ("temp_location", "staging_location")
    wrong = [place for place in places if validator.is_service_runner() and validator.validate_gcs_path(cloud, place)]
    # Beam would make a bucket of its own.
    if len(wrong) == len(places) or not (cloud.temp_location or cloud.staging_location):
        missing.append("--temp_location=gs://BUCKET/FOLDER")
    if missing:
        raise UserError(f"--runner={runner}: {', '.join(missing)} must be given")


class _Lenient:
    """An argparse parser that takes the same flag twice."""

    def __init__(self, parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
        self._parser = parser

    def add_argument(self, *names: str, **settings: object) -> None:
        try:
            self._parser.add_argument(*names, **settings)  # type: ignore[arg-type]
        except argparse.ArgumentError:
            return

    def add_mutually_exclusive_group(self, **settings: bool) -> "_Lenient":
        return _Lenient(self._parser.add_mutually_exclusive_group(**settings))

    def add_argument_group(self, *names: str) -> "_Lenient":
        return _Lenient(self._parser.add_argument_group(*names))

    def set_defaults(self, **_: object) -> None:
        return


def _check_endpoint(options: "PipelineOptions") -> None:
    """Raises a `UserError` if nothing listens where a job service is named: Beam itself would ask for minutes."""
    from apache_beam.options.pipeline_options import PortableOptions, StandardOptions

    endpoint = options.view_as(PortableOptions).job_endpoint
    host, _, port = (endpoint or "").rpartition(":")
    if not endpoint or endpoint == "embed" or not options.view_as(StandardOptions).runner.endswith("PortableRunner"):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ENDPOINT_SECS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{_NO_SERVICE} ({endpoint}: {getattr(error, 'strerror', None) or error})") from error


def _worded(error: Exception, runner: str, workdir: str) -> BaseException:
    """Returns what a failed job is to raise: a `UserError` where the person can mend it, else the error itself."""
    from pipelines import beam_fixes

    text = f"\n{type(error).__name__}: {error}"
    if "KeyboardInterrupt" in text:
        return KeyboardInterrupt()
    if full := full_disk(error, workdir or "the job"):
        return full
    place = f"{workdir}: " if workdir else ""
    # Runners hand on a worker's exception as text; the sentence of a UserError is found again in it.
    if found := re.search(r"(?:^|\n)(?:pipelines\.errors\.)?UserError: (.+?)(?: \[while running|\n|$)", text):
        sentence = found.group(1)
        return UserError(f"{place}{sentence}" if sentence == beam_fixes.KILLED else sentence)
    if found := re.search(r"(?:^|\n)(?:RuntimeError: )?\w*Error: (\[Errno \d+\] .+?)(?: \[while running|\n|$)", text):
        return UserError(f"{place}{found.group(1)}; fix that and run the same command again, it resumes")
    if found := re.search(r"Unable to fetch remote .*? at (\S+?):? ", text):
        flag = next((flag for name, flag in _PARTS.items() if name in runner.lower()), "")
        by_hand = f" and name it by {flag}=FILE" if flag else ""
        return UserError(
            f"--runner={runner}: a part of it cannot be downloaded; get {found.group(1)} where there is a network"
            f"{by_hand}, or leave --runner out"
        )
    # The launcher may notice the broken channel before the death of the process.
    if type(error).__name__ == "KilledWorker" or "Channel closed prematurely" in text or beam_fixes.has_lost_one():
        return UserError(f"{place}{beam_fixes.KILLED}")
    return _of_service(error, runner)


def _of_service(error: Exception, runner: str) -> Exception:
    """Returns what a job on a service is to raise where the service itself failed; else the error itself."""
    kind, first = type(error).__name__, next(iter(str(error).splitlines()), "")
    if kind == "FutureTimeoutError":
        return UserError(_NO_SERVICE)
    if kind in ("_InactiveRpcError", "_MultiThreadedRendezvous"):
        code = error.code().name if hasattr(error, "code") else first
        return UserError(
            f"--runner={runner}: the job service does not answer any more ({code}); run the same "
            "command again once it does, it resumes"
        )
    if isinstance(error, OSError) and "connect" in first and "dask" in runner.lower():
        return UserError(f"--dask_client_address: no scheduler answers there ({first})")
    if isinstance(error, FileNotFoundError) and error.filename == "java":
        return UserError(f"--runner={runner}: its job server needs Java, and there is no program 'java'; install it")
    if type(error).__module__.startswith("google."):
        return UserError(f"Google Cloud: {first}")
    return error
