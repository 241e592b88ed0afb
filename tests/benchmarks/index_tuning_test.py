import itertools

import numpy as np
import pytest

from benchmarks import index_tuning
from benchmarks.index_data import Data, K
from benchmarks.index_tuning import Rival, Setting

_QUERIES = 10


class _Fake(Rival):
    """Finds `found(setting)` of the k rows of each query, and takes `secs(setting)`."""

    library = "fake"
    factors = (1, 2)

    def __init__(self, spec, found, secs, clock):
        super().__init__(spec)
        self.asked, self._found, self._secs, self._clock = [], found, secs, clock

    def efforts(self, k):
        return [1, 2, 4, 8, 16]

    def search(self, queries, k, setting, threads):
        self.asked.append(setting)
        self._clock.now += self._secs(setting)
        rows = np.tile(np.arange(k), (len(queries), 1))
        rows[:, self._found(setting) :] = -1
        return rows

    def _build(self, rows, threads):
        self._clock.now += 100.0

    def _save(self, path):
        open(path, "w").close()

    def _load(self, path, dim):
        pass


class _Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(index_tuning.time, "process_time", lambda: clock.now)
    return clock


@pytest.fixture
def data():
    ids, scores = np.tile(np.arange(2 * K), (_QUERIES, 1)), np.tile(-np.arange(2 * K, dtype=np.float32), (_QUERIES, 1))
    queries, truth = np.zeros((_QUERIES, 2), np.float32), (ids, scores)
    return Data("fake", np.zeros((2 * K, 2), np.float32), queries, queries, truth, truth)


def _found(setting):
    return min(K, 60 + 2 * setting.effort + 10 * (setting.factor - 1))


def _secs(setting):
    return setting.effort * (1.0 + setting.factor)


def test_the_fastest_setting_that_reaches_the_target_is_taken(tmp_path, clock, data):
    rival = _Fake("A", _found, _secs, clock)
    best = index_tuning.tune_rivals([rival], data, (0.75, 0.9), tmp_path, 1)
    tried = [Setting(e, f) for e, f in itertools.product(rival.efforts(K), rival.factors)]
    for target, found in best.items():
        fastest = min((s for s in tried if _found(s) >= 100 * target), key=_secs)
        assert found["fake"].setting == fastest
        assert found["fake"].rate == pytest.approx(_QUERIES / _secs(fastest))


def test_a_slower_build_of_a_library_is_not_taken_and_soon_given_up(tmp_path, clock, data):
    fast = _Fake("A", _found, _secs, clock)
    slow = _Fake("B", _found, lambda setting: 100 * _secs(setting), clock)
    best = index_tuning.tune_rivals([fast, slow], data, (0.9,), tmp_path, 1)
    assert best[0.9]["fake"].name == "fake A"
    assert len(slow.asked) < len(fast.asked)


def test_a_target_that_nothing_reaches_has_no_setting(tmp_path, clock, data):
    best = index_tuning.tune_rivals([_Fake("A", lambda _: 50, _secs, clock)], data, (0.9,), tmp_path, 1)
    assert best == {0.9: {}}


def test_a_repeat_takes_what_was_tuned_before(tmp_path, clock, data):
    first, again = (_Fake("A", _found, _secs, clock) for _ in range(2))
    one = index_tuning.tune_rivals([first], data, (0.9,), tmp_path, 1)
    two = index_tuning.tune_rivals([again], data, (0.9,), tmp_path, 1)
    assert not again.asked
    assert one[0.9]["fake"].setting == two[0.9]["fake"].setting


def test_rates_and_recalls_are_those_of_the_reported_queries(tmp_path, clock, data):
    best = index_tuning.tune_rivals([_Fake("A", _found, _secs, clock)], data, (0.9,), tmp_path, 1)
    measured = index_tuning.compare(best[0.9], data, 1)["fake"]
    setting = best[0.9]["fake"].setting
    assert measured.recall == pytest.approx(_found(setting) / K)
    assert measured.rate == pytest.approx(_QUERIES / _secs(setting))
    assert index_tuning.over(measured, measured) == 1.0
