"""Runs a Beam pipeline as a command of ours: checks the flags, shows progress, words the failure.

What the pipeline does is left to the entry modules.
"""

import argparse
import importlib
import re
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import UserError
from pipelines.options import nearest
from pipelines.progress import Stage


def beam_options(argv: Sequence[str]) -> PipelineOptions:
    """Returns Beam's options for the flags that are not ours.

    Raises:
        UserError: if Beam does not know a flag; the sentence names the nearest it knows.
    """
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    named.add_argument("--runner", default="DirectRunner")
    try:
        runner = named.parse_known_args(list(argv))[0].runner
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(f"{error}") from error
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
    return PipelineOptions(list(argv), runner=runner, save_main_session=False, allow_unsafe_triggers=True)


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
    try:
        pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:
        raise UserError(f"--runner: {error}") from error
    build(pipeline)
    with stage.watch(measure):
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:
            if "KeyboardInterrupt" in str(error):
                raise KeyboardInterrupt from error
            # Runners hand on a worker's exception as text; the sentence of a UserError is found again in it.
            found = re.search(
                r"(?:^|\n)(?:pipelines\.errors\.)?UserError: (.+?)(?: \[while running|\n|$)",
                f"\n{type(error).__name__}: {error}",
            )
            if not found:
                raise
            raise UserError(found.group(1)) from error
