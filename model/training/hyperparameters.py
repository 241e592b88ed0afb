"""Which settings the trials of a head have: a grid, distinct draws from it, or Optuna's TPE over it.

A point is a value for each axis: `learning_rate`, `weight_decay`, `dropout`, and the fields that `Train.space` names.
Each proposal depends only on the seed and the earlier results, so that tuning resumes as if it had not been
interrupted. `trials` runs the trials.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from configs.base import Train
from pipelines import fields
from pipelines.errors import UserError

SETTING = ("learning_rate", "weight_decay", "dropout")
# Fields with an axis of their own, fields that are no setting, and fields that decide what is read or measured.
_NOT_IN_SPACE = (
    *("learning_rates", "weight_decays", "dropouts", "search", "trials", "space", "heads", "seeds", "values"),
    *("k", "similarity", "bank_sentences", "checkpoint_every", "many_over", "few_under", "shots", "dtype"),
)
_ASKS = 50

Point = dict[str, Any]


@functools.cache
def axes(train: Train) -> dict[str, tuple[Any, ...]]:
    """Returns the values of each axis, those of `space` first.

    Raises:
        UserError: if an entry of `space` is not a field with different values.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for entry in train.space:
        name, _, texts = entry.partition("=")
        flag = f"--config.train.space={entry}"
        if name.split(".")[0] in _NOT_IN_SPACE or name in found:
            raise UserError(f"{flag}: {name} cannot be an axis; name another field of train, each once")
        path = name.split(".")
        trains = [fields.override(train, path, text, flag) for text in texts.split("|")]
        values = tuple(functools.reduce(getattr, path, changed) for changed in trains)
        if not texts or len(set(values)) < len(values):
            raise UserError(f"{flag}: must be a field and different values, such as similarity_scale=10|20|40")
        found[name] = values
    settings = (train.learning_rates, train.weight_decays, train.dropouts)
    return found | {name: tuple(dict.fromkeys(values)) for name, values in zip(SETTING, settings, strict=True)}


def budget(train: Train) -> int:
    """Returns the number of trials that each head gets.

    Raises:
        UserError: if there are not that many settings.
    """
    size = math.prod(len(values) for values in axes(train).values())
    if not 0 <= train.trials <= size:
        raise UserError(f"--config.train.trials={train.trials}: must be at most {size}, the number of settings")
    if train.search == "grid" and train.trials not in (0, size):
        raise UserError(
            f"--config.train.trials={train.trials}: a grid has {size} settings and tries all; "
            "use --config.train.search=random for fewer"
        )
    return train.trials or size


def first(train: Train) -> Train:
    """Returns the training configuration of a head that is not tuned: one trial, with the first value of each axis."""
    return dataclasses.replace(
        train,
        search="grid",
        trials=0,
        space=(),
        learning_rates=train.learning_rates[:1],
        weight_decays=train.weight_decays[:1],
        dropouts=train.dropouts[:1],
    )


def with_fields(train: Train, point: Point) -> Train:
    """Returns the training configuration of a point; the axes of `SETTING` are not among its fields."""
    for name, value in point.items():
        if name not in SETTING:
            train = _replace(train, name.split("."), value)
    return train


def _replace(config: Any, path: Sequence[str], value: Any) -> Any:
    new = _replace(getattr(config, path[0]), path[1:], value) if len(path) > 1 else value
    return dataclasses.replace(config, **{path[0]: new})


def words(point: Point) -> str:
    """Returns a point in words: `learning rate 0.001, dropout 0.5`."""
    shown = ((name.replace("_", " "), f"{v:g}" if isinstance(v, float) else f"{v}") for name, v in point.items())
    return ", ".join(f"{name} {value}" for name, value in shown)


def propose(train: Train, seed: int, done: Sequence[tuple[Point, float]]) -> Point:
    """Returns the point of the next trial, which differs from those of all earlier trials.

    Args:
        train: the axes and the kind of tuning.
        seed: of random choices.
        done: the earlier points in order, each with its val accuracy, 0 to 1.
    """
    if train.search != "optuna":
        return _points(train, seed)[len(done)]
    tried = [point for point, _ in done]
    return next(point for point in _proposals(train, seed, done) if point not in tried)


@functools.cache
def _points(train: Train, seed: int) -> list[Point]:
    """Returns the grid, the last axis varying fastest, or a draw from it for each trial."""
    found = axes(train)
    if train.search == "grid":
        return [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    shape = [len(values) for values in found.values()]
    chosen = np.random.default_rng(seed).choice(math.prod(shape), budget(train), replace=False)
    places = [np.unravel_index(number, shape) for number in chosen]
    return [{name: found[name][int(i)] for name, i in zip(found, place, strict=True)} for place in places]


def _proposals(train: Train, seed: int, done: Sequence[tuple[Point, float]]) -> Iterator[Point]:
    """Yields proposals of the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), then all points."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("--config.train.search=optuna: Optuna is not installed; install web-memory[sweep]") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = axes(train)
    # Indices on the axes instead of values, so that adjacent values are near each other at any scale.
    spread: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.IntDistribution(0, len(values) - 1) for name, values in found.items()
    }
    # A new generator for each proposal, so that an interrupted process leaves no trace.
    own_seed = int(np.random.SeedSequence([seed, len(done)]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=max(2, budget(train) // 4))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for point, value in done:
        places = {name: found[name].index(point[name]) for name in found}
        study.add_trial(optuna.trial.create_trial(params=places, distributions=spread, value=value))
    for _ in range(_ASKS):
        asked = study.ask(spread).params
        yield {name: found[name][place] for name, place in asked.items()}
    # It keeps proposing known points: any other point tells more.
    yield from _points(dataclasses.replace(train, search="random", trials=0), seed)
