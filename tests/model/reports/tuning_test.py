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
