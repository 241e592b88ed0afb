"""What was removed stays removed, whatever is lost or damaged, and what was not found is said."""

import hashlib
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Encoders, Filters
from index import Index, build, neighbors, search
from pipelines import embed, generation
from tests import slow
from tests.finished import Finished
from tests.index.vector_line import BEAM, DIM, Line, finished_line
from tests.world import unit

# URLs of a memory, and other forms of the same (RFC 3986, 6.2.2 and 6.2.3).
FORMS = [
    ("https://img.example/a.jpg", "https://img.example/a.jpg"),
    ("https://IMG.example/b.jpg", "https://img.example/b.jpg"),
    ("https://img.example/caf%C3%A9.jpg", "https://img.example/caf\u00e9.jpg"),
    ("https://img.example/d%20e.jpg", "https://img.example/d e.jpg"),
    ("https://img.example:443/f.jpg", "https://img.example/f.jpg"),
    ("https://img.example/g.jpg", "https://img.example/g.jpg#top"),
    ("https://img.example/x/../h.jpg", "https://img.example/h.jpg"),
    ("https://img.example/i%2d.jpg", "https://img.example/i-.jpg"),
    ("http://img.example/j.jpg", "HTTP://img.example:80/j.jpg"),
]
KEPT = "https://img.example/keep.jpg"


def put_urls(line: Line, name: str, urls: list[str]) -> None:
    keys = unit(len(urls), DIM, seed=700 + int(name))
    line.rows[name] = list(zip(keys, urls, strict=True))
    np.save(line.root / f"data/img_emb_{name}.npy", keys)
    pq.write_table(pa.table({"url": urls, "caption": urls}), line.root / f"data/metadata/metadata_{name}.parquet")


def words(capsys) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished[Line]:
    return finished_line(tmp_path_factory.mktemp("takedowns"), with_queries=True)


@pytest.fixture
def line(finished) -> Line:
    return finished.restored()


def argv(line: Line, *flags: str) -> list[str]:
    return [f"--config={line.config_file}", *BEAM, *flags]


@pytest.mark.parametrize("swapped", slow.after(1, [True, False]))
def test_urls_are_found_in_all_their_forms(tmp_path, capsys, swapped):
    line = Line(tmp_path)
    ours, theirs = zip(*(pair[::-1] if swapped else pair for pair in FORMS), strict=True)
    put_urls(line, "0000", [*ours, KEPT])
    line.put("0001", 12)
    assert line.run() == 0
    capsys.readouterr()
    assert line.run(line.listed(*theirs, "http://not/there", 1 << 50)) == 0
    assert f"2 of 11 entries met no row: {1 << 50}, http://not/there" in words(capsys)
    line.check(set(ours))
    # One that comes later, in a third form.
    later = [url.replace("img.example", "img%2Eexample") for url in ours]
    put_urls(line, "0002", [*later, "http://other/"])
    line.rows["0002"] = line.rows["0002"][-1:]
    assert line.run() == 0
    line.check(set(ours))


def test_a_url_that_comes_with_the_same_command_takes_the_copies_of_its_image_along(line, capsys):
    url, copy, other = (f"https://img.example/{name}.jpg" for name in ("late", "copy", "other"))
    put_urls(line, "0009", [url, copy, other])
    keys = np.load(line.root / "data/img_emb_0009.npy")
    keys[1] = keys[0]
    np.save(line.root / "data/img_emb_0009.npy", keys)
    capsys.readouterr()
    assert line.run(line.listed(url, "http://not/there")) == 0
    assert "not found 1 of 2 entries met no row: http://not/there" in words(capsys)
    line.rows["0009"] = line.rows["0009"][2:]
    line.check({url, copy})


@pytest.mark.parametrize("when", slow.after(1, ["after", "before"]))
def test_opt_out_lists_find_urls_in_all_their_forms_and_name_what_they_do_not_find(tmp_path, capsys, when):
    line = Line(tmp_path)
    ours, theirs = zip(*FORMS, strict=True)
    put_urls(line, "0000", [*ours, KEPT])
    line.put("0001", 12)
    (tmp_path / "data/optout.txt").write_text("".join(f"{url}\n" for url in [*theirs, "http://no/1", "http://no/2"]))
    if when == "after":
        assert line.run() == 0
    capsys.readouterr()
    line.config = line.config.__class__(**{**vars(line.config), "filters": Filters(leakage=0.0, opt_out="optout.txt")})
    assert line.run() == 0
    assert "opt-out list 2 of 11 entries met no row: http://no/1, http://no/2" in words(capsys)
    line.check(set(ours))


