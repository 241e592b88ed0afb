"""The protocol: how every searcher is built, tuned and compared, ours and others' by the same rule.

1. Build. A rival has one or several builds (`Rival.spec`). Each is built once, in a process of its own, with all cores;
   counted are its processor time, all threads together, its largest memory beyond that after the imports, and the bytes
   of its files. Another process opens it and counts the memory that it then holds.
2. Tune, on queries of their own. A `Target` is a recall@k. For every build and factor, bisection finds the least effort
   whose recall reaches the target with the margin of `planner.reaches`. A setting that is slower than the fastest so
   far of its library, by more than the noise, and no cheaper in all, is not followed further, since more effort would
   not make it faster. Our searchers are tuned by their own planner, which counts costs and knows no times.
3. Compare, on the reported queries, all of them in one call. Of each library two settings are taken for each target:
   the fastest, and the one with the least core-seconds to build and open it, and then to make a list for each of as
   many queries as there are rows. The library and our ScaNN searcher run in turn, each in a process of its own, told to
   use one thread. A rate is queries per second of processor time, median of the rounds; a ratio is the median of the
   ratios within a round. What runs on other threads all the same is counted. No library is shown queries when it is
   built.

`index_steps` runs these steps and keeps what each found, so that a run that was killed resumes.
"""

import abc
import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from index.engines.planner import reaches
from index.measure.recall import recall_at_k

_NOISE = 0.9
_LONGEST_CANDIDATES = 3200


class Target(NamedTuple):
    """A mean recall@k to reach."""

    k: int
    recall: float

    def __str__(self) -> str:
        """Returns it as it is written in files."""
        return f"{self.k}@{self.recall:g}"


# The first two of each k are what is asked for; the others draw the curve.
TARGETS = tuple(
    [Target(100, recall) for recall in (0.95, 0.99, 0.8, 0.9, 0.98, 0.995)]
    + [Target(10, recall) for recall in (0.95, 0.99, 0.9)]
)


class Setting(NamedTuple):
    """How a rival is searched: recall grows with `effort`; `factor` times k candidates are re-ranked."""

    effort: int
    factor: int = 1


class Found(NamedTuple):
    """The setting of a build that reaches a target, and its queries/s on the tuning queries."""

    setting: Setting
    rate: float


