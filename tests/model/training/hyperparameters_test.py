"""Which settings are tried: how many, which, and whether the same ones again."""

import dataclasses
import itertools
import math

import pytest

from configs.base import Train, Vote
from model.training import hyperparameters
from model.training.hyperparameters import Search
from pipelines.errors import UserError

_TRAIN = Train(
    learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    weight_decays=(0.0, 0.01, 0.1),
    dropouts=(0.0, 0.5),
    space=("similarity_scale=10|20|40",),
    search="grid",
)
_SIZE = 90


def _train(**changes):
    return hyperparameters.with_fields(_TRAIN, changes)


def _all(train, seed=0, value=lambda point: 0.5, **search):
    done, tried = [], Search(train, **search)
    while point := tried.propose(seed, done):
        done.append((point, value(point)))
    return [point for point, _ in done]


def _key(point):
    return tuple(sorted(point.items()))


def test_a_grid_is_the_product_with_dropout_fastest():
    points = _all(_TRAIN)
    expected = [
        {"similarity_scale": scale, "learning_rate": rate, "weight_decay": decay, "dropout": drop}
        for scale in (10.0, 20.0, 40.0)
        for rate, decay, drop in itertools.product(_TRAIN.learning_rates, _TRAIN.weight_decays, _TRAIN.dropouts)
    ]
    assert points == expected and Search(_TRAIN).lengths == [_TRAIN.steps] * _SIZE


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_other_searches_have_as_many_distinct_points_of_the_grid_as_trials(kind):
    grid = {_key(point) for point in _all(_TRAIN)}
    train = _train(search=kind, trials=17)
    points = [_key(point) for point in _all(train)]
    assert len(points) == len(set(points)) == 17 and set(points) <= grid
    assert points == [_key(point) for point in _all(train)]
    assert points != [_key(point) for point in _all(train, seed=1)]


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_as_large_as_the_grid_tries_all_of_it(kind):
    train = _train(
        search=kind, trials=6, space=(), learning_rates=(0.1, 0.2), weight_decays=(0.0,), dropouts=(0.0, 0.1, 0.2)
    )
    assert {_key(p) for p in _all(train)} == {_key(p) for p in _all(_train(**_plain(train)))}


def _plain(train):
    names = ("space", "learning_rates", "weight_decays", "dropouts")
    return {name: getattr(train, name) for name in names}


def test_random_draws_do_not_look_at_results():
    train = _train(search="random", trials=20)
    assert _all(train, value=lambda point: point["learning_rate"]) == _all(train, value=lambda point: 0.0)


def test_optuna_goes_where_results_are_good():
    """With a peak at one corner, its mean over the later proposals is above that of the grid."""

    def value(point):
        return 0.5 + 0.1 * _TRAIN.learning_rates.index(point["learning_rate"]) - 0.05 * (point["dropout"] > 0)

    train = _train(search="optuna", trials=24)
    later = [value(point) for point in _all(train, value=value)][8:]
    grid = [value(point) for point in _all(_TRAIN)]
    assert sum(later) / len(later) > sum(grid) / len(grid) + 0.05
    assert _all(train, value=value) == _all(train, value=value)
    assert _all(train, value=value) != _all(train, value=lambda point: -value(point))


def test_fields_of_other_types_are_axes():
    train = _train(space=("layers=1|2", "loss=lace|cross_entropy"), search="random", trials=1)
    found = Search(train).axes
    assert found["layers"] == (1, 2) and found["loss"] == ("lace", "cross_entropy")
    point = {**Search(train).propose(0, []), "layers": 2, "loss": "cross_entropy"}
    changed = hyperparameters.with_fields(train, point)
    assert (changed.layers, changed.loss, changed.learning_rates) == (2, "cross_entropy", train.learning_rates)


def test_halving_gives_most_steps_to_the_best_and_costs_as_much_as_thirteen_runs():
    train = _train(search="halving", steps=240, space=("similarity_scale=10|20|40",), dropouts=(0.0, 0.2, 0.5))

    def value(point):
        return 0.5 + 0.01 * _TRAIN.learning_rates.index(point["learning_rate"]) + 0.001 * point["dropout"]

    points = _all(train, value=lambda point: value(point) if point["learning_rate"] < 0.011 else 0.1)
    steps = [point["steps"] for point in points]
    certain = Search(train).lengths
    assert certain == [30] * 40 + [80] * 12 + [240] * 4 and sum(certain) / 240 == 13
    assert steps[: len(certain)] == certain and set(steps[len(certain) :]) <= {240}

    def of(first, last):
        return [{name: v for name, v in point.items() if name != "steps"} for point in points[first:last]]

    best = sorted(of(0, 40), key=value, reverse=True)
    assert of(40, 52) == best[:12] and of(52, 56) == best[:4]
    assert points == _all(train, value=lambda point: value(point) if point["learning_rate"] < 0.011 else 0.1)


def test_halving_of_few_settings_leaves_out_rounds_that_drop_none():
    train = _train(search="halving", steps=80, space=(), learning_rates=(0.1,), weight_decays=(0.0,), dropouts=(0.5,))
    assert _all(train) == [{"learning_rate": 0.1, "weight_decay": 0.0, "dropout": 0.5, "steps": 80}]
    assert Search(_train(search="halving", trials=5, steps=80)).lengths == [10] * 5 + [27] * 2 + [80]


