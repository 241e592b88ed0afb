"""What the person sees: progress while a stage works, and at its end a short summary, as text or as JSON lines.

On a terminal a bar; elsewhere plain lines of at most 100 columns, progress on standard error every few seconds and
results on standard output. Each stage also notes its seconds in `{workdir}/stages/{stage}.json`, from which the report
tells where the time went, and when.
"""

import collections
import datetime
import json
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from pipelines import schemas, storage

if TYPE_CHECKING:
    from rich.progress import Progress

_LINE_EVERY_SECS = 5.0
_POLL_EVERY_SECS = 1.0
_POLL_SHARE = 20
# A rate is that of the last minute, or of as many counts as this where counts are rarer.
_RATE_SECS = 60.0
_RATE_COUNTS = 3
# Columns of a line where the output is no terminal.
WIDTH = 100
_GAP = "  "

as_json = False
_bar: "Progress | None" = None


def log_as_json() -> None:
    """Makes all that follows a JSON object a line: `event`, and what belongs to it (docs/running.md)."""
    global as_json
    as_json = True


def duration(secs: float) -> str:
    """Returns seconds as people say them: `8.2 s`, `3m05s`, `2h07m`."""
    if secs < 60:
        return f"{secs:.1f} s"
    minutes, rest = divmod(round(secs), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def counted(number: int, noun: str) -> str:
    """Returns a number of things: `1 row`, `1,200 classes`, `2 queries`."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def printable(text: str) -> str:
    """Returns a text without the characters that a terminal would obey, such as those of a stranger's caption."""
    return "".join(char if char.isprintable() else " " for char in text)


def _print(lines: Sequence[str], stderr: bool = False) -> None:
    text = "\n".join(map(printable, lines))
    if _bar:
        # The console of the bar keeps it below.
        _bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        print(text, file=sys.stderr if stderr else sys.stdout, flush=True)


def _print_json(event: str, stderr: bool = False, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}, default=str), file=sys.stderr if stderr else sys.stdout, flush=True)


def _wrap(text: str, indent: str = "") -> list[str]:
    """Returns lines of a text; words such as paths stay whole."""
    return textwrap.wrap(text, _width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [
        ""
    ]


def say(text: str) -> None:
    """Prints a sentence."""
    if as_json:
        _print_json("message", text=text)
    else:
        _print(_wrap(text))


def error(sentence: str) -> None:
    """Prints the sentence that a command fails with, on standard error, in one piece."""
    if as_json:
        _print_json("error", stderr=True, text=sentence)
    else:
        print(f"error: {sentence}", file=sys.stderr, flush=True)


def summary(title: str, rows: Mapping[str, object]) -> None:
    """Prints the few lines a stage ends with."""
    if as_json:
        _print_json("summary", title=title, rows=dict(rows))
        return
    width = max(map(len, rows), default=0)
    lines = _wrap(title)
    for name, value in rows.items():
        head = f"{_GAP}{name:{width}}{_GAP}"
        lines += _wrap(f"{head}{value}", " " * len(head))
    _print(lines)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> None:
    """Prints a table; one that is wider than the line as a paragraph for each row.

    Args:
        title: above it.
        columns: their names; the first is aligned to the left, the others to the right.
        rows: a cell for each column.
        left: other columns that are aligned to the left.
    """
    if as_json:
        _print_json("table", title=title, columns=list(columns), rows=[list(row) for row in rows])
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    fits = sum(widths) + len(_GAP) * len(widths) <= _width()
    _print(_wrap(title) + (_aligned(columns, rows, widths, left) if fits else _paragraphs(columns, rows)))


def _aligned(
    columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], left: Sequence[str]
) -> list[str]:
    aligns = ["<" if place == 0 or name in left else ">" for place, name in enumerate(columns)]
    lines = []
    for row in (columns, *rows):
        cells = (f"{cell:{align}{width}}" for cell, align, width in zip(row, aligns, widths, strict=True))
        lines.append((_GAP + _GAP.join(cells)).rstrip())
    return lines


