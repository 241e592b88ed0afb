"""Commands that change a memory are killed, and two are run at once: the published version serves, and bytes agree."""

import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest

from index import Index, build, neighbors, reindex, search
from pipelines import embed, storage
from pipelines.manifest import Embeddings, Neighbors
from tests.index import forked
from tests.index.vector_line import BEAM, DIM, Line
from tests.world import unit, without_rates

KILLS = 40
# What differs from run to run: timings, and the number of the command.
_TIMED = {"secs", "run_id"}


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns a digest of every file below a workdir, without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_file() and place.parts[0] != "stages":
            data = without_rates(path.name, path.read_bytes())
            if path.suffix == ".json" and isinstance(value := json.loads(data), dict):
                # Some of these say what their own bytes are.
                kept = {name: part for name, part in value.items() if name not in {*_TIMED, "sha256"}}
                data = json.dumps(kept, sort_keys=True).encode()
            found[str(place)] = hashlib.sha256(data).hexdigest()
    return found


class Case:
    """A line before a command, which can be put back there, and what the command makes of it undisturbed."""

    def __init__(self, root: pathlib.Path, name: str) -> None:
        self.line, self.saved = Line(root / "line"), root / "saved"
        line = self.line
        line.put("0000", 40)
        line.put("0001", 30)
        assert line.run() == 0
        self.gone = {line.rows["0000"][place][1] for place in (3, 5, 30)} if name != "add" else set()
        flags = {"add": [], "remove": [line.listed(*self.gone)]}.get(name, ["--compact"])
        match name:
            case "add":
                line.put("0002", 20)
            case "compact":
                assert line.run(line.listed(*self.gone)) == 0
            case "gone":
                assert line.run(line.listed(*self.gone, line.rows["0001"][4][1])) == 0
                line.take("0001")
                assert line.run() == 0
        self.command: Callable[[], int] = lambda: line.run(*flags)
        self.live = [i for i, url in line.urls().items() if url not in self.gone]
        shutil.copytree(line.root, self.saved)
        begin = time.monotonic()
        assert forked.end(forked.start(self.command)) == 0
        self.secs, self.made = time.monotonic() - begin, contents(line.root / "out")
        line.check(self.gone)

    def reset(self) -> None:
        """Puts the line back to where it was before the command."""
        shutil.rmtree(self.line.root)
        shutil.copytree(self.saved, self.line.root)

    def check_served(self) -> None:
        """Checks that what is published can be searched, by Python and by command."""
        folder = self.line.config.places.index
        found = Index.open(folder).search(unit(4, DIM, seed=9), 3)
        assert found.ids.min() >= 0
        assert search.main([f"--config={self.line.config_file}", f"--id={self.live[0]}", "--k=5"]) == 0

    def check_finishes(self) -> None:
        """Checks that the same command ends with the bytes of an undisturbed one."""
        self.check_served()
        assert forked.end(forked.start(self.command)) == 0
        assert contents(self.line.root / "out") == self.made
        self.line.check(self.gone)


@pytest.mark.parametrize(
    "name, stops",
    [
        *(("add", (2, 9)), ("remove", (1, 3, 6)), ("compact", (3, 8, 12, 16, 20, 23, 26))),
        ("gone", (31, 41, 42, 43, 45, 46)),
    ],
)
def test_killed_at_a_step_and_run_again(tmp_path, name, stops):
    case = Case(tmp_path, name)
    for after in stops:
        case.reset()
        assert forked.end(forked.start(case.command, after)) < 0, f"it takes less than {after} steps"
        case.check_finishes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add", "remove", "compact", "gone"])
def test_killed_at_any_step_and_run_again(tmp_path, name):
    case, after, code = Case(tmp_path, name), 0, -9
    while code < 0:
        case.reset()
        code = forked.end(forked.start(case.command, after))
        case.check_finishes()
        after += 1
    print(f"{name}: killed before each of {after - 1} steps, the bytes of an undisturbed run after each")
    assert code == 0 and after > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add", "remove", "compact", "gone"])
def test_killed_at_random_moments_and_run_again(tmp_path, name):
    case, rng = Case(tmp_path, name), np.random.default_rng(17)
    killed = trials = 0
    while killed < KILLS:
        trials += 1
        assert trials < 4 * KILLS, f"only {killed} of {trials} runs were killed before they ended"
        case.reset()
        killed += forked.killed(case.command, rng.uniform(0, case.secs))
        case.check_finishes()
    print(f"{name}: killed {killed} times in {trials} runs, the bytes of an undisturbed run each time")


