import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Encoders
from index import Index, build, reindex
from index.building import rebuild
from index.measure import curve
from pipelines import embed, generation, options, schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.runner import Runner
from pipelines.upkeep import compaction, proof
from tests import slow
from tests.finished import Finished
from tests.index.vector_line import BEAM, DIM, Line, finished_line
from tests.world import REPOSITORY, unit


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished[Line]:
    return finished_line(tmp_path_factory.mktemp("reindex"))


@pytest.fixture
def line(finished) -> Line:
    return finished.restored()


def test_from_nothing_then_nothing_changed(line, capsys):
    line.check()
    assert line.index.version == 1
    capsys.readouterr()
    assert line.run() == 0
    assert "reindex: nothing changed" in capsys.readouterr().out
    assert line.index.version == 1


def test_files_come_change_and_go(line, capsys):
    line.put("0002", 20)
    line.put("0001", 25)
    capsys.readouterr()
    assert line.run() == 0
    output = capsys.readouterr().out
    assert "45 added, 30 removed, 85 now" in output and "recall@5" in output and "2 deltas, 30 tombstones" in output
    line.check()
    line.take("0000")
    assert line.run() == 0
    line.check()
    assert line.run("--compact") == 0
    line.check()
    assert [shard.is_delta for shard in line.index.shards] == [False, False]
    assert sorted(os.listdir(line.root / "out/index/builds")) == ["00004"]


def stored_of(line: Line, name: str) -> list[str]:
    """Paths below the memory that are of a source shard."""
    memory = line.root / "out/memory"
    return sorted(str(path.relative_to(memory)) for path in memory.rglob(f"*{name}*"))


def globbed(line: Line) -> list[str]:
    """URLs of all rows in the files of the memory, whatever its lists say."""
    tables = [pq.read_table(path, columns=["url"]) for path in sorted((line.root / "out/memory").glob("*.parquet"))]
    return [url for table in tables for url in table["url"].to_pylist()]


def test_a_compaction_deletes_what_is_stored_of_a_source_shard_that_is_gone(line, capsys):
    memory, source = line.root / "out/memory", line.root / "data/img_emb_0002.npy"
    line.put("0002", 20)
    vectors, rows = source.read_bytes(), line.rows["0002"]
    assert line.run() == 0
    # Files of someone else, one of them with a name like ours.
    others = [memory / "img_emb_0003.parquet", memory / "notes.txt", memory / "_done/notes.txt"]
    shutil.copy(memory / "img_emb_0001.parquet", others[0])
    for path in others[1:]:
        path.write_text("mine")
    before = {path: path.read_bytes() for path in others}
    ids = {url: i for i, url in line.urls().items()}
    parts = {"_done/img_emb_0002.json"}
    parts |= {f"{folder}img_emb_0002.parquet" for folder in ("_filtered/", "_rejects/", "")}
    line.take("0002")
    # The index in use may be of it until the next one is published, and it may come back.
    for command in (lambda: embed.main([f"--config={line.config_file}", *BEAM]), line.run):
        assert command() == 0
        assert parts <= set(stored_of(line, "0002"))
    capsys.readouterr()
    assert line.run("--compact") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "reindex: compacted" in output
    assert "deleted 0 rows of the memory; 20 rows of 1 shard whose source is gone" in output
    assert stored_of(line, "0002") == []
    assert {path: path.read_bytes() for path in others} == before
    others[0].unlink()
    assert len(globbed(line)) == 70 and sorted(globbed(line)) == sorted(line.urls().values())
    line.check()
    assert line.run("--compact") == 0
    assert "already compact" in capsys.readouterr().out
    # The same file again: its rows have the ids that they had.
    source.write_bytes(vectors)
    line.rows["0002"] = rows
    assert line.run() == 0
    line.check()
    assert {url: i for i, url in line.urls().items()} == ids


def test_a_compaction_deletes_a_gone_shard_that_is_alone_to_do(line, capsys):
    # As programs left it that did not delete such files: the index is compact, and names in `inputs.json` are no files.
    line.put("0002", 20)
    line.put("0003", 10)
    assert line.run() == 0
    kept = {path: path.read_bytes() for name in ("0002", "0003") for path in line.root.glob(f"out/memory/**/*{name}*")}
    line.take("0002")
    line.take("0003")
    assert line.run("--compact") == 0
    for path, data in kept.items():
        path.write_bytes(data)
    capsys.readouterr()
    assert line.run("--compact") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "reindex: compacted" in output and "30 rows of 2 shards whose source is gone" in output
    assert stored_of(line, "0002") == stored_of(line, "0003") == []
    line.check()


