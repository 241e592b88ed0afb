"""The pages: links and paths that exist, and examples that do what they say."""

import importlib.util
import pathlib
import re
import types

import pytest

from configs.base import Embed, Source
from pipelines import fields, options, sources

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`((?:benchmarks|configs|docs|index|model|pipelines|tests)/[\w/.-]+\.(?:py|md|png))`")
# Modules that the examples of CONTRIBUTING.md would add.
_EXAMPLES = ("mean_key", "json_lines", "x")


def example(page: str, name: str) -> str:
    """Returns the code block of a page that a comment `<!-- example: NAME -->` stands above."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```\n", (ROOT / page).read_text(), re.DOTALL)
    assert found, f"{page} has no example {name}"
    return found[1]


def load(code: str, file: pathlib.Path) -> types.ModuleType:
    """Writes code to a file and imports it from there."""
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _anchors(page: pathlib.Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in _LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), link
        assert not anchor or anchor in _anchors(place), link
    for path in _CODE.findall(text):
        is_of_example = page.name == "CONTRIBUTING.md" and pathlib.Path(path).stem.removesuffix("_test") in _EXAMPLES
        assert (ROOT / path).exists() or is_of_example, path


def test_no_line_of_a_page_is_long():
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert len(line) <= 120 or line.startswith(("|", "    ")), f"{page}:{number}"
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_config_of_the_readme(tmp_path):
    file = tmp_path / "my.py"
    file.write_text(example("README.md", "own-data"))
    config = options.load(str(file))
    fields.check(config)
    assert config.train_set.part == (0.2, 1.0) and config.memory.format == "img2dataset"


def test_a_source_is_added_as_contributing_says(tmp_path, monkeypatch):
    json_lines = load(example("CONTRIBUTING.md", "add-a-source"), tmp_path / "json_lines.py")
    monkeypatch.setitem(sources.LISTS, "json_lines", json_lines.rows)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8a")
    (tmp_path / "list.jsonl").write_text(
        '{"path": "a.jpg", "caption": "a cat", "label": 3, "by": "me"}\n{"path": "b.jpg"}'
    )
    source = Source(format="json_lines", path="list.jsonl", image_root=".")
    (shard,) = sources.plan(source, str(tmp_path), Embed(), str(tmp_path / "listed"))
    sample, reject = sources.read(shard, Embed())
    assert (sample.image, sample.caption, sample.label, sample.metadata) == (b"\xff\xd8a", "a cat", 3, {"by": "me"})
    assert (reject.member, reject.error_type) == ("b.jpg", "MissingImage")
    (tmp_path / "list.jsonl").write_text('{"path": "a.jpg"}\n["a.jpg"]')
    with pytest.raises(Exception, match="list.jsonl, line 2: must be an object with a path"):
        sources.plan(source, str(tmp_path), Embed(), str(tmp_path / "listed"))
