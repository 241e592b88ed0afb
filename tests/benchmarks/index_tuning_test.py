import itertools

import numpy as np
import pytest

from benchmarks import index_tuning
from benchmarks.index_tuning import Found, Rival, Setting, Target, Tuned

_QUERIES, _K = 10, 100
_TRUTH = np.tile(np.arange(2 * _K), (_QUERIES, 1)), np.tile(-np.arange(2 * _K, dtype=np.float32), (_QUERIES, 1))


class _Clock:
    now = 0.0


class _Fake(Rival):
    """Finds `_found(setting)` of the 100 rows of each query, and takes `slower * _secs(setting)`."""

    library = "fake"
    factors = (1, 2)

    def __init__(self, clock, slower=1):
        super().__init__("A")
        self.asked, self._clock, self._slower = [], clock, slower

    def efforts(self, k):
        return [1, 2, 4, 8, 16]

    def search(self, queries, k, setting, threads):
        self.asked.append(setting)
        self._clock.now += self._slower * _secs(setting)
        rows = np.tile(np.arange(k), (len(queries), 1))
        rows[:, _found(setting) * k // 100 :] = -1
        return rows

    def _build(self, rows, threads):
        pass

    def _save(self, path):
        pass

    def _load(self, path, rows):
        pass


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(index_tuning.time, "process_time", lambda: clock.now)
    return clock


def _found(setting):
    return min(100, 60 + 2 * setting.effort + 10 * (setting.factor - 1))


def _secs(setting):
    return setting.effort * (1.0 + setting.factor)


def _tune(rival, targets, others=(), core_secs=0.0, rows=1000):
    rule = index_tuning.hopeless(others, core_secs, rows)
    return rival.tune(np.zeros((_QUERIES, 2), np.float32), _TRUTH, targets, rule)


@pytest.mark.parametrize("k", [100, 10])
def test_the_fastest_setting_that_reaches_the_target_is_taken(clock, k):
    targets = [Target(k, 0.7), Target(k, 0.9)]
    rival = _Fake(clock)
    found = _tune(rival, targets)
    tried = [Setting(e, f) for e, f in itertools.product(rival.efforts(k), rival.factors)]
    for target in targets:
        fastest = min((s for s in tried if _found(s) * k // 100 >= target.recall * k), key=_secs)
        assert found[target].setting == fastest
        assert found[target].rate == pytest.approx(_QUERIES / _secs(fastest))


def test_a_target_that_nothing_reaches_has_no_setting(clock):
    rival = _Fake(clock)
    rival.factors = (1,)
    assert _tune(rival, [Target(100, 0.95), Target(100, 0.7)]).keys() == {Target(100, 0.7)}


def test_a_build_that_is_slower_and_dearer_than_another_is_soon_given_up(clock):
    target, fast, cheap, dear = Target(100, 0.9), _Fake(clock), _Fake(clock, slower=100), _Fake(clock, slower=100)
    other = Tuned("fast", 1e6, _tune(fast, [target]))
    # 1,000 lists at a hundredth of the rate cost less than the build of the other.
    assert _tune(cheap, [target], [other], core_secs=0.0)[target].rate == pytest.approx(other.found[target].rate / 100)
    assert len(cheap.asked) == len(fast.asked)
    assert len(dear.asked) == 0
    _tune(dear, [target], [other], core_secs=2e6)
    assert len(dear.asked) < len(fast.asked)


def test_the_fastest_and_the_cheapest_in_all_are_compared():
    target, other = Target(100, 0.95), Target(100, 0.99)

    def build(name, core_secs, rate):
        return Tuned(name, core_secs, {target: Found(Setting(1), rate)})

    fast, cheap, neither = build("fast", 900.0, 200.0), build("cheap", 10.0, 100.0), build("neither", 900.0, 90.0)
    # 10,000 lists: 950 s, 110 s, 1,011 s; 10 million: 50,900 s, 100,010 s, 112,011 s.
    assert index_tuning.total_secs(900.0, 10_000, 200.0) == 950.0
    assert index_tuning.chosen([neither, fast, cheap], target, 10_000) == [fast, cheap]
    assert index_tuning.chosen([neither, fast, cheap], target, 10_000_000) == [fast]
    assert index_tuning.chosen([neither, fast, cheap], other, 10_000) == []


def test_a_ladder_ends_where_it_is_to_end():
    steps = index_tuning.ladder(1, 100)
    assert steps[0] == 1 and steps[-1] == 100 and steps == sorted(set(steps))
    assert all(above <= max(below + 1, below * 1.15 + 1) for below, above in itertools.pairwise(steps))