def _paragraphs(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for row in rows:
        lines += _wrap(f"{_GAP}{columns[0]} {row[0]}", 2 * _GAP)
        for name, cell in zip(columns[1:], row[1:], strict=True):
            lines += _wrap(f"{2 * _GAP}{name}: {cell}", 3 * _GAP)
    return lines


def read_note(path: str) -> dict[str, Any]:
    """Returns the `stage`, `secs` and `ended` that a stage noted in a file; a `UserError` if it is damaged."""
    return schemas.read_json(path, {"stage": str, "secs": float}, "remove it")


def write_note(workdir: str, stage: str, secs: float) -> None:
    """Notes how many seconds a stage took, and that it ends now, for the report."""
    ended = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    note = {"stage": stage, "secs": round(float(secs), 3), "ended": ended}
    storage.write_json(storage.join(workdir, "stages", f"{stage}.json"), note)


class Rate:
    """The rate of the last minute, from counts at times, and the time that is left at that rate.

    Rates of the whole stage would say too little for minutes after a slow start. Where counts are rarer than a minute,
    such as those of large shards, the rate is that of the last three.
    """

    def __init__(self) -> None:
        """Knows no count yet."""
        self._counts: collections.deque[tuple[float, float, int]] = collections.deque()

    def restart(self, now: float, share: float, units: int) -> None:
        """Sets the zero of the rate: what is done by now was done before, or by others."""
        self._counts.clear()
        self._counts.append((now, share, units))

    def add(self, now: float, share: float, units: int) -> None:
        """Takes a count; one that is the same as the last tells nothing."""
        if self._counts and (share, units) == self._counts[-1][1:]:
            return
        self._counts.append((now, share, units))
        while len(self._counts) > _RATE_COUNTS and self._counts[1][0] <= now - _RATE_SECS:
            self._counts.popleft()

    def at(self, now: float) -> tuple[float | None, float | None]:
        """Returns units a second, and the seconds that are left; None for what is not known yet."""
        if len(self._counts) < 2:
            return None, None
        (begin, first_share, first_units), (end, share, units) = self._counts[0], self._counts[-1]
        # The next count is on its way, unless it takes longer than all these took.
        spent, gained, rate = max(end - begin, now - end, 1e-9), share - first_share, units - first_units
        left = None
        if rate > 0 and share > 0:
            # Earlier shares may have been of another estimate of the whole than the last one; counts were counted.
            left = spent * units * (1 - share) / share / rate
        elif gained > 0:
            left = spent * (1 - share) / gained
        return rate / spent, None if left is None else max(left - (now - end), 0.0)


class Stage:
    """Shows the progress of one stage; a context manager.

    Args:
        name: of the stage, such as `embed`.
        unit: of the counts, such as `images`.
        workdir: where the seconds are noted.

    Attributes:
        workdir: as given.
        worked: to be set to false if all was done before, so that the seconds noted then are kept.
    """

    def __init__(self, name: str, unit: str, workdir: str) -> None:
        """Starts nothing yet."""
        self._name, self._unit, self._step_unit, self.workdir = name, unit, unit, workdir
        self.worked = True
        self._lock: IO[bytes] | None = None
        self._begin = time.monotonic()
        self._last_line = self._begin
        self._task: Any = None
        self._step, self._doing, self._doing_since = "", "", self._begin
        self._rate, self._share, self._units = Rate(), 0.0, 0
        self._is_new = True
        self._showing, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> "Stage":
        """Shows the bar.

        Raises:
            UserError: if the same stage is at work in the same (local) workdir.
        """
        global _bar
        self._lock = storage.lock(storage.join(self.workdir, "stages", f"{self._name}.lock"))
        if sys.stdout.isatty() and not as_json:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            _bar = Progress(*columns, TextColumn("{task.fields[rate]}"))
            self._task = _bar.add_task(self._name, total=1.0, rate="")
            _bar.start()
        self._ticking = threading.Thread(target=self._tick, daemon=True)
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the bar; notes the seconds if the stage went well and was not done before."""
        global _bar
        self._ended.set()
        self._ticking.join()
        with self._showing:
            if _bar:
                _bar.stop()
                _bar = None
        if self._lock:
            self._lock.close()
        if kind is None and self.worked:
            write_note(self.workdir, self._name, self.secs)

    @property
    def secs(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._begin

    def doing(self, what: str) -> None:
        """Says what is done that has no count, such as `loading encoders`.

        It is shown until a count moves, and no rate or time left is made of the seconds that it takes.
        """
        with self._showing:
            self._doing, self._doing_since = what, time.monotonic()
            self._show(self._doing_since)

    def step(self, name: str, doing: str, unit: str = "") -> None:
        """Begins a part of the stage with counts of its own, whose shares begin at 0.

        Args:
            name: of the part, shown beside that of the stage; empty for the work that the stage is named after.
            doing: as of `doing`.
            unit: of its counts; empty for that of the stage.
        """
        self._step, self._step_unit, self._is_new = name, unit or self._unit, True
        self._rate, self._share, self._units = Rate(), 0.0, 0
        self.doing(doing)

    def update(self, share: float, units: int, ours: bool = True) -> None:
        """Shows how far the stage is; a share or a count that is less than the last one is not shown.

        Args:
            share: of the whole work, 0 to 1.
            units: how many are done; the first call's count is not ours and sets the zero of the rate.
            ours: false if what was done since the last call was found to be done before, as after an interruption.
        """
        with self._showing:
            self._update(share, units, ours)

    def _update(self, share: float, units: int, ours: bool) -> None:
        now = time.monotonic()
        # The rate sees the share as it is: an estimate of the whole may grow.
        estimate, share, units = share, max(share, self._share), max(units, self._units)
        has_moved = (share, units) != (self._share, self._units)
        if self._is_new or not ours or (self._doing and has_moved):
            self._rate.restart(now, estimate, units)
        else:
            self._rate.add(now, estimate, units)
        if has_moved and not self._is_new and ours:
            self._doing = ""
        self._share, self._units, self._is_new = share, units, False
        self._show(now)

    def _tick(self) -> None:
        """Shows what is being done for as long as nothing is counted."""
        while not self._ended.wait(_LINE_EVERY_SECS):
            with self._showing:
                if self._doing:
                    self._show(time.monotonic())

    def _show(self, now: float) -> None:
        """Updates the bar, or prints a line if the last one is some seconds old."""
        if not _bar and now - self._last_line < _LINE_EVERY_SECS:
            return
        self._last_line = now
        rate, left_secs = self._rate.at(now)
        label = f"{self._name}, {self._step}" if self._step else self._name
        left = "?" if left_secs is None else duration(left_secs)
        speed = "" if rate is None else f", {rate:,.1f}/s"
        text = f"{self._units:,} {self._step_unit}{speed}, {left} left"
        if self._doing:
            since = now - self._doing_since
            text = f"{self._doing}, {duration(since)}" if since >= 1 else self._doing
        if _bar:
            _bar.update(self._task, description=label, completed=self._share, rate=text)
        elif as_json:
            counted = {"share": self._share, "units": self._units, "unit": self._step_unit}
            facts = {**counted, "rate": rate, "left_secs": left_secs, "step": self._step, "doing": self._doing}
            _print_json("progress", stderr=True, stage=self._name, **facts)
        else:
            _print([f"{label}: {self._share:4.0%}  {text}"], stderr=True)

    def watch(self, measure: Callable[[], tuple[float, int]]) -> "Watch":
        """Returns a context in which `measure()`, giving share and units, is polled by a thread."""
        return Watch(self, measure)


class Watch:
    """Polls the progress of work that is done elsewhere, such as in a runner's workers."""

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
            # Listing the markers of a large job on an object store takes a while, and must not fill all the time.
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
