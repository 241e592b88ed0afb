"""Lists of images."""

import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Sample

_EMBED = Embed(max_image_bytes=1000, list_shard_rows=2)


def _list_source(tmp_path, text):
    (tmp_path / "Set_train.txt").write_text(text)
    return Source(format="image_list", path="Set_train.txt", image_root="images")


def _read_list(tmp_path, text):
    shards = sources.plan(_list_source(tmp_path, text), str(tmp_path), _EMBED)
    return shards, [item for shard in shards for item in sources.read(shard, _EMBED)]


def test_lists_are_cut_into_shards_and_keep_their_order(tmp_path):
    (tmp_path / "images" / "a b").mkdir(parents=True)
    for name in ("0.jpg", "a b/1.jpg", "2.jpg"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    shards, found = _read_list(tmp_path, "0.jpg 5\na b/1.jpg 0\n2.jpg 12\n")
    assert [(s.name, s.first_row, s.rows) for s in shards] == [("Set_train-00000", 0, 2), ("Set_train-00001", 2, 1)]
    assert found == [
        Sample("0.jpg", b"0.jpg", label=5),
        Sample("a b/1.jpg", b"a b/1.jpg", label=0),
        Sample("2.jpg", b"2.jpg", label=12),
    ]


def test_list_rows_that_cannot_be_read_become_rejects(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "images" / "large.jpg").write_bytes(b"x" * 1001)
    outside = ["../secret.jpg", f"{tmp_path}/secret.jpg", f"file://{tmp_path}/secret.jpg", "simplecache::x.jpg"]
    _, found = _read_list(tmp_path, "".join(f"{name} 1\n" for name in ["gone.jpg", *outside, "large.jpg"]))
    expected = ["MissingImage", *["PathOutsideRoot"] * 4, "TooLarge"]
    assert [item.error_type for item in found] == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.jpg 0\nb.jpg\n", "line 2: must be `relative/path label`, found 'b.jpg'"),
        ("a.jpg -1\n", "line 1"),
        ("a.jpg 2147483648\n", "line 1"),
        ("a.jpg x\n", "line 1"),
        ("", "is empty"),
    ],
)
def test_a_wrong_list_names_file_and_line(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        sources.plan(_list_source(tmp_path, text), str(tmp_path), _EMBED)


def test_planning_errors(tmp_path):
    with pytest.raises(UserError, match="matches no file"):
        sources.plan(Source(path="*.tar"), str(tmp_path), _EMBED)
    with pytest.raises(UserError, match="did you mean 'img2dataset'"):
        sources.plan(Source(format="img2datset", path="*.tar"), str(tmp_path), _EMBED)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").write_bytes(b"")
    with pytest.raises(UserError, match="same name"):
        sources.plan(Source(path="*/*.tar"), str(tmp_path), _EMBED)
