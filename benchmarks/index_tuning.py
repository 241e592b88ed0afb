"""Finds the fastest setting of each searcher at a target recall, and compares the searchers on other queries.

The rule is the same for all rivals. For every build and factor, bisection finds the least effort whose recall on the
tuning queries reaches the target with the margin of `planner.reaches`. The fastest of these on the tuning queries is
used, over all builds of a library. A setting that is slower than the fastest so far, by more than the noise, is not
followed further, since more effort would not make it faster. Our index is tuned by its own planner, which counts costs
and knows no times. The reported figures are from other queries: all searchers in turn, in several rounds, each query
set in one call.
"""

import abc
import dataclasses
import gc
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.index_data import Data, K
from index.engines.planner import reaches
from index.measure.recall import recall_at_k
from pipelines import storage

_NOISE = 0.9
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a rival is searched: recall grows with `effort`; `factor` times k candidates are re-ranked."""

    effort: int
    factor: int = 1


class Rival(abc.ABC):
    """A library with build parameters.

    Attributes:
        library: name that it is compared under.
        spec: its build parameters.
        build_secs: seconds of the build.
    """

    library: str
    factors: tuple[int, ...] = (1,)

    def __init__(self, spec: str) -> None:
        """Keeps the parameters; builds nothing."""
        self.spec = spec
        self.build_secs = 0.0

    @property
    def name(self) -> str:
        """Library and build parameters."""
        return f"{self.library} {self.spec}"

    @property
    def file_name(self) -> str:
        """The name as a file name."""
        return self.name.replace(" ", "-").replace(",", "-")

    def prepare(self, rows: np.ndarray, cache: pathlib.Path, threads: int) -> None:
        """Loads the index from the cache, or builds it over rows float32 `[n, d]` and caches it."""
        path = cache / self.file_name
        facts = cache / f"{self.file_name}.json"
        if not facts.exists():
            begin = time.perf_counter()
            self._build(rows, threads)
            secs = time.perf_counter() - begin
            self._save(str(path))
            facts.write_text(json.dumps({"build_secs": secs, "threads": threads}))
        else:
            self._load(str(path), rows.shape[1])
        self.build_secs = json.loads(facts.read_text())["build_secs"]

    def close(self) -> None:
        """Frees its memory."""
        self._index: Any = None

    @abc.abstractmethod
    def efforts(self, k: int) -> list[int]:
        """Returns the possible efforts, ascending."""

    @abc.abstractmethod
    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""

    @abc.abstractmethod
    def _build(self, rows: np.ndarray, threads: int) -> None: ...

    @abc.abstractmethod
    def _save(self, path: str) -> None: ...

    @abc.abstractmethod
    def _load(self, path: str, dim: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A searcher with a setting.

    Attributes:
        name: library and build parameters.
        library: name that it is compared under.
        setting: how it is searched.
        rate: queries/s on the tuning queries.
        search: takes queries `[Q, d]` and threads, returns rows `[Q, k]`.
    """

    name: str
    library: str
    setting: Any
    rate: float
    search: Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The results of a searcher on the reported queries.

    Attributes:
        recall: mean recall@k.
        rate: queries/s, median of the rounds.
        rates: of every round; all searchers ran round i within the same minute.
    """

    recall: float
    rate: float
    rates: list[float]


def timed(
    search: Callable[[np.ndarray, int], np.ndarray], queries: np.ndarray, threads: int
) -> tuple[np.ndarray, float]:
    """Returns the rows found and the seconds: CPU time for one thread, else wall time.

    Other load on the machine affects CPU time less.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    begin = clock()
    rows = search(queries, threads)
    return rows, clock() - begin


