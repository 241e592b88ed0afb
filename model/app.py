"""Serves predictions: a page and JSON, on this machine: `web-memory app --model=BUNDLE` or `--run=WORKDIR`.

    web-memory app --run=out/demo                        # then open http://127.0.0.1:8000
    web-memory app --model=bundle --port=8080 --head=mam
    web-memory app --run=out/demo --follow               # changes to each version of the memory that is published
    web-memory app --model=bundle --host=0.0.0.0 --names=photos.example.org

docs/service.md has the endpoints. SIGINT and SIGTERM stop it, when it has answered what it took.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Any

from configs.base import Config
from pipelines import options
from pipelines.errors import UserError
from pipelines.progress import counted, say

_VALUES: dict[str, tuple[Any, str]] = {
    "run": ("", "workdir, or a folder of its runs (the config's workdir)"),
    "model": ("", "bundle to use instead of a workdir"),
    "head": ("", "head that predicts unless a request names another (the best on val)"),
    "seeds": ("best", "seed of the head: best on val, all, which are averaged, or a number (best)"),
    "host": ("127.0.0.1", "address to listen on (127.0.0.1, this machine alone)"),
    "port": (8000, "port to listen on, 0 for any that is free (8000)"),
    "names": ("", "host names that it may be asked by, beside localhost and addresses, separated by commas"),
}
_SWITCHES = {
    "follow": "change to each new version of index and memory that is published",
    "unsafe_models": "load encoders of a bundle that reach files, sockets, processes or Python",
}


def run(config: Config, **flags: Any) -> None:
    """Serves until it is stopped.

    Raises:
        UserError: if a flag is wrong, nothing is trained, or the port cannot be had.
    """
    path = _checked(config, flags)
    try:
        from model.service import application, server
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; install it by: pip install 'web-memory[app]'") from error
    from model.recognition import trained
    from model.recognizer import Recognizer
    from model.service.limits import Limits

    # A process that is told to stop while it loads has answered nothing.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    opened = Recognizer.open(
        path,
        head=flags["head"],
        seeds=trained.seeds_of(flags["seeds"]),
        follow=flags["follow"],
        unsafe_models=flags["unsafe_models"],
    )
    with opened as recognizer:
        names = [name.strip() for name in (flags["host"], *flags["names"].split(",")) if name.strip()]
        app, limits = application.build(recognizer, names=names), Limits()
        where = f"[{flags['host']}]" if ":" in flags["host"] else flags["host"]

        def started(port: int) -> None:
            classes = counted(len(recognizer.classes), "class")
            say(f"{recognizer.head}, {classes}, on http://{where}:{port} (Ctrl+C stops it)")

        server.run(app, flags["host"], flags["port"], limits, started)
    say("stopped; every request that was taken is answered")


def _checked(config: Config, flags: dict[str, Any]) -> str:
    """Returns the workdir or bundle of a command line; a `UserError` if a flag is wrong."""
    if flags["model"] and flags["run"]:
        raise UserError("give --model=BUNDLE or --run=WORKDIR, not both")
    if not 0 <= flags["port"] < 1 << 16:
        raise UserError(f"--port={flags['port']}: must be 0 to 65535")
    return str(flags["model"] or flags["run"] or config.workdir)


def foresee(config: Config, **flags: Any) -> dict[str, str]:
    """Says what would be served; errors as those of `run` before anything is loaded."""
    from model.recognition import trained
    from model.recognition.source import Source

    path = _checked(config, flags)
    heads = trained.heads(Source(path, flags["follow"], flags["unsafe_models"]).runs)
    return {"would": f"serve {flags['head'] or heads[0]} of {path} at {flags['host']}:{flags['port']}"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(
        run,
        str(__doc__).splitlines()[0],
        argv,
        switches=_SWITCHES,
        values=_VALUES,
        needs_config=False,
        foresee=foresee,
    )


if __name__ == "__main__":
    sys.exit(main())