class Rival(abc.ABC):
    """A library with build parameters.

    Attributes:
        library: name that it is compared under.
        module: that is imported when it is used.
        spec: its build parameters.
        opened: how it is opened, if one build can be opened in several ways.
        factors: of k, that are tried for the length of the list that is re-ranked.
        needs_rows: whether its file is of no use without the rows.
    """

    library: str
    module: str
    factors: tuple[int, ...] = (1,)
    needs_rows = False

    def __init__(self, spec: str, opened: str = "") -> None:
        """Keeps the parameters; builds nothing."""
        self.spec, self.opened = spec, opened
        self._index: Any = None

    @property
    def api(self) -> Any:
        """Its library, imported."""
        return importlib.import_module(self.module)

    @property
    def built(self) -> str:
        """The build as a file name."""
        return f"{self.library}-{self.spec}".replace(" ", "-").replace(",", "-")

    @property
    def name(self) -> str:
        """Library, build parameters, and how it is opened."""
        return " ".join(part for part in (self.library, self.spec, self.opened) if part)

    def build(self, rows: np.ndarray, path: str, threads: int) -> None:
        """Builds it over rows float32 `[n, d]`, a mapped file, and writes it to a file or folder."""
        self._build(rows, threads)
        self._save(path)

    def open(self, path: str, rows: np.ndarray) -> None:
        """Opens what `build` wrote over the same rows."""
        self._load(path, rows)

    @abc.abstractmethod
    def efforts(self, k: int) -> list[int]:
        """Returns the possible efforts for lists of length `k`, ascending."""

    @abc.abstractmethod
    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`; gets all queries in one call."""

    @abc.abstractmethod
    def _build(self, rows: np.ndarray, threads: int) -> None: ...

    @abc.abstractmethod
    def _save(self, path: str) -> None: ...

    @abc.abstractmethod
    def _load(self, path: str, rows: np.ndarray) -> None: ...

    def tune(
        self,
        queries: np.ndarray,
        truth: tuple[np.ndarray, np.ndarray],
        targets: Sequence[Target],
        is_hopeless: Callable[[Target, float], bool],
    ) -> dict[Target, Found]:
        """Returns the fastest setting for each target that is reached and not hopeless.

        Args:
            queries: that it is tuned on, `[Q, d]`.
            truth: their exact lists, longer than k.
            targets: recalls to reach.
            is_hopeless: tells whether this many queries/s, with a recall below the target, are not worth more effort.
        """
        seen: dict[tuple[int, Setting], tuple[np.ndarray, float]] = {}

        def measure(k: int, setting: Setting) -> tuple[np.ndarray, float]:
            if (k, setting) not in seen:
                rows, secs = timed(lambda: self.search(queries, k, setting, 1))
                seen[k, setting] = recall_at_k(rows, *truth, k), len(queries) / secs
            return seen[k, setting]

        found = {}
        for target in targets:
            fastest = self._fastest(target, measure, is_hopeless)
            if fastest:
                found[target] = fastest
        return found

    def _fastest(
        self,
        target: Target,
        measure: Callable[[int, Setting], tuple[np.ndarray, float]],
        is_hopeless: Callable[[Target, float], bool],
    ) -> Found | None:
        best, efforts = None, self.efforts(target.k)
        for factor in self.factors:
            low, high = 0, len(efforts)
            while low < high:
                middle = (low + high) // 2
                recalls, rate = measure(target.k, Setting(efforts[middle], factor))
                if reaches(recalls, target.recall):
                    high = middle
                elif is_hopeless(target, rate) or (best and rate < _NOISE * best.rate):
                    low = high = len(efforts)
                else:
                    low = middle + 1
            if low < len(efforts):
                setting = Setting(efforts[low], factor)
                rate = measure(target.k, setting)[1]
                if not best or rate > best.rate:
                    best = Found(setting, rate)
        return best


def timed(search: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Returns the rows found and the seconds of processor time, which other load on the machine affects less."""
    begin = time.process_time()
    rows = search()
    return rows, time.process_time() - begin


def total_secs(core_secs: float, rows: int, rate: float) -> float:
    """Returns the core-seconds to build and open an index, and to make one list for each of as many queries as rows."""
    return core_secs + rows / rate


class Tuned(NamedTuple):
    """A build that was tuned: its name, core-seconds to build and open it, and what was found for each target."""

    name: str
    core_secs: float
    found: Mapping[Target, Found]


def hopeless(others: Sequence[Tuned], core_secs: float, rows: int) -> Callable[[Target, float], bool]:
    """Returns the rule of `Rival.tune`, given builds of the same library that were tuned before.

    Args:
        others: those builds.
        core_secs: to build and open the one that is tuned now.
        rows: that are indexed.
    """

    def rule(target: Target, rate: float) -> bool:
        known = [(other, other.found[target].rate) for other in others if target in other.found]
        if not known:
            return False
        cheapest = min(total_secs(other.core_secs, rows, known_rate) for other, known_rate in known)
        is_slow = rate < _NOISE * max(known_rate for _, known_rate in known)
        return is_slow and total_secs(core_secs, rows, rate) > cheapest

    return rule


def chosen(builds: Sequence[Tuned], target: Target, rows: int) -> list[Tuned]:
    """Returns the builds of a library to compare at a target: the fastest, and the cheapest in all if it is another."""
    able = [build for build in builds if target in build.found]
    if not able:
        return []
    fastest = max(able, key=lambda build: build.found[target].rate)
    cheapest = min(able, key=lambda build: total_secs(build.core_secs, rows, build.found[target].rate))
    return [fastest] if cheapest is fastest else [fastest, cheapest]


def ladder(low: int, high: int, ratio: float = 1.15) -> list[int]:
    """Returns whole numbers from `low` to `high` that grow by `ratio`, and by at least 1."""
    steps = [low]
    while steps[-1] < high:
        steps.append(min(high, max(steps[-1] + 1, math.ceil(steps[-1] * ratio))))
    return steps


def candidates(k: int) -> list[int]:
    """Returns the lengths of a graph's candidate list to try for lists of length `k`."""
    return ladder(k, max(32 * k, _LONGEST_CANDIDATES))