def lose(line: Line, how: str) -> None:
    path, copy = line.root / "out/removed.txt", line.root / "out/removed.txt.copy"
    data = path.read_bytes()
    match how:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "an entry deleted":
            path.write_bytes(b"\n".join(data.splitlines()[:-1]) + b"\n")
        case "both deleted":
            path.unlink()
            copy.unlink()
        case "both emptied":
            path.write_bytes(b"")
            copy.write_bytes(b"")


_LOSSES = ("both deleted", "an entry deleted", "deleted", "emptied", "cut", "both emptied")
_LOST = [("reindex", "both deleted"), ("embed", "an entry deleted")]
_LOST += [(name, how) for name in ("reindex", "embed") for how in _LOSSES if (name, how) not in _LOST]


@pytest.mark.parametrize(("name", "how"), slow.after(2, _LOST))
def test_a_list_that_lost_entries_brings_no_image_back(line, capsys, how, name):
    gone = {line.rows["0000"][place][1] for place in (3, 5)}
    assert line.run(line.listed(*gone)) == 0
    whole = (line.root / "out/removed.txt").read_bytes()
    lose(line, how)
    capsys.readouterr()
    command = {"reindex": line.run, "embed": lambda: embed.main(argv(line))}[name]
    code = command()
    line.check(gone)
    assert code == (0 if how == "deleted" else 2)
    if code:
        error = words(capsys)
        assert "removed.txt: " in error and "--forget_removed" in error
        if how.startswith("both"):
            assert line.run("--forget_removed=all", line.listed(*gone)) == 0
        else:
            (line.root / "out/removed.txt").unlink()
            assert command() == 0
    line.check(gone)
    assert how.startswith("both") or (line.root / "out/removed.txt").read_bytes() == whole


def test_images_are_allowed_again_by_command(line, capsys):
    urls = [line.rows["0000"][place][1] for place in (3, 5)]
    assert line.run(line.listed(*urls)) == 0
    capsys.readouterr()
    assert line.run(line.listed(urls[0]).replace("--remove", "--forget_removed")) == 0
    assert "2 entries taken off" in words(capsys)
    line.check({urls[1]})
    assert line.run("--forget_removed=all") == 0
    line.check()


@pytest.mark.parametrize("commands", slow.after(1, ["one after the other", "at once"]))
def test_an_image_whose_source_shard_is_gone_is_proven_gone_too(line, capsys, commands):
    url, path = line.rows["0001"][3][1], line.root / "out/memory/img_emb_0001.parquet"
    vector = pq.read_table(path)["key"][3].values.to_numpy()
    flags = [line.listed(url)]
    if commands == "one after the other":
        assert line.run(*flags) == 0
        flags = []
    line.take("0001")
    if not flags:
        assert line.run() == 0
    assert line.vector_files(vector)
    # A trace that only the deleted row's vector tells of.
    left = line.root / "out/index/left.bin"
    left.write_bytes(b"x" + vector.tobytes())
    assert line.run(*flags, "--compact") == 2
    assert "left.bin: still has the vector of a removed row" in words(capsys)
    assert not path.exists()
    left.unlink()
    assert line.run("--compact") == 0
    assert "none of 1 deleted rows, nor of their 1 vectors in tables" in words(capsys)
    assert not line.vector_files(vector) and not (line.root / "out/memory/_removing").exists()
    line.check({url})


