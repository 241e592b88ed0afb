"""Draws plots and writes the page of what `benchmarks/index.py` found.

    cp out/bench/results/*.json docs/measurements/rivals/
    python -m benchmarks.index_page docs/measurements/rivals

For each file of the folder, one set of vectors on one machine, a plot of queries/s against recall is written beside it,
and README.md has the plots, tables of rates and costs, and what ours are over the best other library.
"""

import argparse
import json
import math
import pathlib
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks.index_rivals import ours
from benchmarks.index_tuning import Target, total_secs

_SHOWN = (Target(100, 0.95), Target(100, 0.99), Target(10, 0.95), Target(10, 0.99))
_TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# It is no rival but a measure, and its curve is a point.
_FLAT = "faiss_flat"
_HEAD = """# The index against other libraries

Written by `python -m benchmarks.index_page`; do not edit. The protocol is in `benchmarks/index_tuning.py`: all
libraries are tuned by the same search on 2,000 queries, and compared on others. A rate is queries per second of
processor time on one thread, with the measured recall in parentheses. Core-seconds are processor time, all threads
together; "and all lists" adds one list for each of as many queries as rows. Memory is anonymous, beyond that after the
imports; files that a library maps, as our `jax` does, come on top. `jax` searches all queries of a call at once, so
that its rate grows with their number. Each library has the build that is best in the respective column.
"""


class Point(NamedTuple):
    """A setting of a library at a target.

    Attributes:
        library: its name.
        build: what was built, without the name of the library.
        target: recall@k that it was tuned for.
        recall: measured.
        rate: queries/s.
        relative: its rate over that of our ScaNN searcher, measured in turn.
        total: core-seconds to build and open it, and of a list for each of as many queries as rows.
        facts: of the build.
    """

    library: str
    build: str
    target: Target
    recall: float
    rate: float
    relative: float
    total: float
    facts: dict[str, Any]


def points(result: dict[str, Any]) -> list[Point]:
    """Returns all points of a result."""
    found = []
    for library in result["libraries"]:
        facts = {build["name"]: build for build in library["builds"]}
        for point in library["points"]:
            build = facts[point["name"]]
            found.append(
                Point(
                    library["library"],
                    point["name"].partition(" ")[2],
                    Target(point["k"], point["target"]),
                    point["recall"],
                    point["rate"],
                    point["over_reference"],
                    total_secs(_core_secs(build), result["rows"], point["rate"]),
                    build,
                )
            )
    return found


def _core_secs(build: dict[str, Any]) -> float:
    return build["core_secs"] + build["open_core_secs"]


def _best(found: Iterable[Point], target: Target, by: Callable[[Point], float]) -> list[Point]:
    """Returns the best point of each library at a target, the best library first."""
    best: dict[str, Point] = {}
    for point in found:
        if point.target == target and (point.library not in best or by(point) > by(best[point.library])):
            best[point.library] = point
    return sorted(best.values(), key=by, reverse=True)


def _rate(point: Point) -> float:
    return point.rate


def _relative(point: Point) -> float:
    return point.relative


def _cheapness(point: Point) -> float:
    return -point.total


def verdicts(found: list[Point]) -> list[str]:
    """Returns sentences that say for each target what the best of ours is over the best other library, or under it."""
    sentences = []
    for target in _SHOWN:
        name = f"recall@{target.k} {target.recall:g}"
        sentences += _verdict(f"{name}, queries/s", _best(found, target, _relative), lambda p: p.relative)
        if target.k == 100:
            sentences += _verdict(
                f"{name}, build and all lists", _best(found, target, _cheapness), lambda p: 1 / p.total
            )
    return sentences


def _verdict(what: str, ranked: list[Point], worth: Callable[[Point], float]) -> list[str]:
    mine = next((point for point in ranked if point.library in ours()), None)
    other = next((point for point in ranked if point.library not in (*ours(), _FLAT)), None)
    if not mine or not other:
        return []
    ratio = worth(mine) / worth(other)
    verb = "leads" if ratio >= 1 else "loses"
    return [f"{what}: {mine.library} {verb}, {ratio:.2f} of {other.library} {other.build}".strip()]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(lines[0].split(" | ")))
    return "\n".join(lines)


