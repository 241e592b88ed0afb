import sys
import xml.etree.ElementTree as ElementTree

import pytest

from model.reports import plot
from pipelines.errors import UserError

_PANELS = {"all": {"mam": [(50.0, 1.0), (None, None), (60.0, None)], "linear": [(40.0, 0.0)] * 3}}


def _texts(path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("scale", "values"), [("log", ("1/4", "1/2", "1")), ("names", ("a", "b", "c & <d>")), ("linear", ("0", "0.5", "1"))]
)
def test_a_plot_names_its_values_and_methods_and_is_the_same_each_time(tmp_path, scale, values):
    for name in ("a.svg", "b.svg"):
        plot.draw(str(tmp_path / name), "title", "axis", scale, values, _PANELS)
    texts = _texts(tmp_path / "a.svg")
    assert {"title", "axis", "all", "mam", "linear", *values} <= set(texts)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_without_matplotlib_the_person_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"install it by: pip install 'web-memory\[plot\]'"):
        plot.check()