def test_no_bit_of_a_gone_shard_hides_a_row(line, capsys):
    url, path = line.rows["0001"][3][1], line.root / "out/memory/img_emb_0001.parquet"
    assert line.run(line.listed(url)) == 0
    line.take("0001")
    assert line.run() == 0
    whole = flip(path, path.stat().st_size // 2)
    capsys.readouterr()
    assert line.run("--compact") == 2
    assert "img_emb_0001.parquet: is damaged" in words(capsys) and path.exists()
    path.write_bytes(whole)
    assert line.run("--compact") == 0
    assert not path.exists()
    line.check({url})


def flip(path: pathlib.Path, place: int) -> bytes:
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[place] ^= 4
    path.write_bytes(changed)
    return whole


@pytest.mark.parametrize("command", ["remove", "compact", "build"])
def test_no_bit_of_a_shard_hides_a_row(line, capsys, command):
    url = line.rows["0000"][3][1]
    path = line.root / "out/memory/img_emb_0000.parquet"
    if command == "compact":
        assert line.run(line.listed(url)) == 0
    if command == "build":
        line.put("0002", 9)
        assert embed.main(argv(line)) == 0
        for file in sorted((line.root / "out/index").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    size = path.stat().st_size
    for place in (size - 9, size - 40, size - 300, size // 2, 40):
        whole = flip(path, place)
        capsys.readouterr()
        code = {
            "remove": lambda: line.run(line.listed(url)),
            "compact": lambda: line.run("--compact"),
            "build": lambda: build.main(argv(line)),
        }[command]()
        assert code == 2 and "img_emb_0000.parquet: " in capsys.readouterr().err
        path.write_bytes(whole)
    if command == "build":
        assert build.main(argv(line)) == 0
        return line.check()
    assert line.run(line.listed(url), "--compact") == 0
    line.check({url})


@pytest.mark.parametrize("file", ["memory/img_emb_0001.parquet", "index/builds/*/*/rows.parquet"])
def test_a_damaged_file_proves_nothing(line, capsys, file):
    assert line.run(line.listed(line.rows["0000"][3][1]), "--compact") == 0
    path = next((line.root / "out").glob(file))
    flip(path, path.stat().st_size - 40)
    capsys.readouterr()
    assert line.run("--compact") == 2
    error = words(capsys)
    stage = {"memory": embed, "index": build}[file.split("/")[0]]
    assert (
        f"{path.name}: is damaged" in error and f"remove it and run web-memory {stage.__name__.split('.')[-1]}" in error
    )
    path.unlink()
    assert stage.main(argv(line)) == 0
    assert line.run("--compact") == 0


def test_what_the_proof_leaves_out_is_named(line, capsys):
    assert neighbors.main(argv(line)) == 0
    memory = line.root / "out/neighbors"
    table = pa.concat_tables(pq.read_table(path) for path in memory.glob("versions/*/memory/*.parquet"))
    url = table["url"][0].as_py()
    for name in ("runs/tables/0/key.arrow", "gallery.png", "report/index.html"):
        path = line.root / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    capsys.readouterr()
    assert line.run(line.listed(url), "--compact") == 0
    shown = words(capsys)
    assert "files still have removed rows; run web-memory neighbors" in shown
    assert "runs/tables (delete it; web-memory train writes it again); report (" in shown and "gallery.png" in shown
    assert neighbors.main(argv(line)) == 0
    capsys.readouterr()
    assert line.run("--compact") == 0
    assert "still have removed rows" not in words(capsys)


@pytest.mark.parametrize(
    "how", slow.after(1, ["deleted", "[]", "null", "{}", '{"generation": "gen-0123456789abcdef"}', "\0"])
)
@pytest.mark.parametrize("compacted", slow.after(1, [False, True]))
def test_a_lost_pointer_brings_no_generation_back(line, capsys, how, compacted):
    gone, other = {line.rows["0000"][3][1]}, Encoders("precomputed:two", (), ())
    assert line.run(encoders=other) == 0
    assert line.run(line.listed(*gone), *(["--compact"] if compacted else []), encoders=other) == 0
    name, path = line.in_use.generation, line.root / "out/generation.json"
    assert name
    path.unlink()
    if how != "deleted":
        path.write_text(how)
    for command in (embed, build, neighbors, search):
        capsys.readouterr()
        flags = ["--id=0"] if command is search else BEAM
        assert command.main([f"--config={line.config_file}", *flags]) == 2
        error = words(capsys)
        assert "generation.json: " in error and "run web-memory reindex with the encoders that you use" in error
    assert (line.root / "out/memory").exists() != compacted
    assert line.run(encoders=other) == 0
    assert line.in_use.generation == name
    line.check(gone)


def test_the_pointer_is_there_before_a_second_generation_is(line, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            generation,
            "switch",
            lambda places, switch=generation.switch: switch(places) if not places.generation else stopped(),
        )
        assert line.run(encoders=Encoders("precomputed:two", (), ())) == 130
    assert list((line.root / "out").glob("gen-*")) and line.in_use.generation == ""
    line.check()


def test_the_removal_is_proven_before_success_is_claimed(line, monkeypatch, capsys):
    url = line.rows["0000"][3][1]
    monkeypatch.setattr(Index, "removed", lambda self, number: np.empty(0, np.int64))
    assert line.run(line.listed(url)) == 2
    assert "still finds row 3, which is removed" in words(capsys)


def test_a_list_of_digests_of_urls_as_they_were(line):
    url = line.rows["0000"][3][1]
    assert line.run(line.listed(hashlib.sha256(url.encode()).hexdigest())) == 0
    line.check({url})
    selection = json.loads((line.root / "out/memory/_dropped/selection.json").read_text())
    assert selection["identity"]["removed"]["entries"] == 2
