"""The table of trials."""

from model.reports import tuning
from model.training.trials import Trial


def test_trials_that_diverged_come_last():
    points = [{"learning_rate": rate, "layers": 1} for rate in (0.1, 0.2, 0.3)]
    results = [{"accuracy": {"all": 0.25, "few": 0.125}}, {"diverged": True}, {"accuracy": {"all": 0.5, "many": 0.75}}]
    grid = tuning.grid([Trial(i, points[i], results[i]) for i in range(3)], "mam")
    assert grid.columns == ("trial", "learning_rate", "layers", "all", "many", "medium", "few")
    assert grid.rows == [
        ("2", "0.3", "1", "50.0", "75.0", "-", "-"),
        ("0", "0.1", "1", "25.0", "-", "-", "12.5"),
        ("1", "0.2", "1", "diverged", "-", "-", "-"),
    ]


def test_trials_of_several_divisions_are_told_from_those_of_one():
    points = [{"learning_rate": 0.1, "steps": 3}, {"learning_rate": 0.1, "steps": 24}]
    results = [{"accuracy": {"all": 0.75}}, {"accuracy": {"all": 0.5}, "divisions": 3}]
    grid = tuning.grid([Trial(i, points[i], results[i]) for i in range(2)], "mam")
    assert grid.title == "mam: 2 trials, val accuracy, %, mean over divisions"
    assert grid.columns[:4] == ("trial", "learning_rate", "steps", "divisions")
    assert [row[:5] for row in grid.rows] == [("1", "0.1", "24", "3", "50.0"), ("0", "0.1", "3", "1", "75.0")]
