"""Which settings the trials of a head have: successive halving, a grid, random draws from it, or Optuna's TPE over it.

A point is a value for each axis: the fields that the head or `Train.space` names, then `learning_rate`,
`weight_decay` and `dropout`; of successive halving also `steps`. Each proposal depends only on the seed and the earlier
results, so that tuning resumes as if it had not been interrupted. `trials` runs the trials.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from configs.base import Train
from pipelines import fields
from pipelines.errors import UserError

SETTING = ("learning_rate", "weight_decay", "dropout")
# Fields with an axis of their own, fields that are no setting, and fields that decide what is read or measured.
_NOT_IN_SPACE = (
    *("learning_rates", "weight_decays", "dropouts", "search", "trials", "space", "heads", "seeds", "values", "steps"),
    *("bank_sentences", "checkpoint_every", "many_over", "few_under", "shots", "dtype", "table"),
)
_ASKS = 50
# Successive halving: the settings of the first round, and of each round the share of them and of the steps. In all they
# cost as much as 13 whole runs.
_HALVED = 40
_ROUNDS = ((1.0, 1 / 8), (0.3, 1 / 3), (0.1, 1.0))
# Trials beyond the ends of axes.
_MOST_BEYOND = 3

Point = dict[str, Any]
# The earlier points in order, each with its result on val, 0 to 1.
Done = Sequence[tuple[Point, float]]


@dataclasses.dataclass(frozen=True)
class Search:
    """The trials of one head.

    Attributes:
        train: the training configuration.
        own: the axes of the head, see `Head.space`; `train.space` replaces those that it names, and a field that the
            configuration sets to another value than the default has that value and no axis; `k` is a limit.
        trained: whether steps train the head; if not, there are no axes of `SETTING`.
        longest: length of the neighbour lists; 0 if it is not known yet.
        fixed: a field that keeps the value of the configuration, and has no axis; empty for none.
    """

    train: Train
    own: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    trained: bool = True
    longest: int = 0
    fixed: str = ""

    @functools.cached_property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The values of each axis.

        Raises:
            UserError: if an entry of `train.space` is not a field with different values, or asks for longer lists.
        """
        asked = {name: v for name, v in _asked(self.train).items() if self.trained or name in self.own}
        if self.longest and max(asked.get("k", (0,))) > self.longest:
            raise UserError(
                f"--config.train.space=k={'|'.join(map(str, asked['k']))}: the lists hold {self.longest} neighbours; "
                "use fewer, or run web-memory neighbors with more"
            )
        own = {name: values for name, values in self.own.items() if name == "k" or _is_default(self.train, name)}
        found = {name: self._possible(name, values) for name, values in own.items()} | asked
        found.pop(self.fixed, None)
        if self.trained:
            settings = (self.train.learning_rates, self.train.weight_decays, self.train.dropouts)
            found |= {name: tuple(dict.fromkeys(values)) for name, values in zip(SETTING, settings, strict=True)}
        return found

    def _possible(self, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if name != "k" or not self.longest:
            return values
        # The whole list, k = 0, is among the values; it is what `train.k` leaves of it.
        return tuple(k or self.train.k for k in values if k < self.longest)

    @property
    def size(self) -> int:
        """Number of different settings."""
        return math.prod(len(values) for values in self.axes.values())

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The steps of each trial that is certain, in order; those beyond the ends of axes come later.

        Raises:
            UserError: if `train.trials` asks for a part of a grid.
        """
        train = self.train
        if train.search == "grid" and self.trained and train.trials not in (0, self.size):
            raise UserError(
                f"--config.train.trials={train.trials}: a grid has {self.size} settings and tries all; "
                "use --config.train.search=random for fewer"
            )
        if train.search != "halving":
            return [train.steps] * min(train.trials or self.size, self.size)
        return [step for held in self._rounds for step in [held.steps] * held.settings]

    @functools.cached_property
    def _rounds(self) -> list["_Round"]:
        """The rounds of successive halving."""
        count = min(self.train.trials or _HALVED, self.size)
        if not self.trained:
            return [_Round(count, self.train.steps)]
        held = [
            _Round(math.ceil(round(count * share, 6)), max(1, math.ceil(self.train.steps * length)))
            for share, length in _ROUNDS
        ]
        # A round that would not drop any setting is left out; the last one has all steps.
        return [this for this, after in itertools.pairwise(held) if this.settings > after.settings] + held[-1:]

    def propose(self, seed: int, done: Done) -> Point | None:
        """Returns the point of the next trial, which differs from those of all earlier trials; None if all are done.

        Args:
            seed: of random choices.
            done: the earlier points.
        """
        if len(done) >= len(self.lengths):
            return self._beyond(done) if self.train.search == "halving" else None
        if self.train.search == "halving":
            return self._halved(seed, done)
        if self.train.search == "optuna":
            tried = [point for point, _ in done]
            return next(point for point in self._proposals(seed, done) if point not in tried)
        return self._points(seed, len(self.lengths))[len(done)]

    def _halved(self, seed: int, done: Done) -> Point:
        first, rounds = 0, self._rounds
        for number, held in enumerate(rounds):
            if len(done) < first + held.settings:
                place = len(done) - first
                if not number:
                    return self._points(seed, held.settings)[place] | {"steps": held.steps}
                before = done[first - rounds[number - 1].settings : first]
                ranked = sorted(range(len(before)), key=lambda at: (-before[at][1], at))
                return before[ranked[place]][0] | {"steps": held.steps}
            first += held.settings
        raise AssertionError("called with all rounds done")

    def _beyond(self, done: Done) -> Point | None:
        """Returns the best point, moved beyond an end of an axis on which it is; None if it is on no such end."""
        if len(done) >= len(self.lengths) + _MOST_BEYOND:
            return None
        whole = [(point, value) for point, value in done if point["steps"] == self.train.steps]
        best = max(whole, key=lambda each: each[1])[0]
        for name in self.axes:
            tried = sorted({point[name] for point, _ in done})
            value = (_further_dropout if name == "dropout" else further)(tried, best[name])
            moved = best | {name: value}
            if value is not None and moved not in [point for point, _ in whole] and self._is_allowed(moved):
                return moved
        return None

    def _is_allowed(self, point: Point) -> bool:
        if self.longest and point.get("k", 0) > self.longest:
            return False
        try:
            fields.check(with_fields(self.train, point), "train.")
        except UserError:
            return False
        return True

    def _points(self, seed: int, count: int) -> list[Point]:
        """Returns the grid, the last axis varying fastest, or `count` distinct draws from it."""
        if self.train.search == "grid":
            return [
                self._filled(dict(zip(self.axes, each, strict=True))) for each in itertools.product(*self.axes.values())
            ]
        shape = [len(values) for values in self.axes.values()]
        chosen = np.random.default_rng(seed).choice(math.prod(shape), count, replace=False)
        places = [np.unravel_index(number, shape) for number in chosen]
        items = list(self.axes.items())
        return [
            self._filled({name: values[at] for (name, values), at in zip(items, place, strict=True)})
            for place in places
        ]

    def _filled(self, point: Point) -> Point:
        """Returns the point with the first value of what is no axis of this head."""
        train = self.train
        first = zip(SETTING, (train.learning_rates, train.weight_decays, train.dropouts), strict=True)
        return point | {name: values[0] for name, values in first if name not in point}

    def _proposals(self, seed: int, done: Done) -> Iterator[Point]:
        """Yields proposals of the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), then all points."""
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "--config.train.search=optuna: Optuna is not installed; install web-memory[sweep]"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Indices on the axes instead of values, so that adjacent values are near each other at any scale.
        spread: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1) for name, values in self.axes.items()
        }
        # A new generator for each proposal, so that an interrupted process leaves no trace.
        own_seed = int(np.random.SeedSequence([seed, len(done)]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=max(2, len(self.lengths) // 4))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for point, value in done:
            places = {name: values.index(point[name]) for name, values in self.axes.items()}
            study.add_trial(optuna.trial.create_trial(params=places, distributions=spread, value=value))
        for _ in range(_ASKS):
            asked = study.ask(spread).params
            yield self._filled({name: self.axes[name][place] for name, place in asked.items()})
        # It keeps proposing known points: any other point tells more.
        yield from self._points(seed, self.size)


def field(train: Train, name: str) -> Any:
    """Returns the value of a field, such as `vote.pruning`."""
    return functools.reduce(getattr, name.split("."), train)


def _is_default(train: Train, name: str) -> bool:
    """Tells whether a field, such as `vote.pruning`, has the default value."""
    return bool(field(train, name) == field(Train(), name))


class _Round(NamedTuple):
    """A round of successive halving: how many settings, and the steps of each."""

    settings: int
    steps: int


def _asked(train: Train) -> dict[str, tuple[Any, ...]]:
    """Returns the axes that `train.space` names."""
    found: dict[str, tuple[Any, ...]] = {}
    for entry in train.space:
        name, _, texts = entry.partition("=")
        flag = f"--config.train.space={entry}"
        if name.split(".")[0] in _NOT_IN_SPACE or name in found:
            raise UserError(f"{flag}: {name} cannot be an axis; name another field of train, each once")
        trains = [fields.override(train, name.split("."), text, flag) for text in texts.split("|")]
        values = tuple(field(changed, name) for changed in trains)
        if not texts or len(set(values)) < len(values):
            raise UserError(f"{flag}: must be a field and different values, such as similarity_scale=10|20|40")
        found[name] = values
    return found


def further(tried: Sequence[Any], best: Any) -> Any:
    """Returns the next value beyond the end of an axis that the best one is on; None if it is on none.

    Values continue in the ratio of the last two. Words, an axis of one value and an end at 0 do not continue. Where 0
    means the whole list (`k`, an int), it is the upper end.

    Args:
        tried: the values of the axis, ascending, each once.
        best: one of them.
    """
    if isinstance(best, str | bool):
        return None
    exact, positive = isinstance(best, int), [value for value in tried if value > 0]
    if len(positive) < 2 or best not in (positive[0], positive[-1]):
        return None
    is_upper, has_zero = best == positive[-1], 0 in tried
    if has_zero and is_upper == exact:
        return None
    beyond = best**2 / positive[-2 if is_upper else 1]
    if not exact:
        # Three digits, so that it reads as the others do.
        return float(f"{beyond:.3g}")
    return None if max(1, round(beyond)) in tried else max(1, round(beyond))


def _further_dropout(tried: Sequence[float], best: float) -> float | None:
    """Returns the same for dropouts, whose share that is kept continues in the ratio of the last two."""
    kept = further(sorted(1 - rate for rate in tried), 1 - best)
    return None if kept is None or kept >= 1 else round(1 - kept, 3)


def with_fields(train: Train, point: Point) -> Train:
    """Returns the training configuration of a point; the axes of `SETTING` are not among its fields."""
    for name, value in point.items():
        if name not in SETTING:
            train = _replace(train, name.split("."), value)
    return train


def _replace(config: Any, path: Sequence[str], value: Any) -> Any:
    new = _replace(getattr(config, path[0]), path[1:], value) if len(path) > 1 else value
    return dataclasses.replace(config, **{path[0]: new})


def shown(name: str, value: Any) -> str:
    """Returns the value of an axis as people read it: `0.001`; a `k` of 0, which takes the whole list, is `all`."""
    if (name, value) == ("k", 0):
        return "all"
    return f"{value:g}" if isinstance(value, float) else str(value)


def words(point: Point, trained: bool = True) -> str:
    """Returns a point in words: `learning rate 0.001, k all, vote.most_wrong 8`.

    Chosen points have all steps: they are not said. Nor are the axes of `SETTING` of a head that steps do not train.
    """
    said = {name: value for name, value in point.items() if name != "steps" and (trained or name not in SETTING)}
    return ", ".join(
        f"{name if '.' in name else name.replace('_', ' ')} {shown(name, value)}" for name, value in said.items()
    )
