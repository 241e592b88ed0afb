import bz2
import gzip
import hashlib
import json
import lzma
import os
import re

import pytest
import zstandard

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
        (("", "d/a"), "d/a"),
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
    assert storage.files(f"{root}/deep", "") == []
    with storage.atomic_write(path) as file:
        file.write(b"whole")
    assert storage.open_read(path).read() == b"whole"
    assert storage.sha256(path) == hashlib.sha256(b"whole").hexdigest()
    assert storage.found(path).size_bytes == 5


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


def test_a_folder_does_not_replace_a_file_or_a_link(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for name, what in (("file", "a file"), ("link", "a link"), ("broken", "a link")):
        sentence = f"^{tmp_path}/{name}: is {what}, and a folder would take its place; choose another path$"
        with pytest.raises(UserError, match=sentence), storage.atomic_folder(f"{tmp_path}/{name}"):
            raise AssertionError
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "mine"
    with storage.atomic_write("memory://bucket/file") as file:
        file.write(b"mine")
    with pytest.raises(UserError, match="is a file, and"), storage.atomic_folder("memory://bucket/file"):
        raise AssertionError
    assert storage.open_read("memory://bucket/file").read() == b"mine"
    storage.remove("memory://bucket")


def test_left_overs_of_killed_writers_are_not_seen_and_can_be_removed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.parquet.tmp-123").write_text("half")
    (tmp_path / "a" / "x.parquet").write_text("whole")
    (tmp_path / "shard.tmp-9").mkdir()
    (tmp_path / "shard.tmp-9" / "inner").write_text("half")
    assert storage.files(str(tmp_path / "a"), "") == [str(tmp_path / "a" / "x.parquet")]
    storage.remove_temporaries(str(tmp_path))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["a", "a/x.parquet"]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match="nothing.json: no such file"):
        storage.read_json(str(tmp_path / "nothing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="broken.json: is not valid JSON"):
        storage.read_json(str(tmp_path / "broken.json"))
    with pytest.raises(UserError, match="no storage driver"):
        storage.open_read("nonsense://x")


def test_folders_are_listed_whatever_their_names(root):
    for name in ("b.json", "a.json", "c.txt", "x.json.tmp-1"):
        storage.write_json(f"{root}/odd[1]*.tmp-/{name}", 1)
    storage.write_json(f"{root}/odd[1]*.tmp-/deeper/d.json", 1)
    found = storage.files(f"{root}/odd[1]*.tmp-", ".json")
    assert [storage.name(path) for path in found] == ["a.json", "b.json"]
    assert [storage.read_json(path) for path in found] == [1, 1]
    assert storage.files(f"{root}/nowhere", ".json") == []


def _touch(root, *names):
    for name in names:
        with storage.atomic_write(f"{root}/{name}") as file:
            file.write(name.encode())


def test_an_etag_changes_with_the_file(root):
    _touch(root, "x")
    first = storage.found(f"{root}/x").etag
    assert storage.found(f"{root}/x").etag == first
    _touch(root, "x")
    second = storage.found(f"{root}/x").etag
    assert second != first
    if "://" not in root:
        os.utime(f"{root}/x", ns=(1, 1))
        assert storage.found(f"{root}/x").etag not in (first, second)
    assert storage.found(f"{root}/y") is None


def test_folders_and_links_among_entries(root):
    _touch(root, "b/x", "a", "c/y")
    expected = [storage.Entry("a", "file"), storage.Entry("b", "folder"), storage.Entry("c", "folder")]
    assert storage.entries(root) == expected
    assert storage.entries(f"{root}/nowhere") == []
    if "://" not in root:
        os.symlink(f"{root}/b", f"{root}/l")
        os.symlink(f"{root}/a", f"{root}/m")
        os.symlink(f"{root}/nothing", f"{root}/n")
        kinds = [(entry.name, entry.kind) for entry in storage.entries(root)[3:]]
        assert kinds == [("l", "link"), ("m", "file"), ("n", "file")]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_what_is_compressed_is_unpacked_or_an_error(root, suffix):
    data = bytes(range(256)) * 2000 + os.urandom(5000)
    packed = _pack(suffix, data[:9000]) + _pack(suffix, data[9000:])
    for size, whole in [(len(packed), True), (len(packed) - 5000, False), (len(packed) - 1, False)]:
        with storage.atomic_write(f"{root}/x{suffix}") as file:
            file.write(packed[:size])
        with storage.open_decompressed(f"{root}/x{suffix}") as file:
            if whole:
                assert file.read() == data
            else:
                with pytest.raises(storage.BROKEN_STREAM):
                    file.read()


def _pack(suffix, data):
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    return packers[suffix](data)


def test_files_of_this_machine_have_a_path(tmp_path):
    assert storage.local_path(str(tmp_path)) == storage.local_path(f"file://{tmp_path}") == str(tmp_path)
    assert storage.local_path("memory://x") is None


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compression_is_recognised_by_the_first_bytes(root, suffix):
    for name, data in (("list.txt", b"cat/0.png 0\n"), ("00000.tar", bytes(1024)), ("odd.gz", b"z" * 9), ("none", b"")):
        with storage.atomic_write(f"{root}/{name}") as file:
            file.write(_pack(suffix, data))
        with storage.open_decompressed(f"{root}/{name}") as file:
            assert file.read() == data


def test_what_only_begins_like_a_compression_is_left_as_it_is(root):
    for data in (b"", b"B", b"BZh9 is a postcode", b"x^2 + 1", b"\x1f\x8b", b"(\xb5/", b"plain"):
        with storage.atomic_write(f"{root}/x.txt") as file:
            file.write(data)
        with storage.open_decompressed(f"{root}/x.txt") as file:
            assert file.read() == data


ODD_NAMES = [
    "a [1] b",
    "a,b",
    "a::b",
    "simplecache::x",
    "back\\slash",
    "100%41 {0..3}{x,y}",
    "#1?q=*&[!a]",
    "[z-a]{",
    "~x",
    "file:x",
    "local:x",
    "C:",
    "a:b",
    "caf\u00e9 \u2028 \U0001f600",
    "two\nlines",
    " begins and ends ",
    "..x..",
    "$HOME",
    "'quoted\"",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_character_of_a_path_is_literal(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decoy").mkdir()
    for root in (f"{tmp_path}/{name}", name):
        storage.write_json(storage.join(root, "deep", name, "x.json"), [root])
        assert storage.read_json(f"{root}/deep/{name}/x.json") == [root]
        assert (tmp_path / name / "deep" / name / "x.json").is_file()
        assert storage.exists(root) and storage.found(f"{root}/deep/{name}/x.json")
        assert storage.files(f"{root}/deep/{name}", ".json") == [f"{root}/deep/{name}/x.json"]
        assert storage.local_path(root) == str(tmp_path / name)
        with storage.atomic_folder(f"{root}/folder") as temporary, open(f"{temporary}/y", "w") as file:
            file.write("y")
        storage.copy(f"{root}/folder/y", f"{root}/z")
        storage.remove(f"{root}/folder")
        storage.remove_temporaries(root)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["deep", "z"]
        storage.remove(root)
        assert [path.name for path in tmp_path.iterdir()] == ["decoy"]


def test_urls_are_literal_too():
    for root in ("memory://odd[1]*", "memory://a,b", "memory://a%41#?"):
        storage.write_json(f"{root}/x.json", root)
        assert storage.read_json(f"{root}/x.json") == root
        assert storage.files(root, ".json") == [f"{root}/x.json"]
        storage.remove(root)
        assert not storage.exists(f"{root}/x.json")
    assert storage.is_url("s3+v-1.x://a") and not storage.is_url("C://a") and not storage.is_url("a/b://c")


def test_the_home_folder_is_the_only_abbreviation(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.local_path("~/x") == f"{tmp_path}/x"
    assert storage.local_path("~root") == f"{os.getcwd()}/~root"
    assert storage.local_path(".") == storage.local_path("") == os.getcwd() and storage.local_path("/") == "/"
    assert storage.local_path("./x/") == f"{os.getcwd()}/x"


@pytest.mark.parametrize("path", ["a", "a/b.c", "..a", "a..", "...", "é/ü", "a b", "ab:c"])
def test_paths_inside_a_folder(path):
    assert storage.inside("f", path) == f"f/{path}"
    assert storage.inside("memory://x/", path) == f"memory://x/{path}"


_OUTSIDE = (
    "",
    "/",
    "/a",
    "..",
    "a/..",
    "../a",
    "a/../../b",
    "a//b",
    "./a",
    "a/",
    "a\\b",
    "..\\b",
    "a\0",
    "C:/x",
    "c:a",
)


@pytest.mark.parametrize("path", [*_OUTSIDE, "a::b", "http://x", "memory://x", None, 3, ["a"]])
def test_paths_that_lead_out_of_a_folder(path):
    with pytest.raises(UserError, match="f: a file there names .*, which is not in that folder"):
        storage.inside("f", path)


def test_an_object_knows_when_it_has_changed(root):
    path, value = f"{root}/x.json", {"b": [1, 2.5, None], "a": {"é": "\ud800"}}
    storage.write_json(path, value)
    assert storage.read_json(path, sealed=True) == value
    with storage.open_read(path) as file:
        data = file.read()
    parsed = json.loads(data)
    # Anyone can check it: the SHA-256 of the other entries as compact JSON with sorted keys.
    rest = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    assert parsed["sha256"] == hashlib.sha256(rest).hexdigest() and list(parsed) == ["a", "b", "sha256"]
    harmless = 0
    for bit in range(8 * len(data)):
        with storage.atomic_write(path) as file:
            file.write(data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :])
        try:
            assert storage.read_json(path, sealed=True) == value
            harmless += 1
        except UserError as error:
            assert str(error).startswith(path) and str(error).count("\n") == 0
    assert harmless < 60  # white space, and the case of hexadecimal digits


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{}", '{"a": 1}', "[" * 100_000, "", "\x00"])
def test_what_has_no_seal_is_refused_where_one_is_needed(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x.json: is .+; do this") as error:
        storage.read_json(str(tmp_path / "x.json"), "do this", sealed=True)
    assert "\n" not in str(error.value)


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_marker(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace

    def of(descriptor):
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def named(path):
        return re.sub(r"\.tmp-\w+", ".tmp", str(path).replace(str(tmp_path), "")) or "/"

    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(("sync", named(of(file)))), sync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("rename", named(b))), replace(a, b)))
    with storage.atomic_write(f"{tmp_path}/data") as file:
        file.write(b"x")
    with storage.atomic_folder(f"{tmp_path}/folder") as folder:
        (tmp_path / folder / "inner").mkdir()
        (tmp_path / folder / "inner/y").write_text("y")
    storage.write_json(f"{tmp_path}/done/marker.json", {})
    folder = [("sync", f"/folder.tmp{place}") for place in ("/inner/y", "/inner", "")]
    assert calls == [
        *[("sync", "/data.tmp"), ("rename", "/data"), ("sync", "/")],
        *[*folder, ("rename", "/folder"), ("sync", "/")],
        *[("sync", "/done/marker.json.tmp"), ("rename", "/done/marker.json"), ("sync", "/done")],
    ]
