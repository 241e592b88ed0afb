"""What the rows of a table are sorted by."""

import pytest

from model.reports import tables
from model.reports.grid import Grid


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("53.4 ± 0.3", "53.4"),
        ("-5.1 [-6.9, -3.3]", "-5.1"),
        ("+0.7 [-0.2, +1.5]", "0.7"),
        ("15,060", "15060.0"),
        ("12 %", "12.0"),
        ("0.4 s", "0.4"),
        ("3m05s", "185"),
        ("2h07m", "7620"),
        ("-", ""),
        ("3d printer", "3d printer"),
    ],
)
def test_cells_are_sorted_by_their_figures(text, order):
    assert tables.order(text) == order


def test_names_are_sorted_as_names_even_if_they_are_figures():
    shown = tables.table(Grid("t", ("class", "n"), [("7", "3")], ("note",)))
    assert [cell.order for cell in shown.rows[0]] == ["7", "3.0"] and shown.notes == ("note",)
