import pathlib

import pytest

from benchmarks import index_page

_LOADED = {"peak_bytes": 3_000_000, "steady_bytes": 2_000_000, "disk_bytes": 1_000_000, "secs": 1.0}

_ABOUT = {"machine": "a machine, 2 cores", "is_shared": False, "date": "2026-01-02"}


def _library(name, core_secs, *points):
    return {
        "library": name,
        **_ABOUT,
        "builds": [{"name": f"{name} A", "core_secs": core_secs - 0.5, "open_core_secs": 0.5, **_LOADED}],
        "points": [
            {"name": f"{name} A", "k": k, "target": target, "recall": target + 0.001, "rate": rate, **over}
            for k, target, rate in points
            for over in [{"setting": [1, 1], "over_reference": rate / 1000}]
        ],
    }


@pytest.fixture
def result():
    return {
        "data": "d16",
        "rows": 10_000,
        "dim": 16,
        "queries": 500,
        "libraries": [
            _library("scann", 10.0, (100, 0.95, 1000.0), (100, 0.99, 500.0)),
            _library("slow", 1.0, (100, 0.95, 800.0)),
            _library("fast", 90.0, (100, 0.95, 500.0), (100, 0.99, 1000.0)),
            {"library": "broken", **_ABOUT, "builds": [{"name": "broken A", "error": "ended with -11"}], "points": []},
        ],
    }


def test_the_page_says_where_ours_leads_and_loses(result):
    # 10,000 lists: 10 + 10 and 10 + 20 s; slow 1 + 12.5 s; fast 90 + 20 and 90 + 10 s.
    assert index_page.verdicts(index_page.points(result)) == [
        "recall@100 0.95, queries/s: scann leads, 1.25 of slow A",
        "recall@100 0.95, build and all lists: scann loses, 0.68 of slow A",
        "recall@100 0.99, queries/s: scann loses, 0.50 of fast A",
        "recall@100 0.99, build and all lists: scann leads, 3.33 of fast A",
    ]


def test_the_tables_have_rates_costs_and_failures(result):
    text = index_page.section(result, "x.svg")
    assert "| scann | 1,000 (0.9510) A | 500 (0.9910) A | not reached | not reached |" in text
    assert "| slow | A | 1.0 | 14 | not reached | 3 (4.69) | 2 (3.12) | 1 (1.56) |" in text
    assert "- Not measured: broken A: ended with -11" in text
    assert "a machine, 2 cores, quiet, 2026-01-02. 500 reported queries." in text
    assert "![queries per second against recall@100](x.svg)" in text


def test_equal_results_give_an_equal_plot(result, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        index_page.draw(result, tmp_path / name / "x.svg")
    one, two = (pathlib.Path(tmp_path / name / "x.svg").read_bytes() for name in ("one", "two"))
    assert one == two and one.startswith(b"<?xml")