def test_the_published_version_is_found_while_a_compaction_runs(tmp_path):
    case, served = Case(tmp_path, "compact"), 0
    case.reset()
    process = forked.start(case.command)
    while not forked.has_ended(process):
        case.check_served()
        served += 1
    assert served
    assert contents(case.line.root / "out") == case.made


def commands(line: Line) -> dict[str, Callable[[], int]]:
    argv = [f"--config={line.config_file}", *BEAM]
    return {
        "reindex": lambda: reindex.main(argv),
        "compact": lambda: reindex.main([*argv, "--compact"]),
        "embed": lambda: embed.main(argv),
        "build": lambda: build.main(argv),
        "neighbors": lambda: neighbors.main(argv),
    }


NAMES = ("reindex", "compact", "embed", "build", "neighbors")
PAIRS = [(one, other) for one in NAMES for other in NAMES]
FAST = {("compact", "embed"), ("reindex", "neighbors"), ("embed", "compact")}


@pytest.mark.parametrize(
    "pair", [pytest.param(p, marks=() if p in FAST else pytest.mark.slow) for p in PAIRS], ids="+".join
)
def test_two_commands_at_once(tmp_path, pair):
    line, rng = Line(tmp_path, with_queries=True), np.random.default_rng(PAIRS.index(pair))
    line.put("0000", 40)
    line.put("0001", 30)
    assert line.run() == 0
    gone = {line.rows["0000"][3][1]}
    assert line.run(line.listed(*gone)) == 0
    line.put("0002", 20)
    first = forked.start(commands(line)[pair[0]])
    time.sleep(rng.uniform(0, 0.5))
    second = forked.start(commands(line)[pair[1]])
    assert Index.open(line.config.places.index).search(unit(4, DIM, seed=9), 3).ids.min() >= 0
    assert search.main([f"--config={line.config_file}", "--id=0", "--k=5"]) == 0
    codes = forked.end(first), forked.end(second)
    # A command that ran second may find that the first has changed the memory, and say so.
    assert set(codes) <= {0, 2} and 0 in codes
    # What either has left, the line goes on from.
    assert all(command() == 0 for name, command in commands(line).items() if name != "build")
    line.check(gone)
    lists = Neighbors.open(line.config.places.neighbors)
    assert lists.identity["memory"] == Embeddings(line.config.places.memory).snapshot
    if codes == (0, 0):
        print(f"{pair[0]} and {pair[1]}: one after the other")


@pytest.mark.parametrize("pause", [0.0, 0.2, pytest.param(0.4, marks=pytest.mark.slow)])
def test_two_removals_at_once_lose_nothing(tmp_path, pause):
    line = Line(tmp_path)
    line.put("0000", 40)
    assert line.run() == 0
    lists = []
    for name, places in (("a", (3, 4)), ("b", (7, 8))):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{line.rows['0000'][place][1]}\n" for place in places))
        lists.append((f"--remove={path}", {line.rows["0000"][place][1] for place in places}))
    first = forked.start(lambda: line.run(lists[0][0]))
    time.sleep(pause)
    codes = forked.end(forked.start(lambda: line.run(lists[1][0]))), forked.end(first)
    assert set(codes) <= {0, 2} and 0 in codes
    gone = set().union(*(urls for code, (_, urls) in zip(reversed(codes), lists, strict=True) if not code))
    assert gone and not gone & set(line.urls().values())
    assert line.run(lists[0][0]) == 0 and line.run(lists[1][0]) == 0
    line.check(lists[0][1] | lists[1][1])


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_comes_second_is_refused_until_the_first_ends(tmp_path, name, capsys):
    line = Line(tmp_path, with_queries=True)
    line.put("0000", 40)
    assert line.run() == 0
    held = storage.lock(f"{tmp_path}/out/stages/workdir.lock", "web-memory reindex")
    before = contents(tmp_path / "out")
    capsys.readouterr()
    assert commands(line)[name]() == 2
    error = capsys.readouterr().err
    assert f"web-memory reindex is already running there (process {os.getpid()}); wait for it or stop it" in error
    assert contents(tmp_path / "out") == before
    held.close()
    # The file that is left means nothing.
    assert commands(line)[name]() == 0