def test_a_shard_that_comes_back_before_a_compaction_is_not_embedded_again(line):
    source = line.root / "data/img_emb_0001.npy"
    marker = line.root / "out/memory/_done/img_emb_0001.json"
    before, aside = marker.read_bytes(), source.rename(line.root / "aside.npy")
    rows = line.rows.pop("0001")
    assert line.run() == 0
    line.check()
    aside.rename(source)
    line.rows["0001"] = rows
    assert line.run("--compact") == 0
    assert marker.read_bytes() == before
    line.check()


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("after", slow.after(1, [2, 0, 1, 3, 4]))
def test_cut_short_while_it_deletes_a_gone_shard_the_same_command_finishes(line, monkeypatch, after, comes_back):
    url, source = line.rows["0001"][3][1], line.root / "data/img_emb_0001.npy"
    vectors, rows = source.read_bytes(), line.rows["0001"]
    key = pq.read_table(line.root / "out/memory/img_emb_0001.parquet")["key"][3].values.to_numpy()
    assert line.run(line.listed(url)) == 0
    line.take("0001")
    assert line.run() == 0
    with monkeypatch.context() as patch:
        # The removed row is written for the proof first.
        faults(patch, "img_emb_0001", after)
        with pytest.raises(Cut):
            line.run("--compact")
    assert bool(after) == any((line.root / "out/memory/_removing/rows").glob("*.parquet"))
    line.check()
    if comes_back:
        source.write_bytes(vectors)
        line.rows["0001"] = rows
    assert line.run("--compact") == 0
    assert (stored_of(line, "0001") == []) == (not comes_back)
    assert not line.vector_files(key) and url not in globbed(line)
    line.check({url})


def test_removal_by_id_url_and_digest_is_for_good(line):
    rows = line.rows["0000"]
    memory = Embeddings(line.config.places.memory)
    table = memory.read(0, ["id", "url", "content_key"]).to_pylist()
    flag = line.listed("# asked for", table[3]["id"], "", rows[5][1], table[7]["content_key"].hex(), "http://not/there")
    gone = {table[i]["url"] for i in (3, 5, 7)}
    assert line.run(flag) == 0
    line.check(gone)
    assert line.run(flag) == 0 and line.index.version == 2
    # The same images in another file, under other names.
    line.rows["0002"] = [(key, url.replace("host", "other")) for key, url in rows[:10]]
    np.save(line.root / "data/img_emb_0002.npy", np.stack([key for key, _ in rows[:10]]))
    urls = [url for _, url in line.rows["0002"]]
    pq.write_table(pa.table({"url": urls, "caption": urls}), line.root / "data/metadata/metadata_0002.parquet")
    assert line.run() == 0
    gone |= {urls[i] for i in (3, 5, 7)}
    found = set(line.urls().values())
    assert not found & gone and found >= {urls[i] for i in (0, 1, 2, 4, 6, 8, 9)}


def test_wrong_lines_end_in_one_sentence(line, capsys):
    assert line.run(line.listed("12", "no url")) == 2
    assert "list.txt, line 2: 'no url' is neither" in capsys.readouterr().err
    assert line.run(f"--remove={line.root}/absent") == 2
    assert "absent: no such file" in capsys.readouterr().err
    assert line.run("--compact", "--no_compact") == 2
    assert "exclude each other" in capsys.readouterr().err
    line.check()


def test_compaction_leaves_no_byte_of_what_was_removed(line, capsys):
    gone = {line.rows["0000"][i][1] for i in (3, 5, 30)}
    removed, stays = [line.stored(url) for url in gone], line.stored(line.rows["0000"][0][1])
    assert line.run(line.listed(*gone)) == 0
    assert all(len(line.vector_files(key)) >= 2 for key in removed)
    kept = {i: url for i, url in line.urls().items()}
    capsys.readouterr()
    assert line.run("--compact") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "3 rows of the memory" in output
    assert "none of 3 deleted rows, nor of their 3 vectors in tables, nor of a sample of 3 vectors" in output
    assert not any(line.vector_files(key) for key in removed)
    assert len(line.vector_files(stays)) >= 2
    assert line.urls() == kept
    line.check(gone)
    assert not (line.root / "out/memory/_removing").exists()
    capsys.readouterr()
    assert line.run("--compact") == 0
    assert "already compact" in capsys.readouterr().out
    line.check(gone)


