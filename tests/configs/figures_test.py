"""The published figures: whole rows, of protocols that exist."""

import pathlib

import numpy as np

from configs import few_shot
from configs.figures import FIGURES
from pipelines import options


def _config(name: str) -> str:
    name, *split = name.split("/")
    return f"configs/{name}.py" + (":dataset={},shots={}".format(*split) if split else "")


def test_each_protocol_is_that_of_a_config_and_no_row_stands_twice():
    for name, rows in FIGURES.items():
        assert options.load(_config(name)).protocol.name == name
        assert len({(row.method, row.encoder, row.source, row.all) for row in rows}) == len(rows)
        for row in rows:
            assert 0 < row.all < 100 and len(row.groups) in (0, 3) and row.source
            # The share of test images lies between the groups, for test sets of equal classes.
            assert not row.groups or min(row.groups) < row.all < max(row.groups)


def test_the_few_shot_figures_have_the_averages_that_their_paper_gives():
    averages = {"zero-shot": 56.3, "REAL-Prompt": 62.6, "REAL-Linear": 64.8, "CLAP": 72.9, "SWAT": 78.2}
    rows = [{row.method: row.all for row in FIGURES[f"few_shot/{name}/16"]} for name in few_shot.SETS]
    assert len(rows) == 9
    for method, average in averages.items():
        assert abs(np.mean([row[method] for row in rows]) - average) < 0.05


def test_the_configs_say_where_the_figures_are():
    for name in {name.partition("/")[0] for name in FIGURES}:
        text = (pathlib.Path(options.configs.__path__[0]) / f"{name}.py").read_text()
        assert "configs/figures.py" in text and "--published" in " ".join(text.split())
