import json

import pytest

from index.store import index_manifest
from pipelines import manifest
from pipelines.errors import UserError

FACTS = {"version": 3, "shards": [{"rows": 4}], "recall": {"k": 5, "mean": 0.5}}


@pytest.fixture
def written(tmp_path):
    """A folder with a manifest, and what was written."""
    folder = str(tmp_path)
    facts = {"config_hash": manifest.claim(folder, "index.build", {"seed": 0}), **FACTS}
    return tmp_path, index_manifest.write(folder, facts, {"queries_per_sec": 7.0})


def test_what_is_written_is_read(written):
    folder, whole = written
    assert index_manifest.exists(str(folder))
    assert index_manifest.read(str(folder)) == whole
    assert whole["metric"] == "dot" and whole["version"] == 3 and whole["rates"] == {"queries_per_sec": 7.0}


def test_rates_are_not_in_the_fingerprint(written):
    folder, whole = written
    facts = {name: value for name, value in whole.items() if name not in ("fingerprint", "rates")}
    again = index_manifest.write(str(folder), facts, {"queries_per_sec": 8.0})
    assert again["fingerprint"] == whole["fingerprint"]
    changed = index_manifest.write(str(folder), {**facts, "version": 4}, {})
    assert changed["fingerprint"] != whole["fingerprint"]


@pytest.mark.parametrize("field", [name for name in ("version", "shards", "recall", "config_hash", "metric")])
def test_changed_or_lost_field(written, field):
    folder, whole = written
    path = folder / "manifest.json"
    for value in (7, None, [{"rows": 5}]):
        path.write_text(json.dumps({**whole, field: value}))
        with pytest.raises(UserError, match="manifest.json: is damaged; remove it and run web-memory build again"):
            index_manifest.read(str(folder))
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != field}))
    with pytest.raises(UserError, match="manifest.json: is damaged"):
        index_manifest.read(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "{}", "\x00"])
def test_what_is_no_manifest(written, text):
    folder, _ = written
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError) as error:
        index_manifest.read(str(folder))
    assert "manifest.json" in str(error.value) and "\n" not in str(error.value)


def rewritten(folder, whole, **changes):
    contents = {name: value for name, value in whole.items() if name not in ("fingerprint", "rates")} | changes
    text = json.dumps({**contents, "rates": {}, "fingerprint": manifest.fingerprint(contents)})
    (folder / "manifest.json").write_text(text)


def test_manifest_of_another_index(written):
    folder, whole = written
    rewritten(folder, whole, config_hash="0123456789abcdef")
    with pytest.raises(UserError, match="belongs to another index than stage.json"):
        index_manifest.read(str(folder))


def test_manifest_of_another_version(written):
    folder, whole = written
    rewritten(folder, whole, schema_version=1)
    with pytest.raises(UserError, match="is of schema_version 1; run web-memory build again"):
        index_manifest.read(str(folder))


def test_folder_that_is_not_finished(tmp_path):
    for stage, action in (
        ("", "run web-memory build, or in Python Index.build(vectors).save(folder)"),
        ("index.build", "run web-memory build, it resumes where it stopped"),
        ("index.array", "build the index again and save it in a new folder"),
    ):
        folder = str(tmp_path / stage)
        if stage:
            manifest.claim(folder, stage, {"seed": 0})
        with pytest.raises(UserError) as raised:
            index_manifest.read(folder)
        assert str(raised.value) == f"{folder}: there is no finished index here; {action}"
        assert not index_manifest.exists(folder)
