"""Commands that change a memory are killed, and two are run at once: the published version serves, and bytes agree."""

import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest

from index import Index, build, neighbors, reindex, search
from pipelines import embed
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
        flags = {"add": [], "remove": [line.listed(*self.gone)], "compact": ["--compact"]}[name]
        match name:
            case "add":
                line.put("0002", 20)
            case "compact":
                assert line.run(line.listed(*self.gone)) == 0
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


@pytest.mark.parametrize("name, stops", [("add", (2, 9)), ("remove", (1, 3, 6)), ("compact", (3, 8, 12, 16, 20, 23, 26))])
def test_killed_at_a_step_and_run_again(tmp_path, name, stops):
    case = Case(tmp_path, name)
    for after in stops:
        case.reset()
        assert forked.end(forked.start(case.command, after)) < 0, f"it takes less than {after} steps"
        case.check_finishes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add", "remove", "compact"])
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
@pytest.mark.parametrize("name", ["add", "remove", "compact"])
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


PAIRS = [
    (one, other) for one in ("reindex", "compact", "embed", "build", "neighbors") for other in ("reindex", "embed", "build")
]