def _rates(found: list[Point]) -> str:
    best = {target: {point.library: point for point in _best(found, target, _rate)} for target in _SHOWN}
    order = sorted(
        {point.library for point in found},
        key=lambda name: -(best[_SHOWN[0]][name].rate if name in best[_SHOWN[0]] else 0),
    )

    def cell(target: Target, library: str) -> str:
        point = best[target].get(library)
        return f"{point.rate:,.0f} ({point.recall:.4f}) {point.build}".strip() if point else "not reached"

    head = ["library", *(f"recall@{target.k} {target.recall:g}" for target in _SHOWN)]
    return _table(head, ([name, *(cell(target, name) for target in _SHOWN)] for name in order))


def _costs(found: list[Point], raw_bytes: int) -> str:
    at_95, at_99 = (_best(found, target, _cheapness) for target in _SHOWN[:2])
    all_99 = {point.library: f"{point.total:,.0f}" for point in at_99}

    def megabytes(count: int) -> str:
        return f"{count / 1e6:,.0f} ({count / raw_bytes:.2f})"

    head = ["library", "build", "core-seconds to build and open it", "and all lists, 0.95", "and all lists, 0.99"]
    head += ["MB at the peak (over float32 keys)", "MB loaded", "MB on disk"]
    rows = (
        [
            point.library,
            point.build,
            f"{_core_secs(point.facts):,.1f}",
            f"{point.total:,.0f}",
            all_99.get(point.library, "not reached"),
            *(megabytes(point.facts[f"{kind}_bytes"]) for kind in ("peak", "steady", "disk")),
        ]
        for point in at_95
    )
    return _table(head, rows)


def _item(text: str) -> str:
    """Returns an item of a list, in lines that are not longer than those of other pages."""
    return textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def section(result: dict[str, Any], plot: str) -> str:
    """Returns the Markdown of one result, whose plot is in a file beside the page."""
    found = points(result)
    days: dict[str, set[str]] = {}
    for library in result["libraries"]:
        where = f"{library['machine']}, {'shared with other programs' if library['is_shared'] else 'quiet'}"
        days.setdefault(where, set()).add(library["date"])
    about = [f"{where}, {' and '.join(sorted(dates))}" for where, dates in sorted(days.items())]
    failed: dict[str, list[str]] = {}
    for build in (build for library in result["libraries"] for build in library["builds"] if "error" in build):
        failed.setdefault(build["error"].replace("|", "/"), []).append(build["name"])
    parts = [
        f"## {result['data']}: {result['rows']:,} x {result['dim']}",
        f"{'; '.join(about)}. {result['queries']:,} reported queries.",
        f"![queries per second against recall@100]({plot})",
        "\n".join(f"- {sentence}" for sentence in verdicts(found)),
        _rates(found),
        _costs(found, 4 * result["rows"] * result["dim"]),
        "\n".join(_item(f"Not measured: {', '.join(names)}: {error}") for error, names in failed.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _place(recall: float) -> float:
    """Returns where a recall lies: equal distances halve what is missed equally often."""
    return -math.log10(max(1 - recall, 1 - _TICKS[-1]))


def draw(result: dict[str, Any], file: pathlib.Path) -> None:
    """Draws queries/s against recall@100 of each library, the fastest setting at each target."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = file.name
    from matplotlib import pyplot

    found = points(result)
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    colors = pyplot.get_cmap("tab20").colors
    for number, library in enumerate(dict.fromkeys(point.library for point in found)):
        targets = sorted({point.target for point in found if point.target.k == 100})
        best = [p for target in targets for p in _best(found, target, _rate) if p.library == library]
        is_ours = library in ours()
        axes.plot(
            [_place(point.recall) for point in best],
            [point.rate for point in best],
            marker="so^vDPX*"[number % 8],
            color="black" if is_ours else colors[number % 20],
            linewidth=2.5 if is_ours else 1.2,
            label=library,
        )
    axes.set_yscale("log")
    axes.set_xticks([_place(tick) for tick in _TICKS], [f"{tick:g}" for tick in _TICKS])
    axes.set(xlabel="recall@100", ylabel="queries per second of processor time, one thread")
    axes.set_title(f"{result['data']}: {result['rows']:,} x {result['dim']}")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    """Writes plots and page."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="of results `*.json`, for plots and README.md")
    folder = parser.parse_args().folder
    sections = []
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        draw(result, file.with_suffix(".svg"))
        sections.append(section(result, f"{file.stem}.svg"))
    (folder / "README.md").write_text("\n".join([_HEAD, *sections]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
