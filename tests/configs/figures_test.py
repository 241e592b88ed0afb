"""The published figures: whole rows, of protocols that exist."""

import pathlib

from configs.figures import FIGURES
from pipelines import options


def test_each_protocol_is_that_of_a_config_and_no_row_stands_twice():
    for name, rows in FIGURES.items():
        assert options.load(f"configs/{name}.py").protocol.name == name
        assert len({(row.method, row.encoder, row.source, row.all) for row in rows}) == len(rows)
        for row in rows:
            assert 0 < row.all < 100 and len(row.groups) in (0, 3) and row.source
            # The share of test images lies between the groups, for test sets of equal classes.
            assert not row.groups or min(row.groups) < row.all < max(row.groups)


def test_the_configs_say_where_the_figures_are():
    for name in FIGURES:
        text = (pathlib.Path(options.configs.__path__[0]) / f"{name}.py").read_text()
        assert "configs/figures.py" in text and "--published" in " ".join(text.split())