@pytest.mark.parametrize("trace", slow.after(2, ["raw", "table", "float16", "bfloat16", "key"]))
def test_the_proof_finds_what_is_left(line, trace, capsys):
    url = line.rows["0000"][3][1]
    key = line.stored(url)
    digest = next(
        r for r in Embeddings(line.config.places.memory).read(0, ["url", "content_key"]).to_pylist() if r["url"] == url
    )
    assert line.run(line.listed(url)) == 0
    path = line.root / "out/index" / ("left.parquet" if trace in ("table", "key") else "left.bin")
    match trace:
        case "raw":
            path.write_bytes(b"x" * 12345 + key.tobytes() + b"y")
        case "float16":
            path.write_bytes(b"x" + key.astype(np.float16).tobytes())
        case "bfloat16":
            path.write_bytes((key.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        case "table":
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(key), DIM)
            schemas.write(str(path), pa.table({"any": vectors}), {})
        case "key":
            schemas.write(str(path), pa.table({"any": pa.array([digest["content_key"]], pa.binary(32))}), {})
    assert line.run("--compact") == 2
    error = capsys.readouterr().err
    assert f"{path.name}: still has" in error
    path.unlink()
    assert line.run("--compact") == 0
    line.check({url})


def test_a_block_s_border_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "BLOCK_BYTES", 64)
    memory, index, key = tmp_path / "memory", tmp_path / "index", unit(1, DIM)
    index.mkdir()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(key.ravel()), DIM)
    rows = pa.table({"id": [7], "content_key": pa.array([bytes(32)], pa.binary(32)), "key": vectors})
    schemas.write(f"{memory}/{compaction.FOLDER}/{compaction.ROWS}/0.parquet", rows, {})
    none, trace = np.empty(0, "S32"), key.tobytes()
    for place in range(70):
        (index / "file").write_bytes(b"a" * place + trace + b"b" * 20)
        with pytest.raises(UserError, match="file: still has the vector"):
            proof.prove(str(memory), [str(index)], none)
        (index / "file").write_bytes(b"a" * place + trace[:-1] + b"b" * 20)
        assert proof.prove(str(memory), [str(index)], none).size_bytes == place + len(trace) + 19


def test_a_vector_that_another_row_has_is_no_trace(line):
    key, url = line.rows["0000"][3]
    line.rows["0002"] = [(key, "http://other/0")]
    np.save(line.root / "data/img_emb_0002.npy", key[None])
    table = pa.table({"url": ["http://other/0"], "caption": ["x"], "sha256": ["ab" * 32]})
    pq.write_table(table, line.root / "data/metadata/metadata_0002.parquet")
    stored = line.stored(url)
    assert line.run() == 0
    assert line.run(line.listed(url), "--compact") == 0
    assert len(line.vector_files(stored)) >= 2
    assert url not in line.urls().values() and "http://other/0" in line.urls().values()


@pytest.mark.parametrize("flags", [[], ["--no_compact"]])
def test_recall_below_the_target_is_mended_or_told(line, monkeypatch, capsys, flags):
    at = curve.point_at

    def low(*args):
        point = at(*args)
        return dataclasses.replace(point, recall={k: 0.9 for k in point.recall})

    monkeypatch.setattr(curve, "point_at", low)
    line.put("0002", 20)
    capsys.readouterr()
    assert line.run(*flags) == 0
    output = capsys.readouterr().out
    assert "1.0000 before, 0.9000 now, target 0.95" in output and "recall dropped below it" in output
    assert ("the index is rebuilt" in output) == (not flags) == (line.index.version == 3)
    assert ("run --compact" in output) == bool(flags)
    line.check()


def test_a_damaged_index_is_mended_by_a_compaction(line, capsys):
    line.put("0002", 20)
    assert line.run() == 0
    next((line.root / "out/index/builds/00001").glob("*/rows.parquet")).unlink()
    line.take("0002")
    assert line.run() == 2
    assert "rows.parquet: is missing" in capsys.readouterr().err
    assert build.main([f"--config={line.config_file}", *BEAM]) == 2
    assert "run web-memory reindex" in capsys.readouterr().err
    assert line.run("--compact") == 0
    line.check()


def test_the_other_commands_go_on_with_a_changed_index(line, capsys):
    line.put("0002", 20)
    assert line.run() == 0
    capsys.readouterr()
    assert build.main([f"--config={line.config_file}", *BEAM]) == 0
    assert "already built" in capsys.readouterr().out
    line.check()


def test_readers_keep_their_version_from_being_deleted(line, capsys, monkeypatch):
    monkeypatch.setattr(reindex, "_PATIENCE_SECS", 0.3)
    reader, queries = line.index, unit(9, DIM, seed=3)
    line.put("0002", 20)
    assert line.run("--compact") == 2
    assert "builds/00001: is still read by another process" in capsys.readouterr().err
    # Its shards are loaded only now.
    assert reader.search(queries, 4).ids.shape == (9, 4) and reader.rows == 70
    line.check()
    del reader
    assert line.run("--compact") == 0
    assert os.listdir(line.root / "out/index/builds") == ["00003"]
    line.check()


