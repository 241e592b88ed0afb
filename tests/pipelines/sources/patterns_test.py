"""Patterns with wildcards and braces, and the files that match them, on disk and in a store."""

import os

import fsspec
import pytest

from configs.base import Source
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.sources import patterns
from tests.pipelines.storage_test import ODD_NAMES


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


@pytest.mark.parametrize("name", [*ODD_NAMES, "x]", "[]", "{a,b}", "{1..3}"])
def test_only_what_is_below_the_data_folder_is_a_pattern(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / name
    _touch(str(data), "a0.tar", "a1.tar", "b/c.tar", "d,e.tar", "f{1}.tar")
    _touch(str(tmp_path), "1/a0.tar", "a/a0.tar", "a 1 b/a0.tar")
    expected = {
        "a?.tar": ["a0.tar", "a1.tar"],
        "a{0..1}.tar,b/*": ["a0.tar", "a1.tar", "b/c.tar"],
        "a1.tar": ["a1.tar"],
        "**/c.tar": ["b/c.tar"],
        "d[,]e.tar, f[{]1[}].tar": ["d,e.tar", "f{1}.tar"],
        "[d]*": ["d,e.tar"],
    }
    for folder in (str(data), name):
        for pattern, names in expected.items():
            whole = sources.resolve(Source(path=pattern), folder)
            found = [file.uri for file in patterns.files(whole.path)]
            assert [os.path.abspath(uri) for uri in found] == sorted(f"{data}/{name}" for name in names), pattern
        with pytest.raises(UserError) as error:
            patterns.files(sources.resolve(Source(path="none*"), folder).path)
        assert str(error.value).startswith(f"{folder}/none*: matches no file")
        with pytest.raises(UserError) as error:
            patterns.files(sources.resolve(Source(path="none"), folder).path)
        assert str(error.value).startswith(f"{folder}/none: no such file")


def test_the_folder_of_images_and_second_files_are_literal():
    for data in ("/d[1]", "/d,{a,b}*"):
        folder = sources.resolve(Source("image_folder", "a,b[1]{2,3}"), data)
        assert folder.path == folder.image_root == f"{data}/a,b[1]{{2,3}}"
        source = sources.resolve(Source("image_list", "x.txt", "r[*]", "m{1,2}", "n,*"), data)
        assert (source.image_root, source.metadata, source.class_names) == (
            f"{data}/r[*]",
            f"{data}/m{{1,2}}",
            f"{data}/n,*",
        )
    assert sources.resolve(Source(path="a/*.tar, b"), "/data").path == "/data/a/*.tar,/data/b"
    assert sources.resolve(Source("yfcc15m", "x", metadata="m-{0..1}"), "/d[1]").metadata == "/d[[]1]/m-{0..1}"
