import html.parser
import json

from model.reports import report_page
from model.reports.grid import Grid
from model.reports.report_page import Curve


def _figures(**means):
    return {name: {"mean": mean, "std": None} for name, mean in means.items()}


_RESULTS = {
    "methods": {
        "linear": _figures(many=0.5, medium=0.4, few=0.3, all=0.4),
        "<mam>": _figures(many=0.75, medium=0.6, few=None, all=0.7),
    },
    "rows": [{"method": "linear", "seed": 3}, {"method": "<mam>", "seed": 3}],
    "runs": "",
}


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def _tags(page, name):
    parser = _Tags()
    parser.feed(page)
    return [attributes for tag, attributes in parser.found if tag == name]


def _render(curves=()):
    grids = [Grid("title", ("method", "a"), [("linear", "1"), ("<mam>", "2")])]
    return report_page.render(_RESULTS, grids, curves, "data:image/png;base64,AA==", "recall 1")


def test_bars_are_as_high_as_figures_and_a_missing_one_has_none():
    bars = _tags(_render(), "rect")
    assert [float(bar["height"]) for bar in bars] == [90, 135, 72, 108, 54, 72, 126]
    assert all(float(bar["y"]) + float(bar["height"]) == 180 for bar in bars)


def test_names_are_escaped_and_nothing_is_loaded():
    page = _render()
    assert "<mam>" not in page and page.count("&lt;mam&gt;") >= 2
    assert not _tags(page, "script") and not _tags(page, "link")
    assert [image["src"] for image in _tags(page, "img")] == ["data:image/png;base64,AA=="]


def test_curves_go_from_corner_to_corner():
    curves = [Curve("linear", [{"step": 10, "loss": 4.0, "val_all": 0.1}, {"step": 30, "loss": 1.0, "val_all": 0.5}])]
    loss, val = _tags(_render(curves), "polyline")
    assert loss["points"] == "44.0,20.0 412.0,196.0"
    assert val["points"] == "44.0,196.0 412.0,20.0"


def test_curves_are_read_of_the_first_seed_where_they_are(tmp_path):
    folder = tmp_path / "linear/seed-3"
    folder.mkdir(parents=True)
    points = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    assert report_page.read_curves({**_RESULTS, "runs": str(tmp_path)}) == [Curve("linear", points)]


def test_warnings_are_at_the_top_and_escaped():
    grids = [Grid("title", ("method", "a"), [("linear", "1")])]
    results = {**_RESULTS, "warnings": ["val and <test> disagree"]}
    page = report_page.render(results, grids, (), "", "")
    assert "<strong>Warning:</strong> val and &lt;test&gt; disagree</p>" in page
    assert page.index("Warning:") < page.index("Test accuracy by shots")
    assert "Warning:" not in _render()
