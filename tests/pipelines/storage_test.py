import hashlib
import os
import zipfile

import pytest

from pipelines import storage
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a", "b"), "a/b"),
        (("a/", "b", ""), "a/b"),
        (("a", "/b"), "/b"),
        (("gs://x", "b"), "gs://x/b"),
        (("a", "s3://x/b"), "s3://x/b"),
    ],
)
def test_join(parts, expected):
    assert storage.join(*parts) == expected


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_a_file_appears_only_when_it_is_whole(root):
    path = f"{root}/deep/file"
    with pytest.raises(RuntimeError), storage.atomic_write(path) as file:
        file.write(b"half")
        assert not storage.exists(path)
        raise RuntimeError
    assert not storage.exists(path)
    assert storage.glob(f"{root}/deep/*") == []
    with storage.atomic_write(path) as file:
        file.write(b"whole")
    assert storage.open_read(path).read() == b"whole"
    assert storage.sha256(path) == hashlib.sha256(b"whole").hexdigest()
    assert storage.size_bytes(path) == 5


def test_a_failed_rewrite_leaves_the_old_file(root):
    path = f"{root}/file"
    storage.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), storage.atomic_write(path):
        raise RuntimeError
    assert storage.read_json(path) == {"a": 1}


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), storage.atomic_folder(str(target)) as temporary:
        (tmp_path / temporary / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with storage.atomic_folder(str(target)) as temporary:
            (tmp_path / temporary / "x").write_text(text)
        assert (target / "x").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_left_overs_of_killed_writers_are_not_seen_and_can_be_removed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.parquet.tmp-123").write_text("half")
    (tmp_path / "a" / "x.parquet").write_text("whole")
    (tmp_path / "shard.tmp-9").mkdir()
    (tmp_path / "shard.tmp-9" / "inner").write_text("half")
    assert storage.glob(str(tmp_path / "a" / "*")) == [str(tmp_path / "a" / "x.parquet")]
    storage.remove_temporaries(str(tmp_path))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["a", "a/x.parquet"]


def test_relative_globs_stay_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "d" / name).write_text("")
    assert storage.glob("d/*") == ["d/a", "d/b"]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match="nothing.json: no such file"):
        storage.read_json(str(tmp_path / "nothing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="broken.json: is not valid JSON"):
        storage.read_json(str(tmp_path / "broken.json"))
    with pytest.raises(UserError, match="no storage driver"):
        storage.open_read("nonsense://x")


def test_read_image_from_folder_and_zip(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"in folder")
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as archive:
        archive.writestr("a/x.jpg", b"in zip")
    assert storage.read_image(str(tmp_path), "x.jpg", 100) == b"in folder"
    assert storage.read_image(str(tmp_path), "0.zip/a/x.jpg", 100) == b"in zip"
    with pytest.raises(UserError, match="no member 'y.jpg'"):
        storage.read_image(str(tmp_path), "0.zip/y.jpg", 100)
    for member in ("x.jpg", "0.zip/a/x.jpg"):
        with pytest.raises(UserError, match="larger than 3 bytes"):
            storage.read_image(str(tmp_path), member, 3)


def test_folders_are_listed_whatever_their_names(root):
    for name in ("b.json", "a.json", "c.txt", "x.json.tmp-1"):
        storage.write_json(f"{root}/odd[1]*.tmp-/{name}", 1)
    storage.write_json(f"{root}/odd[1]*.tmp-/deeper/d.json", 1)
    found = storage.files(f"{root}/odd[1]*.tmp-", ".json")
    assert [storage.name(path) for path in found] == ["a.json", "b.json"]
    assert [storage.read_json(path) for path in found] == [1, 1]
    assert storage.files(f"{root}/nowhere", ".json") == []


def test_an_etag_changes_with_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("a")
    first = storage.etag(str(path))
    assert storage.etag(str(path)) == first
    os.utime(path, ns=(1, 1))
    assert storage.etag(str(path)) != first
