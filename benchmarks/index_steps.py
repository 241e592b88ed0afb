"""Runs the steps of `index_tuning`, each in a process of its own, and keeps what each found in the cache.

Libraries bring their own threads and allocators, and some end the process when they fail: apart, none disturbs another,
and a step that fails is kept as failed with its last line. The files of a build are beside its facts:

    DATA/BUILD             what the library wrote
    DATA/BUILD.built.json  core-seconds, seconds, bytes of memory at the peak and of files
    DATA/NAME.tuned.json   core-seconds to open it, bytes of memory once open, and a setting for each target
    DATA/LIBRARY.json      the above, and what was measured on the reported queries

A failure is tried again if its file is deleted.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from benchmarks import index_data, index_rivals, index_tuning
from benchmarks.children import Child
from benchmarks.index_costs import anonymous_bytes, peak_bytes
from benchmarks.index_tuning import TARGETS, Found, Rival, Setting, Target, Tuned
from index.measure.recall import recall_at_k
from pipelines import storage

REFERENCE = "scann"
_ROUNDS = 3
_LIMIT_SECS = 4 * 3600
_PROJECT = pathlib.Path(__file__).parents[1]


def _file(folder: pathlib.Path, rival: Rival, step: str) -> pathlib.Path:
    name = rival.built if step == "built" else rival.name.replace(" ", "-").replace(",", "-")
    return folder / f"{name}.{step}.json"


def _rivals(folder: pathlib.Path, library: str) -> list[Rival]:
    return index_rivals.grid(*np.load(folder / "rows.npy", mmap_mode="r").shape, library)


def _build(folder: pathlib.Path, rival: Rival) -> dict[str, Any]:
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    _ = rival.api
    before, begin, core = anonymous_bytes(), time.perf_counter(), time.process_time()
    path = folder / rival.built
    peak = peak_bytes(lambda: rival.build(rows, str(path), len(os.sched_getaffinity(0))))
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {
        "core_secs": round(time.process_time() - core, 3),
        "secs": round(time.perf_counter() - begin, 3),
        "peak_bytes": peak - before,
        "disk_bytes": sum(file.stat().st_size for file in files) + rows.nbytes * rival.needs_rows,
    }


def _tune(folder: pathlib.Path, rival: Rival) -> dict[str, Any]:
    data = index_data.load(folder)
    rows, queries = data.vectors.rows, data.vectors.tuning
    _ = rival.api
    before, begin = anonymous_bytes(), time.process_time()
    rival.open(str(folder / rival.built), rows)
    open_core_secs = time.process_time() - begin
    rival.search(queries[:1], index_data.K, Setting(rival.efforts(index_data.K)[0], rival.factors[0]), 1)
    steady = anonymous_bytes() - before
    # The first search of all queries is slowed by page faults.
    rival.search(queries, index_data.K, Setting(rival.efforts(index_data.K)[0], rival.factors[0]), 1)
    others = [tuned for tuned in _tuned(folder, rival.library) if tuned.name != rival.name]
    core_secs = _read(_file(folder, rival, "built"))["core_secs"] + open_core_secs
    rule = index_tuning.hopeless(others, core_secs, len(rows))
    found = rival.tune(queries, data.tuning_truth, TARGETS, rule)
    opened = {"open_core_secs": round(open_core_secs, 3), "steady_bytes": steady}
    return opened | {"found": {str(target): value for target, value in found.items()}}


def _read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _tuned(folder: pathlib.Path, library: str) -> list[Tuned]:
    """Returns the builds of a library that are tuned."""
    known = []
    for rival in _rivals(folder, library):
        built, tuned = (_file(folder, rival, step) for step in ("built", "tuned"))
        if tuned.exists() and "found" in (facts := _read(tuned)):
            found = {
                target: Found(Setting(*facts["found"][str(target)][0]), facts["found"][str(target)][1])
                for target in TARGETS
                if str(target) in facts["found"]
            }
            known.append(Tuned(rival.name, _read(built)["core_secs"] + facts["open_core_secs"], found))
    return known


def _answer(folder: pathlib.Path, rival: Rival, answers: TextIO) -> None:
    """Answers each line `k effort factor` with recall and rate on the reported queries."""
    data = index_data.load(folder)
    queries = data.vectors.reported
    rival.open(str(folder / rival.built), data.vectors.rows)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        k, *setting = map(int, line.split())
        search = functools.partial(rival.search, queries, k, Setting(*setting), 1)
        rows, secs = index_tuning.timed(search)
        recall = float(recall_at_k(rows, *data.reported_truth, k).mean())
        print(json.dumps([recall, len(queries) / secs]), file=answers, flush=True)


def _command(step: str, folder: pathlib.Path, rival: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.index_steps", step, str(folder.resolve()), rival]


def _kept(folder: pathlib.Path, rival: Rival, step: str) -> dict[str, Any]:
    """Returns what a step found, and runs it in a process of its own if it did not yet."""
    file = _file(folder, rival, step)
    if not file.exists():
        print(f"{folder.name} {rival.name}: to be {step}", flush=True)
        environment = os.environ | {"PYTHONPATH": str(_PROJECT)}
        command = _command(step, folder, rival.name)
        log = folder / f"{file.stem}.log"
        with open(log, "wb") as output:
            try:
                code = subprocess.run(
                    command, env=environment, stdout=output, stderr=output, timeout=_LIMIT_SECS
                ).returncode
            except subprocess.TimeoutExpired:
                code = f"more than {_LIMIT_SECS} s"
        if code:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            storage.write_json(str(file), {"error": f"not {step}, {code}: {' '.join(last)[-200:]}"})
    return _read(file)


def measure(folder: pathlib.Path, library: str, about: dict[str, Any]) -> dict[str, Any]:
    """Builds, tunes and measures a library on data that `index_data.keep` wrote; what is kept is not done again.

    Args:
        folder: of the data.
        library: its name.
        about: date, machine and the like, which are kept with what is measured.

    Returns:
        Its builds with their costs; and its points: target, build, setting, recall, rate, and rate over `REFERENCE`.
    """
    file = folder / f"{library}.json"
    if not file.exists():
        builds = []
        for rival in _rivals(folder, library):
            facts = _kept(folder, rival, "built")
            if "error" not in facts:
                facts = facts | _kept(folder, rival, "tuned")
            print(f"{folder.name} {rival.name}: {json.dumps(facts)}", flush=True)
            builds.append({"name": rival.name, **facts})
        found = {"library": library, **about, "builds": builds, "points": _compare(folder, library)}
        storage.write_json(str(file), found)
    return _read(file)


def _compare(folder: pathlib.Path, library: str) -> list[dict[str, Any]]:
    rows = len(np.load(folder / "rows.npy", mmap_mode="r"))
    builds = _tuned(folder, library)
    wanted = [(target, build) for target in TARGETS for build in index_tuning.chosen(builds, target, rows)]
    if not wanted:
        return []
    (reference,) = _tuned(folder, REFERENCE)
    points = []
    with _open(folder, reference.name) as ours:
        for name in dict.fromkeys(build.name for _, build in wanted):
            with _open(folder, name) as theirs:
                for target, build in wanted:
                    if build.name == name:
                        settings = reference.found[target].setting, build.found[target].setting
                        points.append({"name": name, **_point(target, *settings, ours, theirs)})
                        print(f"{folder.name} {json.dumps(points[-1])}", flush=True)
    return points


@contextlib.contextmanager
def _open(folder: pathlib.Path, name: str) -> Iterator[Child]:
    child = Child(_command("answer", folder, name), os.environ | {"PYTHONPATH": str(_PROJECT)}, quiet=True)
    try:
        if child.line() != "ready":
            raise RuntimeError(f"{name} did not open")
        yield child
    finally:
        child.close()


def _point(target: Target, our_setting: Setting, their_setting: Setting, ours: Child, theirs: Child) -> dict[str, Any]:
    rates: list[tuple[float, float]] = []
    # The first round is slowed by page faults and by threads that start.
    for _ in range(1 + _ROUNDS):
        _, our_rate = json.loads(ours.ask(f"{target.k} {our_setting.effort} {our_setting.factor}"))
        recall, rate = json.loads(theirs.ask(f"{target.k} {their_setting.effort} {their_setting.factor}"))
        rates.append((rate, our_rate))
    return {
        "k": target.k,
        "target": target.recall,
        "setting": list(their_setting),
        "recall": round(recall, 4),
        "rate": round(statistics.median(rate for rate, _ in rates[1:]), 1),
        "over_reference": round(statistics.median(rate / our_rate for rate, our_rate in rates[1:]), 3),
    }


def main() -> None:
    """Runs one step; `measure` starts it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("step", choices=["built", "tuned", "answer"], help="what to do")
    parser.add_argument("folder", type=pathlib.Path, help="of the data")
    parser.add_argument("name", help="of the rival: library, build parameters and how it is opened")
    arguments = parser.parse_args()
    # Libraries write to standard output, which is kept for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = [rival for rival in _rivals(arguments.folder, arguments.name.split()[0]) if rival.name == arguments.name]
    if arguments.step == "answer":
        _answer(arguments.folder, found[0], answers)
    else:
        facts = (_build if arguments.step == "built" else _tune)(arguments.folder, found[0])
        storage.write_json(str(_file(arguments.folder, found[0], arguments.step)), facts)


if __name__ == "__main__":
    main()