def tune_rivals(
    rivals: Sequence[Rival], data: Data, targets: Sequence[float], cache: pathlib.Path, threads: int
) -> dict[float, dict[str, Tuned]]:
    """Returns the fastest rival of each library that reaches each target, on one thread.

    Args:
        rivals: of any libraries; only the fastest ones stay in memory.
        data: whose tuning queries are used.
        targets: recalls to reach.
        cache: where builds are kept.
        threads: of a build.
    """
    best: dict[float, dict[str, Tuned]] = {target: {} for target in targets}
    for rival in rivals:
        kept = cache / f"{rival.file_name}.{len(data.tuning)}-queries.json"
        if not kept.exists():
            rival.prepare(data.rows, cache, threads)
            storage.write_json(str(kept), {"tuned": _tune(rival, data, best), "build_secs": rival.build_secs})
            # All builds would not fit in memory; the fastest are loaded again once all are tuned.
            rival.close()
            gc.collect()
        facts = storage.read_json(str(kept))
        for target, (effort, factor, rate) in facts["tuned"].items():
            setting = Setting(effort, factor)
            best[float(target)][rival.library] = Tuned(
                rival.name, rival.library, setting, rate, _search(rival, setting)
            )
        print(f"{data.name} {rival.name}: built in {facts['build_secs']:.0f} s, " + _found(rival, best), flush=True)
    names = {tuned.name for found in best.values() for tuned in found.values()}
    for rival in rivals:
        if rival.name in names:
            rival.prepare(data.rows, cache, threads)
    return best


def _found(rival: Rival, best: dict[float, dict[str, Tuned]]) -> str:
    parts = []
    for target, found in best.items():
        tuned = found.get(rival.library)
        if tuned and tuned.name == rival.name:
            parts.append(f"{target:g}: {tuned.rate:,.0f} queries/s with {tuned.setting}")
    return "; ".join(parts) or "no faster than another build"


def _search(rival: Rival, setting: Setting) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda queries, threads: rival.search(queries, K, setting, threads)


def _tune(rival: Rival, data: Data, best: dict[float, dict[str, Tuned]]) -> dict[str, tuple[int, int, float]]:
    """Returns effort, factor and rate for each target that it reaches faster than the `best` of its library."""
    seen: dict[Setting, tuple[np.ndarray, float]] = {}
    efforts, better = rival.efforts(K), {}

    def measure(setting: Setting) -> tuple[np.ndarray, float]:
        if setting not in seen:
            rows, secs = timed(_search(rival, setting), data.tuning, 1)
            seen[setting] = recall_at_k(rows, *data.tuning_truth, K), len(data.tuning) / secs
        return seen[setting]

    for target, found in best.items():
        rate_to_beat = found[rival.library].rate if rival.library in found else 0.0
        for factor in rival.factors:
            low, high = 0, len(efforts)
            while low < high:
                middle = (low + high) // 2
                recalls, rate = measure(Setting(efforts[middle], factor))
                if reaches(recalls, target):
                    high = middle
                elif rate < _NOISE * rate_to_beat:
                    low = high = len(efforts)
                else:
                    low = middle + 1
            if low < len(efforts) and seen[setting := Setting(efforts[low], factor)][1] > rate_to_beat:
                rate_to_beat = seen[setting][1]
                better[str(target)] = (setting.effort, setting.factor, rate_to_beat)
    return better


def compare(searchers: dict[str, Tuned], data: Data, threads: int) -> dict[str, Measured]:
    """Returns the results of each searcher on the reported queries, by name, measured in turn."""
    recalls: dict[str, float] = {}
    rates: dict[str, list[float]] = {name: [] for name in searchers}
    for round_ in range(-1, _ROUNDS):
        for name, tuned in searchers.items():
            rows, secs = timed(tuned.search, data.reported, threads)
            if round_ < 0:
                # The first round is slowed by page faults and by threads that start.
                recalls[name] = float(recall_at_k(rows, *data.reported_truth, K).mean())
            else:
                rates[name].append(len(data.reported) / secs)
    return {name: Measured(recalls[name], statistics.median(r), r) for name, r in rates.items()}


def over(above: Measured, below: Measured) -> float:
    """Returns the ratio of two rates, the median over the rounds."""
    return round(statistics.median(a / b for a, b in zip(above.rates, below.rates, strict=True)), 3)
