"""Runs a Beam pipeline as a command of ours: checks the flags, shows progress, words the failure.

What the pipeline does is left to the entry modules; docs/running.md says how each runner is used.
"""

import argparse
import contextlib
import importlib
import re
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    TestOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners import create_runner
from apache_beam.runners.runner import PipelineResult

from pipelines import worker_process
from pipelines.errors import UserError
from pipelines.options import nearest
from pipelines.progress import Stage, console

# What a runner needs beside Beam: a module, and the extra of ours that brings it.
_EXTRAS = {"dataflow": ("google.cloud.dataflow", "gcp"), "dask": ("distributed", "dask")}


def beam_options(argv: Sequence[str]) -> PipelineOptions:
    """Returns Beam's options for the flags that are not ours.

    Raises:
        UserError: if Beam does not know a flag, the sentence names the nearest it knows; if the runner is unknown,
            not installed, or lacks a flag.
    """
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    named.add_argument("--runner", default="DirectRunner")
    try:
        runner = named.parse_known_args(list(argv))[0].runner
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(f"{error}") from error
    kind = runner.rsplit(".", 1)[-1].lower().removesuffix("runner")
    if kind in _EXTRAS:
        module, extra = _EXTRAS[kind]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"--runner={runner}: is not installed; run pip install 'web-memory[{extra}]'") from error
    if "." in runner:
        # A runner named by its class may bring flags of its own, which exist once its module is imported.
        module = runner.rsplit(".", 1)[0]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"--runner={runner}: cannot be imported ({error})") from error
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for options in PipelineOptions.__subclasses__():
        # Two option classes may declare the same flag: the later wins, as in Beam itself.
        options._add_argparse_args(_Lenient(parser))
    try:
        _, unknown = parser.parse_known_args(list(argv))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(f"{error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        # Flags that take JSON are read by Beam without a check.
        raise UserError(f"{' '.join(argv)}: one of these has a value that Beam cannot read ({error})") from error
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
        near = (
            nearest(unknown[0].split("=")[0], known)
            if unknown[0].startswith("-")
            else "flags are given as --name=value"
        )
        near = near if len(near) < 200 else "it is neither ours (--config...) nor Beam's"
        raise UserError(f"{unknown[0]}: unknown flag; {near}")
    # DirectRunner would first try to download and start a Go binary, and hang where a firewall drops the packets.
    # It does not for pipelines that allow unsafe triggers; ours have no triggers at all.
    ours = {"runner": runner, "save_main_session": False, "allow_unsafe_triggers": True}
    _check(PipelineOptions(list(argv), **ours), runner, kind)
    return PipelineOptions(list(argv), **ours)


def _check(options: PipelineOptions, runner: str, kind: str) -> None:
    """Raises a `UserError` for what Beam finds only when it makes the pipeline, after the first work was done."""
    try:
        known = create_runner(runner)
    except (ValueError, ImportError) as error:
        raise UserError(f"--runner: {error}") from error
    validator = PipelineOptionsValidator(options, known)
    cloud, test = options.view_as(GoogleCloudOptions), options.view_as(TestOptions)
    if kind == "dataflow":
        missing = [] if cloud.project else ["--project="]
        missing += [] if cloud.region or known.get_default_gcp_region() else ["--region="]
        places = ("temp_location", "staging_location")
        wrong = [
            place for place in places if validator.is_service_runner() and validator.validate_gcs_path(cloud, place)
        ]
        # Beam would make a bucket of its own.
        if len(wrong) == len(places) or not (cloud.temp_location or cloud.staging_location):
            missing.append("--temp_location=gs://BUCKET/FOLDER")
        if missing:
            raise UserError(f"--runner={runner}: {', '.join(missing)} must be given")
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


def run(
    build: Callable[[beam.Pipeline], None], argv: Sequence[str], stage: Stage, measure: Callable[[], tuple[float, int]]
) -> None:
    """Builds and runs a pipeline to its end.

    Args:
        build: adds the transforms to the pipeline.
        argv: the flags for Beam.
        stage: shows the progress.
        measure: gives the share done and the units done, from what is on storage, so that it works on any runner.

    Raises:
        UserError: for a wrong flag, or as a worker raised it.
    """
    options = beam_options(argv)
    processes = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    result: PipelineResult | None = None
    with stage.watch(measure), worker_process.watched() if processes else contextlib.nullcontext():
        try:
            pipeline = beam.Pipeline(options=options)
            build(pipeline)
            result = pipeline.run()
            result.wait_until_finish()
        except KeyboardInterrupt:
            if result:
                # What runs elsewhere would go on.
                result.cancel()
            raise
        except Exception as error:
            raise _worded(error) from error
        finally:
            # Of DaskRunner, which leaves it open.
            if client := getattr(result, "client", None):
                client.close()
    template = options.view_as(GoogleCloudOptions).template_location
    if options.view_as(TestOptions).dry_run or template:
        written = f"; its template is {template}" if template else ""
        console.print(f"the job is valid and was not submitted{written}")
        raise SystemExit(0)


def _worded(error: Exception) -> BaseException:
    """Returns what a failed job is to raise: a `UserError` where the person can mend it, else the error itself."""
    if "KeyboardInterrupt" in str(error):
        return KeyboardInterrupt()
    # Runners hand on a worker's exception as text; the sentence of a UserError is found again in it.
    found = re.search(
        r"(?:^|\n)(?:pipelines\.errors\.)?UserError: (.+?)(?: \[while running|\n|$)",
        f"\n{type(error).__name__}: {error}",
    )
    if found:
        return UserError(found.group(1))
    if type(error).__name__ == "FutureTimeoutError":
        return UserError("--job_endpoint: no job service answers there")
    if type(error).__name__ == "KilledWorker":
        return UserError(worker_process.KILLED)
    if type(error).__module__.startswith("google."):
        return UserError(f"Google Cloud: {str(error).splitlines()[0]}")
    return error
