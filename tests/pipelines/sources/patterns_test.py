"""Patterns with wildcards and braces, and the files that match them, on disk and in a store."""

import fsspec
import pytest

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import patterns


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def _uris(path):
    return [file.uri for file in patterns.glob(path)]


def _touch(root, *names):
    for name in names:
        with storage.atomic_write(f"{root}/{name}") as file:
            file.write(name.encode())


def test_patterns_find_files_and_no_folders(root):
    _touch(root, "a/00000.tar", "a/00001.tar", "a/00002.tar", "a/x.txt", "a/deep/00003.tar", "b/00000.tar", "b/y.txt")
    expected = {
        "a/*.tar": ["a/00000.tar", "a/00001.tar", "a/00002.tar"],
        "a/{00000..00001}.tar": ["a/00000.tar", "a/00001.tar"],
        "{b,a}/00000.tar": ["a/00000.tar", "b/00000.tar"],
        "{a,b}/*.txt": ["a/x.txt", "b/y.txt"],
        "a/0000[12].tar": ["a/00001.tar", "a/00002.tar"],
        "a/0000?.tar": ["a/00000.tar", "a/00001.tar", "a/00002.tar"],
        "*/y.*": ["b/y.txt"],
        "a/*": ["a/00000.tar", "a/00001.tar", "a/00002.tar", "a/x.txt"],
        "c/*": [],
        "a": [],
    }
    for pattern, names in expected.items():
        assert _uris(f"{root}/{pattern}") == [_whole(root, name) for name in names], pattern


def _whole(root, name):
    return f"{root}/{name}".replace("memory://", "memory:///")


def test_several_patterns_are_separated_by_commas(root):
    _touch(root, "a.txt", "b.txt", "c.csv")
    assert _uris(f"{root}/b.txt, {root}/*.csv,{root}/{{a,b}}.txt") == [
        _whole(root, n) for n in ("a.txt", "b.txt", "c.csv")
    ]
    assert patterns.split("a,{b,c},x[,]y , ,d") == ["a", "{b,c}", "x[,]y", "d"]
    assert patterns.split("") == []


def test_sizes_are_those_of_the_files(root):
    _touch(root, "a.txt", "long.txt")
    assert [(file.size_bytes, bool(file.etag)) for file in patterns.glob(f"{root}/*.txt")] == [(5, True), (8, True)]


def test_a_missing_member_of_braces_is_named(root):
    _touch(root, "a/00000.tar", "a/00002.tar")
    with pytest.raises(storage.MissingFile, match="a/00001.tar: no such file"):
        patterns.glob(f"{root}/a/{{00000..00002}}.tar")
    with pytest.raises(storage.MissingFile, match="nowhere/x: no such file"):
        patterns.glob(f"{root}/a/*,{root}/nowhere/x")
    with pytest.raises(UserError, match="its braces name more than 10,000,000 paths"):
        patterns.glob(f"{root}/{{0..99999999}}.tar")


def test_many_shards_take_few_calls(root, monkeypatch):
    fs, path = fsspec.core.url_to_fs(root)
    calls = []

    def ls(folder, detail=True, **unused):
        calls.append(folder)
        number = folder.rpartition("/")[2]
        return [
            {"name": f"{folder}/{shard:05d}.tar", "type": "file", "size": 1, "etag": f"{number}/{shard}"}
            for shard in range(5000)
        ]

    monkeypatch.setattr(fs, "ls", ls)
    found = patterns.glob(f"{root}/{{0,1}}/{{00000..04999}}.tar")
    assert calls == [f"{path}/0", f"{path}/1"]
    assert len(found) == 10_000 and found[-1].etag == "1/4999"


def test_relative_globs_stay_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "d" / name).write_text("")
    assert _uris("d/*") == ["d/a", "d/b"]
    assert _uris("d/b,d/a") == ["d/a", "d/b"]


def test_files_that_are_not_whole_do_not_match(root):
    _touch(root, "a/x.parquet", "a/x.parquet.tmp-123")
    assert _uris(f"{root}/a/*") == [_whole(root, "a/x.parquet")]


def test_listed_files_change_their_etag_when_they_are_written_again(root):
    _touch(root, "x")
    listed = patterns.glob(f"{root}/*")
    assert patterns.glob(f"{root}/*") == listed
    _touch(root, "x")
    assert patterns.glob(f"{root}/*") != listed
