"""What the person sees while a stage works and when it ends: rate, share done, time left, a short summary.

On a terminal a bar; elsewhere a line every few seconds on standard error. Each stage also notes its seconds in
`{workdir}/stages/{stage}.json`, from which the report tells where the time went.
"""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from pipelines import storage

_LINE_EVERY_SECS = 5.0
_POLL_EVERY_SECS = 1.0
_POLL_SHARE = 20
_LOG_WIDTH = 160


def _console(stderr: bool) -> Console:
    found = Console(highlight=False, stderr=stderr)
    # A log has no width; paths and sentences stay in one piece.
    return found if found.is_terminal else Console(highlight=False, stderr=stderr, width=_LOG_WIDTH)


console = _console(stderr=False)
# What is written to a file is the result alone; on a terminal both go through one console, which keeps the bar below.
_progress = console if console.is_terminal else _console(stderr=True)


def duration(secs: float) -> str:
    """Returns seconds as people say them: `8.2 s`, `3m05s`, `2h07m`."""
    if secs < 60:
        return f"{secs:.1f} s"
    minutes, rest = divmod(round(secs), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Stage:
    """Shows the progress of one stage; a context manager.

    Args:
        name: of the stage, such as `embed`.
        unit: what is counted, such as `images`.
        workdir: where the seconds are noted.

    Attributes:
        worked: to be set to false if all was done before, so that the seconds noted then are kept.
    """

    def __init__(self, name: str, unit: str, workdir: str) -> None:
        """Starts nothing yet."""
        self._name, self._unit, self._workdir = name, unit, workdir
        self.worked = True
        self._lock: IO[bytes] | None = None
        self._begin = time.monotonic()
        self._first: tuple[float, float, int] | None = None
        self._last_line = self._begin
        self._bar: Progress | None = None
        if _progress.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}"),
                console=_progress,
            )
            self._task = self._bar.add_task(name, total=1.0, rate="")

    def __enter__(self) -> "Stage":
        """Shows the bar.

        Raises:
            UserError: if the same stage is at work in the same (local) workdir.
        """
        self._lock = storage.lock(storage.join(self._workdir, "stages", f"{self._name}.lock"))
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away; notes the seconds if the stage went well and was not done before."""
        if self._bar:
            self._bar.stop()
        if self._lock:
            self._lock.close()
        if kind is None and self.worked:
            storage.write_json(
                storage.join(self._workdir, "stages", f"{self._name}.json"),
                {"stage": self._name, "secs": round(self.secs, 3)},
            )

    @property
    def secs(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._begin

    def update(self, share: float, units: int) -> None:
        """Tells how far the stage is.

        Args:
            share: of the whole work, 0 to 1.
            units: how many are done; the first call's count is not ours and sets the zero of the rate.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (now, share, units)
        begin, first_share, first_units = self._first
        spent, gained = max(now - begin, 1e-9), share - first_share
        rate = (units - first_units) / spent
        left = duration(spent * (1 - share) / gained) if gained > 0 else "?"
        text = f"{units:,} {self._unit}, {rate:,.1f}/s, {left} left"
        if self._bar:
            self._bar.update(self._task, completed=share, rate=text)
        elif now - self._last_line >= _LINE_EVERY_SECS:
            self._last_line = now
            _progress.print(f"{self._name}: {share:4.0%}  {text}")

    def watch(self, measure: Callable[[], tuple[float, int]]) -> "Watch":
        """Returns a context in which `measure()`, giving share and units, is polled by a thread."""
        return Watch(self, measure)


class Watch:
    """Polls the progress of work that goes on elsewhere, such as in a runner's workers."""

    def __init__(self, stage: Stage, measure: Callable[[], tuple[float, int]]) -> None:
        """Starts nothing yet."""
        self._stage, self._measure = stage, measure
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self) -> None:
        pause = _POLL_EVERY_SECS
        while not self._done.wait(pause):
            begin = time.monotonic()
            self._stage.update(*self._measure())
            # Listing the markers of a large job on an object store takes a while, and must not be all that is done.
            pause = max(_POLL_EVERY_SECS, _POLL_SHARE * (time.monotonic() - begin))

    def __enter__(self) -> None:
        """Starts polling."""
        self._stage.update(*self._measure())
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops polling."""
        self._done.set()
        self._thread.join()


def summary(title: str, rows: Mapping[str, object]) -> None:
    """Prints the few lines a stage ends with."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(f"  {name}", str(value))
    console.print(table)