def test_a_head_that_is_not_trained_tries_its_own_axes_alone():
    train = _train(search="halving", steps=80)
    own = {"k": (8, 32, 0), "similarity": ("cosine", "whitened")}
    points = _all(train, own=own, trained=False, longest=16)
    # The first values of what is no axis of it.
    rest = {"learning_rate": 1e-4, "weight_decay": 0.0, "dropout": 0.0, "steps": 80}
    expected = [{"k": k, "similarity": name, **rest} for k in (8, 0) for name in ("cosine", "whitened")]
    assert sorted(map(str, points)) == sorted(map(str, expected))
    assert _all(_train(search="grid"), trained=False) == [{"learning_rate": 1e-4, "weight_decay": 0.0, "dropout": 0.0}]


def test_a_field_that_is_set_is_not_tried_but_by_name():
    own = {"similarity": ("cosine", "whitened"), "vote.pruning": ("none", "hard"), "value_scale": (1.0, 2.0)}
    train = dataclasses.replace(_train(similarity="cosine"), vote=Vote(pruning="soft"))
    assert set(own) - set(Search(train, own=own).axes) == {"similarity", "vote.pruning"}
    asked = dataclasses.replace(train, space=("similarity=whitened", "value_scale=3"))
    found = Search(asked, own=own).axes
    assert found["similarity"] == ("whitened",) and found["value_scale"] == (3.0,) and "vote.pruning" not in found


def test_a_field_that_is_fixed_has_no_axis_whoever_asks_for_it():
    own = {"similarity": ("cosine", "whitened"), "k": (8, 0)}
    train = _train(space=("similarity=whitened", "layers=1|2"))
    assert "similarity" not in Search(train, own=own, longest=16, fixed="similarity").axes
    found = Search(train, own=own, longest=16, fixed="k").axes
    assert "k" not in found and found["layers"] == (1, 2)


def test_the_whole_list_is_what_train_k_leaves_of_it():
    found = Search(_train(k=16), own={"k": (8, 32, 0)}, longest=16).axes
    assert found["k"] == (8, 16)


def test_what_a_user_names_replaces_the_axis_of_the_head():
    found = Search(_TRAIN, own={"similarity_scale": (1.0,), "layers": (1, 2)}).axes
    assert (found["similarity_scale"], found["layers"]) == ((10.0, 20.0, 40.0), (1, 2))


def test_a_choice_at_the_end_of_an_axis_is_followed_beyond_it():
    train = _train(search="halving", trials=90, space=(), learning_rates=(1e-3, 3e-3, 9e-3), weight_decays=(1.0, 3.0))

    def value(point):
        """Best at a learning rate of 27e-3, and at the larger weight decay of all that are tried, up to 9."""
        return 1 - abs(math.log(point["learning_rate"] / 27e-3)) / 9 - abs(math.log(point["weight_decay"] / 9)) / 99

    beyond = [point for point in _all(train, value=value) if point["learning_rate"] > 9e-3]
    assert [point["learning_rate"] for point in beyond][:2] == [0.027, 0.081]
    assert max(_all(train, value=value), key=value)["weight_decay"] == 9.0


@pytest.mark.parametrize(
    ("tried", "best", "expected"),
    [
        ((1.0, 3.0), 3.0, 9.0),
        ((1.0, 3.0), 1.0, 0.333),
        ((1.0, 2.0, 4.0), 2.0, None),
        ((0.0, 2.0, 4.0), 4.0, 8.0),
        ((0.0, 2.0, 4.0), 2.0, None),
        ((0.0, 2.0, 4.0), 0.0, None),
        # 0 neighbours are the whole list.
        ((0, 8, 32), 32, None),
        ((0, 8, 32), 8, 2),
        ((0, 8, 32), 0, None),
        ((1, 2), 1, None),
        (("cosine", "whitened"), "cosine", None),
        ((False, True), True, None),
        ((5.0,), 5.0, None),
    ],
)
def test_the_next_value_continues_the_ratio(tried, best, expected):
    assert hyperparameters.further(tried, best) == expected


def test_words_of_a_point():
    assert (
        hyperparameters.words({"similarity_scale": 10.0, "steps": 9, "dropout": 0.5})
        == "similarity scale 10, dropout 0.5"
    )
    # 0 takes the whole list.
    assert hyperparameters.words({"k": 0, "dropout": 0.0}) == "k all, dropout 0"
    assert hyperparameters.words({"k": 10}) == "k 10"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"trials": 5},
            "--config.train.trials=5: a grid has 90 settings and tries all; use --config.train.search=random",
        ),
        ({"space": ("similarity_scal=1|2",)}, "no field 'similarity_scal'; did you mean 'similarity_scale'?"),
        ({"space": ("heads=mam|mlp",)}, "heads cannot be an axis; name another field of train, each once"),
        ({"space": ("dropouts=0.1",)}, "dropouts cannot be an axis"),
        ({"space": ("steps=8|16",)}, "steps cannot be an axis"),
        ({"space": ("k=8|900",)}, "train.space=k=8|900: the lists hold 100 neighbours; use fewer, or run web-memory"),
        ({"space": ("layers=1|2", "layers=3|4")}, "layers cannot be an axis; name another field of train, each once"),
        ({"space": ("layers=1|1",)}, "must be a field and different values, such as similarity_scale=10|20|40"),
        ({"space": ("layers=one|2",)}, "must be of type int"),
    ],
)
def test_refusals(changes, sentence):
    with pytest.raises(UserError) as caught:
        print(Search(_train(**changes), longest=100).lengths)
    assert sentence in str(caught.value)