def test_other_encoders_make_a_generation_of_their_own(line, capsys):
    before = line.index.fingerprint
    other = Encoders("precomputed:two", (), ())
    old = line.index
    assert line.run(encoders=other) == 0
    assert line.in_use.generation.startswith("gen-")
    assert old.search(unit(2, DIM), 3).ids.shape == (2, 3)
    assert line.index.key_encoder.fingerprint != old.key_encoder.fingerprint
    line.check()
    assert Index.open(line.config.places.index).fingerprint == before
    # A command with the old encoders goes back, without embedding anything.
    assert line.run() == 0
    assert line.in_use.generation == "" and line.index.fingerprint == before
    del old
    assert line.run("--compact", encoders=other) == 0
    assert not (line.root / "out/memory").exists() and not (line.root / "out/index").exists()
    line.check()


def test_every_command_uses_the_generation_in_use(line):
    assert line.run(encoders=Encoders("precomputed:two", (), ())) == 0
    seen = []
    options.main(seen.append, "x", [f"--config={line.config_file}"])
    assert seen[0].places.memory == f"{line.root}/out/{line.in_use.generation}/memory"


@pytest.mark.parametrize("text", ['{"generation": "../x"}', '{"generation": 3}', "[]", "{}"])
def test_a_pointer_that_names_no_generation(tmp_path, text):
    (tmp_path / "generation.json").write_text(text)
    with pytest.raises(UserError, match="names no generation"):
        generation.current(str(tmp_path))


class Cut(Exception):
    """Stands for a crash."""


def faults(monkeypatch, folder: pathlib.Path | str, after: int) -> None:
    """Makes the process crash at a rename or a deletion below a folder, after some of them."""
    count = [0]

    def failing(work):
        def wrapped(path, *args, **kwargs):
            count[0] += str(folder) in str(path)
            if count[0] > after:
                raise Cut
            return work(path, *args, **kwargs)

        return wrapped

    for module, name in ((os, "replace"), (os, "remove"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))


@pytest.mark.slow
def test_cut_short_at_any_step_the_old_index_serves_and_the_same_command_finishes(tmp_path, monkeypatch):
    line = Line(tmp_path)
    line.put("0000", 40)
    line.put("0001", 30)
    assert line.run() == 0
    removed: set[str] = set()
    queries, after = unit(5, DIM, seed=77), 0
    while True:
        line.put("0002", 20)
        url = line.rows["0000"][after % 40][1]
        flags = [line.listed(url), "--compact"]
        old = {tuple(ids) for ids in line.index.search(queries, 3).ids.tolist()}
        with monkeypatch.context() as patch:
            faults(patch, tmp_path, after)
            try:
                ended = line.run(*flags) == 0
            except Exception as error:
                # Beam wraps what a worker raises.
                assert "Cut" in repr(error)
                ended = False
        now = line.index
        if now.version == 1:
            assert {tuple(ids) for ids in now.search(queries, 3).ids.tolist()} == old
        del now
        removed.add(url)
        assert line.run(*flags) == 0
        line.check(removed)
        if ended:
            break
        after += max(1, after // 6)
    assert after > 20


@pytest.mark.slow
def test_killed_at_random_points(tmp_path):
    line = Line(tmp_path)
    line.put("0000", 400)
    line.put("0001", 300)
    assert line.run() == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    rng, removed, killed = np.random.default_rng(0), set(), 0
    for trial in range(8):
        line.put("0002", 200 + trial)
        url = line.rows["0000"][trial][1]
        removed.add(url)
        command = [sys.executable, "-m", "index.reindex", f"--config={line.config_file}", *BEAM, line.listed(url)]
        process = subprocess.Popen([*command, "--compact"], env=environment, stdout=subprocess.DEVNULL)
        begin, pause = time.monotonic(), rng.uniform(2, 14)
        while time.monotonic() - begin < pause and process.poll() is None:
            # The index can be opened and searched at any time.
            assert line.index.search(unit(2, DIM), 3).ids.min() >= 0
            time.sleep(0.05)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert line.index.search(unit(2, DIM), 3).ids.min() >= 0
        assert line.run(line.listed(url), "--compact") == 0
        line.check(removed)
    assert killed


@pytest.mark.parametrize("name", slow.after(1, ["reindex", "embed"]))
def test_a_published_compaction_is_finished_by_whoever_comes_next(line, name):
    url = line.rows["0000"][3][1]
    stored = line.stored(url)
    assert line.run(line.listed(url)) == 0
    source, deleted = compaction.prepare(line.config.places.memory)
    rebuild.run(line.config.places, line.config.index, line.config.seed, Runner(BEAM), source)
    assert deleted == 1 and pq.read_metadata(line.root / "out/memory/img_emb_0000.parquet").num_rows == 40
    command = {"reindex": line.run, "embed": lambda: embed.main([f"--config={line.config_file}", *BEAM])}[name]
    assert command() == 0
    assert pq.read_metadata(line.root / "out/memory/img_emb_0000.parquet").num_rows == 39
    line.check({url})
    assert line.index.version == 3 and not line.index.facts["tombstones"]
    assert line.run("--compact") == 0
    assert not line.vector_files(stored)
