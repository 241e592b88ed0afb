"""The command line that all commands share: parses it, checks the config, runs the command, words every mistake.

A `UserError` ends in one sentence and exit code 2, a mistake of ours in one that names the file of its traceback, and
exit code 1. Fields are checked, set and described by `fields`, flags for Beam are read by `runner`.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import inspect
import logging
import pathlib
import re
import signal
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import configs
from configs.base import Config
from pipelines import fields, storage
from pipelines.errors import UserError, command, full_disk, is_unread, nearest

_OVERRIDE = "--config."
_OWN = ("--config", "--dry_run", "--help", "--log_format", "--version")
_DRY_RUN = "dry_run"
_NAMED_CONFIG, _NO_CONFIG = "--config=FILE", "[ARGUMENT] [--config=FILE]"
# What a shell says of a command that ended because nobody reads its output.
_UNREAD = 128 + signal.SIGPIPE
LOG_FORMATS = ("text", "json")
# Modules of `configs` that are no experiments.
_NO_CONFIGS = ("__init__", "base", "figures", "published")


def version() -> str:
    """Returns the version of the installed package."""
    try:
        return importlib.metadata.version("web-memory")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def load(flag: str) -> Config:
    """Runs `get_config()` of a config file; `configs/x.py` is also found in the installed package.

    Args:
        flag: path of the file, perhaps with settings that are passed to `get_config`: `x.py:shots=4,seed=2`.

    Raises:
        UserError: if there is no such file, it takes no such settings, or it does not return a `Config`.
    """
    path, python, settings = flag.partition(".py:")
    path += ".py" if python else ""
    file = pathlib.Path(path)
    installed = pathlib.Path(configs.__path__[0])
    if not file.exists() and file.parent.name == "configs":
        file = installed / file.name
    if not file.exists():
        known = sorted(f"configs/{f.name}" for f in installed.glob("*.py") if f.stem not in _NO_CONFIGS)
        raise UserError(f"--config={path}: no such file; {nearest(path, known)}")
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"--config={path}: is not a Python file")
    module = types.ModuleType(f"config_{file.stem}")
    module.__file__ = str(file)
    try:
        # Never from bytecode, which is out of date for a second after a file was changed.
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
        config = module.get_config(**_settings(flag, module.get_config, settings))
    except UserError:
        raise
    except Exception as error:
        if settings and isinstance(error, ValueError):
            raise UserError(f"--config={flag}: {error}") from error
        raise UserError(f"--config={path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config={path}: get_config() must return a configs.base.Config, not {type(config).__name__}")
    return config


def _settings(flag: str, get_config: Callable[..., Config], text: str) -> dict[str, Any]:
    """Returns the arguments of `get_config` that a text such as `shots=4,seed=2` stands for, of their defaults' types.

    Raises:
        UserError: if it takes no such argument, or a value is not of its type or not among its choices.
    """
    known, found = inspect.signature(get_config).parameters, {}
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            takes = f"its settings are {', '.join(known)}" if known else "it takes no settings"
            raise UserError(f"--config={flag}: {part!r} is no setting=value of this config; {takes}")
        found[name] = fields.parse_value(value, type(known[name].default), f"--config={flag}: {name}")
    return found


def parse(
    argv: Sequence[str],
    description: str,
    switches: Mapping[str, str] | None = None,
    values: Mapping[str, tuple[Any, str]] | None = None,
    needs_config: bool = True,
    checks_fields: bool = True,
) -> tuple[Config, dict[str, Any], list[str]]:
    """Parses a command line, and checks every field of the config.

    Args:
        argv: arguments without the program's name.
        description: first line of `--help`.
        switches: flags that are on or off, with their help.
        values: flags that have a value, with their default, which says their type, and their help.
        needs_config: whether a config file must be named; without one the fields have their defaults.
        checks_fields: whether a wrong field is refused here.

    Returns:
        The resolved config, switches and values by name, also `dry_run` if it is given, and the arguments that are not
        ours, in order.

    Raises:
        UserError: if the config, an override or a flag of ours is wrong.
        SystemExit: after `--help` and `--version`.
    """
    parser = _parser(description, switches or {}, values or {}, needs_config)
    overrides = [arg for arg in argv if arg.startswith(_OVERRIDE)]
    # With a value it is Beam's (docs/running.md).
    beams = [arg for arg in argv if arg.startswith("--dry_run=")]
    known, rest = parser.parse_known_args([a for a in argv if not a.startswith(_OVERRIDE) and a not in beams])
    rest += beams
    # Before anything can be wrong, so that every error has this form.
    _set_log_format(known.log_format)
    if known.version:
        print(f"web-memory {version()}", flush=True)
        raise SystemExit(0)
    config = _with_overrides(load(known.config) if known.config else Config(), overrides)
    if known.help is not None:
        text = fields.help_text(config, known.help)
        whole = f"{parser.format_help()}\nconfig fields, as --config.FIELD=VALUE:\n\n{text}"
        print(text if known.help else whole, flush=True)
        raise SystemExit(0)
    _refuse_misspelt(rest)
    if needs_config and not known.config:
        raise UserError("--config is missing: name a config file, such as --config=configs/demo.py")
    if checks_fields:
        fields.check(config)
    chosen = _chosen(known, switches or {}, values or {})
    return config, chosen | ({_DRY_RUN: True} if known.dry_run else {}), rest


def _chosen(
    known: argparse.Namespace, switches: Mapping[str, str], values: Mapping[str, tuple[Any, str]]
) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: getattr(known, name) for name in switches}
    for name, (default, _) in values.items():
        text = getattr(known, name)
        chosen[name] = default if text is None else fields.parse_value(text, type(default), f"--{name}")
    return chosen


def _with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    for arg in overrides:
        flag, equals, text = arg.partition("=")
        if not equals:
            raise UserError(f"{flag}: give the value as {flag}=VALUE")
        config = fields.override(config, flag[len(_OVERRIDE) :].split("."), text, flag)
    return config


def _parser(
    description: str, switches: Mapping[str, str], values: Mapping[str, tuple[Any, str]], needs_config: bool
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        usage=f"web-memory STAGE {_NAMED_CONFIG if needs_config else _NO_CONFIG} [--config.FIELD=VALUE ..] [flags]",
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="config file, such as configs/demo.py")
    parser.add_argument(f"--{_DRY_RUN}", action="store_true", help="say what would be done, and write nothing")
    for name, text in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    for name, (_, text) in values.items():
        parser.add_argument(f"--{name}", metavar=name.upper(), help=text)
    parser.add_argument(
        "--log_format", default="text", metavar="FORMAT", help="text (default), or json: a line an event"
    )
    parser.add_argument("--help", "-h", nargs="?", const="", metavar="GROUP", help="show this, or one group of fields")
    parser.add_argument("--version", action="store_true", help="show the version")
    return parser


def _refuse_misspelt(rest: Sequence[str]) -> None:
    """Raises a `UserError` for a flag with a dot: only ours have one."""
    for arg in rest:
        flag = arg.partition("=")[0]
        if flag.startswith("--") and "." in flag:
            names = [f"{_OVERRIDE}{leaf.name}" for leaf in fields.leaves(Config())]
            raise UserError(f"{flag}: unknown flag; {_one(flag, names)}")


def _one(flag: str, names: Sequence[str]) -> str:
    near = nearest(flag, names)
    return near if near.startswith("did") else "fields are set by --config.FIELD=VALUE, see --help"


def _set_log_format(name: str) -> None:
    if name not in LOG_FORMATS:
        raise UserError(f"--log_format={name}: unknown; {nearest(name, LOG_FORMATS)}")
    if name == "json":
        from pipelines import progress

        progress.log_as_json()


def main(
    run: Callable[..., None],
    description: str,
    argv: Sequence[str] | None = None,
    beam: bool = False,
    switches: Mapping[str, str] | None = None,
    values: Mapping[str, tuple[Any, str]] | None = None,
    chooses_generation: bool = False,
    argument: str = "",
    needs_config: bool = True,
    writes_workdir: bool = True,
    checks_fields: bool = True,
    foresee: Callable[..., Mapping[str, object]] | None = None,
) -> int:
    """Runs a command and returns its exit code.

    Args:
        run: takes the config, with `beam` also a `Runner`, and each switch and value by its name.
        description: first line of `--help`.
        argv: arguments; those of the process by default.
        beam: whether arguments that are not ours go to Beam; otherwise they are an error.
        switches: flags of this command that are on or off, with their help.
        values: flags of this command that have a value, with their default and their help.
        chooses_generation: whether the command needs no pointer to the generation in use, because it writes it.
        argument: name of the one argument, without a flag, of a command that needs no config and no workdir; empty for
            none. Left out, it is an empty text.
        needs_config: whether a config file must be named; without one its fields have their defaults.
        writes_workdir: whether a command with `beam` changes the workdir, where only one may do so at a time.
        checks_fields: whether a wrong field is refused before the command is run.
        foresee: what `--dry_run` calls instead of `run`, without the `Runner`: checks the inputs, writes nothing, and
            returns what is done and what would be done, the lines of a summary. None if the command itself only reads.
    """
    _hush_libraries()
    workdir = "the command"
    try:
        given = sys.argv[1:] if argv is None else argv
        needs_config = needs_config and not argument
        config, chosen, rest = parse(given, description, switches, values, needs_config, checks_fields)
        if argument:
            chosen[argument] = rest.pop(0) if rest and not rest[0].startswith("-") else ""
        ours = [*_OWN, *(f"--{name}" for name in chosen if name != argument)]
        if rest and not beam:
            raise UserError(f"{rest[0]}: unknown flag; {nearest(rest[0].partition('=')[0], ours)}")
        workdir = config.workdir
        from pipelines import generation

        if chosen.pop(_DRY_RUN, False):
            _dry_run(run, foresee, generation.resolve(config, chooses_generation), chosen)
        elif argument:
            run(config, **chosen)
        elif beam:
            from pipelines.runner import Runner

            runner = Runner(rest, ours)
            with _sole_writer(config.workdir, run.__module__) if writes_workdir else contextlib.nullcontext():
                run(generation.resolve(config, chooses_generation), runner, **chosen)
        else:
            run(generation.resolve(config), **chosen)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        if is_unread(error):
            return _UNREAD
        if sentence := _sentence(error, workdir):
            return failed(sentence)
        # Raised, for callers in Python; from a command line it ends in one sentence, too, and exit code 1.
        sys.excepthook = functools.partial(_say_bug, workdir)
        raise
    return 0


def _hush_libraries() -> None:
    """Shows no warnings of libraries, which are not for the person at the keyboard."""
    logging.basicConfig(level=logging.ERROR)
    for handler in logging.root.handlers:
        handler.addFilter(_is_news)
    threading.excepthook = _quiet
    sys.unraisablehook = _quiet
    warnings.simplefilter("ignore")
    # Beam's runners print the traceback of a worker before they raise it; `runner` words it once.
    logging.getLogger("apache_beam.runners").setLevel(logging.CRITICAL)


def _dry_run(
    run: Callable[..., None], foresee: Callable[..., Mapping[str, object]] | None, config: Config, flags: dict[str, Any]
) -> None:
    """Says what a command would do."""
    from pipelines import progress

    found = foresee(config, **flags) if foresee else {"would": "only read; config and flags are right"}
    progress.summary(f"{_stage(run.__module__)}, dry run: nothing was written", found)


def _stage(module: str) -> str:
    return (pathlib.PurePath(sys.argv[0]).stem if module == "__main__" else module).rpartition(".")[2]


@contextlib.contextmanager
def _sole_writer(workdir: str, module: str) -> Iterator[None]:
    """Holds the lock of a workdir, so that no two commands change memory, index or lists there at once.

    The lock ends with the process, however that ends. Object stores have no locks: there it is up to the user.

    Raises:
        UserError: if another command is at work there.
    """
    stage = pathlib.PurePath(sys.argv[0]).stem if module == "__main__" else module
    held = storage.lock(storage.join(workdir, "stages", "workdir.lock"), command(stage))
    try:
        storage.remove_temporaries(workdir, deep=False)
        yield
    finally:
        if held:
            held.close()


def _is_news(record: logging.LogRecord) -> bool:
    """Tells whether a record is to be shown: Orbax and its threads log the tracebacks of what they raise."""
    return record.name not in ("absl", "asyncio", "concurrent.futures")


def _quiet(args: Any) -> None:
    """Keeps what libraries do in threads and at exit from printing tracebacks of a full disk: the command says it."""
    error = args.exc_value
    if error and (full_disk(error, "") or str(error) == "handle is closed"):
        return
    if isinstance(args, threading.ExceptHookArgs):
        threading.__excepthook__(args)
    else:
        sys.__unraisablehook__(args)


def _sentence(error: Exception, workdir: str) -> str:
    """Returns what a command failed with; empty for a mistake of ours."""
    if full := full_disk(error, workdir):
        return str(full)
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or workdir}: {error.strerror or _first_line(error)}"
    if isinstance(error, MemoryError):
        return f"{workdir}: there is not enough memory ({_first_line(error)}); docs/scale.md says what needs it"
    return ""


def _say_bug(workdir: str, kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Says a mistake of ours in one sentence: its traceback is for us, and goes to a file."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="web-memory-", suffix=".txt", delete=False) as file:
            file.writelines(traceback.format_exception(error))
        where = f"the traceback is in {file.name}, please report it"
    except OSError as unwritable:
        where = f"its traceback cannot be written ({unwritable.strerror})"
    failed(f"{workdir}: this is a bug of web-memory ({_first_line(error)}); {where}")


def _first_line(error: BaseException) -> str:
    """Returns type and message of an error in one line, without what Beam adds."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # A worker's traceback ends with its error.
    last = lines[-1] if lines and "Traceback" in str(error) else "".join(lines[:1])
    text = last.partition(" [while running")[0].strip()[:300]
    name = type(error).__name__
    return text if re.match(r"[\w.]+(Error|Exception): ", text) else f"{name}: {text}" if text else name


def failed(sentence: str) -> int:
    """Prints the sentence that a command fails with, and returns its exit code."""
    from pipelines import progress

    progress.error(sentence)
    return 2
