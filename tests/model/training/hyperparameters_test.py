"""Which settings are tried: how many, which, and whether the same ones again."""

import itertools

import pytest

from configs.base import Train
from model.training import hyperparameters
from pipelines.errors import UserError

_TRAIN = Train(
    learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    weight_decays=(0.0, 0.01, 0.1),
    dropouts=(0.0, 0.5),
    space=("similarity_scale=10|20|40",),
)
_SIZE = 90


def _train(**changes):
    return hyperparameters.with_fields(_TRAIN, changes)


def _all(train, seed=0, value=lambda point: 0.5):
    done = []
    for _ in range(hyperparameters.budget(train)):
        point = hyperparameters.propose(train, seed, done)
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
    assert points == expected and hyperparameters.budget(_TRAIN) == _SIZE


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
    found = hyperparameters.axes(train)
    assert found["layers"] == (1, 2) and found["loss"] == ("lace", "cross_entropy")
    point = {**hyperparameters.propose(train, 0, []), "layers": 2, "loss": "cross_entropy"}
    changed = hyperparameters.with_fields(train, point)
    assert (changed.layers, changed.loss, changed.learning_rates) == (2, "cross_entropy", train.learning_rates)


def test_words_of_a_point():
    assert hyperparameters.words({"similarity_scale": 10.0, "dropout": 0.5}) == "similarity scale 10, dropout 0.5"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"search": "random", "trials": 91},
            "--config.train.trials=91: must be at most 90, the number of settings",
        ),
        (
            {"trials": 5},
            "--config.train.trials=5: a grid has 90 settings and tries all; use --config.train.search=random",
        ),
        ({"space": ("similarity_scal=1|2",)}, "no field 'similarity_scal'; did you mean 'similarity_scale'?"),
        ({"space": ("heads=mam|mlp",)}, "heads cannot be an axis; name another field of train, each once"),
        ({"space": ("dropouts=0.1",)}, "dropouts cannot be an axis"),
        ({"space": ("k=8|16",)}, "k cannot be an axis"),
        ({"space": ("similarity=cosine|whitened",)}, "similarity cannot be an axis"),
        ({"space": ("layers=1|2", "layers=3|4")}, "layers cannot be an axis; name another field of train, each once"),
        ({"space": ("layers=1|1",)}, "must be a field and different values, such as similarity_scale=10|20|40"),
        ({"space": ("layers=one|2",)}, "must be of type int"),
    ],
)
def test_refusals(changes, sentence):
    with pytest.raises(UserError) as caught:
        hyperparameters.budget(_train(**changes))
    assert sentence in str(caught.value)
