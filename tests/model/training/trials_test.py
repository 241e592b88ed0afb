"""The trials of a head with simulated runs: budgets, choice, and that no run is repeated."""

import pytest

from configs.base import Train
from model.training import hyperparameters, train_loop, trials
from pipelines import manifest, storage
from pipelines.errors import UserError

_TRAIN = Train(
    learning_rates=(0.1, 0.2),
    weight_decays=(0.0,),
    dropouts=(0.0, 0.5),
    space=("similarity_scale=10|20",),
    seeds=(0, 1),
    search="grid",
)


class _Stage:
    def __init__(self):
        self.shares = []

    def update(self, share, units, ours=True):
        self.shares.append(share)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Runs that reach what `reached` says of their setting, and note that they were made."""

    class World:
        stage = _Stage()
        made: list = []
        reached = staticmethod(lambda setting, trainer: setting.learning_rate)

        def runs(self, head="linear", under="runs", **changes):
            train = hyperparameters.with_fields(_TRAIN, changes)
            folder = str(tmp_path / under)
            manifest.claim(folder, "model.train", {})
            total = sum(trials.search(head, train).lengths) + len(train.seeds) * train.steps
            return trials.Runs(head, train, 0, None, {}, folder, trials.Progress(self.stage, total))

    world = World()
    world.made = []

    def run(trainer, folder, setting, seed, split, config_hash, on_steps):
        path = f"{folder}/result.json"
        on_steps(trainer.train.steps)
        if storage.exists(path):
            return storage.read_json(path)
        world.made.append((folder.rpartition("/")[2], split, seed))
        value = world.reached(setting, trainer)
        result = (
            {"head": trainer.name, "accuracy": {"all": value}}
            if value >= 0
            else {"head": "linear", "diverged": "the loss is nan"}
        )
        storage.write_json(path, result)
        return result

    class Trainer:
        def __init__(self, name, task, data, train):
            self.name, self.train = name, train

        def shortened(self, steps):
            return Trainer(self.name, None, None, hyperparameters.with_fields(self.train, {"steps": steps}))

    monkeypatch.setattr(train_loop, "run", run)
    monkeypatch.setattr(trials, "Trainer", Trainer)
    return world


def test_every_head_gets_the_same_number_whether_it_reads_the_space_or_not(world):
    for changes in ({}, {"search": "random", "trials": 5}, {"search": "optuna", "trials": 5}):
        for head in ("linear", "mlp"):
            tried = world.runs(head, f"{len(changes)}{changes.get('search')}", **changes).trials()
            assert len(tried) == (5 if changes else 8)
            assert {trial.point["similarity_scale"] for trial in tried} <= {10.0, 20.0}


def test_trials_are_on_val_with_the_seed_of_the_config_and_the_best_is_run_on_test(world):
    world.reached = lambda setting, trainer: setting.learning_rate + trainer.train.similarity_scale / 100
    runs = world.runs()
    chosen = runs.choose(runs.trials())
    assert [made[1:] for made in world.made] == [("val", 0)] * 8
    assert chosen.point == {"similarity_scale": 20.0, "learning_rate": 0.2, "weight_decay": 0.0, "dropout": 0.0}
    assert storage.read_json(f"{runs.folder}/chosen.json") == {
        "number": chosen.number,
        "point": chosen.point,
        "val_accuracy": pytest.approx(0.4),
        "val_score": pytest.approx(0.4),
        "trials": 8,
    }
    assert storage.read_json(f"{runs.folder}/trial-{chosen.number}/trial.json")["point"] == chosen.point
    runs.seed(chosen, 7)
    assert world.made[-1] == ("seed-7", "test", 7)
    assert world.stage.shares[-1] == pytest.approx(0.9)


def test_settings_that_change_no_field_share_a_trainer(world):
    runs = world.runs()
    runs.trials()
    assert runs.trainer.cache_info().misses == 2


def test_halving_shares_a_trainer_and_chooses_among_whole_runs(world):
    world.reached = lambda setting, trainer: setting.learning_rate + (trainer.train.steps < 300) / 2
    runs = world.runs(search="halving", space=("similarity_scale=15",), steps=300)
    tried = runs.trials()
    assert [trial.steps for trial in tried] == [38] * 4 + [100] * 2 + [300] * 4
    # More is better, so three trials go beyond the larger learning rate.
    assert tried[-1].point["learning_rate"] == 0.2 * 2**3
    assert runs.choose(tried) == tried[-1] and runs.trainer.cache_info().misses == 1
    trial_steps = 4 * 38 + 2 * 100 + 4 * 300
    assert world.stage.shares[-1] == pytest.approx(trial_steps / (trial_steps + 600))


def test_what_diverged_is_not_chosen(world):
    world.reached = lambda setting, trainer: -1 if setting.learning_rate == 0.2 else 0.01
    runs = world.runs()
    tried = runs.trials()
    assert [trial.diverged for trial in tried] == [trial.point["learning_rate"] == 0.2 for trial in tried]
    assert runs.choose(tried).point["learning_rate"] == 0.1
    world.reached = lambda setting, trainer: -1
    with pytest.raises(UserError, match="all 8 trials of linear diverged, the first: the loss is nan"):
        other = world.runs("mlp")
        other.choose(other.trials())


def test_whole_runs_that_all_diverged_are_said_even_where_short_ones_did_not(world):
    world.reached = lambda setting, trainer: 0.5 if trainer.train.steps < 300 else -1
    runs = world.runs(search="halving", steps=300)
    with pytest.raises(UserError, match="trials of linear diverged, the first: the loss is nan"):
        runs.choose(runs.trials())


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_interrupted_tuning_resumes_with_the_same_trials(world, kind):
    whole = world.runs(under="whole", search=kind, trials=6).trials()
    made = len(world.made)

    class _Stop(Exception):
        pass

    def stop(setting, trainer):
        if len(world.made) == made + 4:
            raise _Stop
        return setting.learning_rate

    world.reached = stop
    with pytest.raises(_Stop):
        world.runs(under="cut", search=kind, trials=6).trials()
    world.reached = lambda setting, trainer: setting.learning_rate
    again = world.runs(under="cut", search=kind, trials=6).trials()
    assert [(trial.point, trial.value) for trial in again] == [(trial.point, trial.value) for trial in whole]
    # Three were done, the fourth was begun: three more are left.
    assert [name for name, *_ in world.made[made + 4 :]] == ["trial-3", "trial-4", "trial-5"]


def test_once_chosen_no_other_setting_sees_test(world):
    runs = world.runs()
    runs.choose(runs.trials())
    number = storage.read_json(f"{runs.folder}/chosen.json")["number"]
    storage.write_json(f"{runs.folder}/trial-{number}/result.json", {"head": "mam", "accuracy": {"all": 0.0}})
    again = world.runs()
    with pytest.raises(UserError, match="is of a setting that was chosen from other trials, number was"):
        again.choose(again.trials())


def test_results_of_other_trials_are_refused(world):
    world.runs().trials()
    with pytest.raises(UserError, match="trial-0/trial.json: is of other trials, point.learning_rate was 0.1 and"):
        world.runs(learning_rates=(0.3, 0.4)).trials()


def test_a_head_that_settings_do_not_change_has_one_trial_with_the_first_of_each(world):
    for changes in ({}, {"search": "random", "trials": 5}):
        (tried,) = world.runs("zero_shot", f"one{len(changes)}", **changes).trials()
        assert tried.point == {"learning_rate": 0.1, "weight_decay": 0.0, "dropout": 0.0}
    train = hyperparameters.with_fields(_TRAIN, {"heads": ("linear", "zero_shot")})
    assert trials.lengths(train) == [train.steps] * (8 + 1 + 2 * 2)
    assert trials.lengths(train, seeds=False) == [train.steps] * (8 + 1)
