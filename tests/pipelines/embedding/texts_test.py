"""Texts of a shard: each once, in calls of one length, with rows, rejects and bytes as if each were alone."""

import itertools
import threading

import numpy as np
import pytest

from configs.base import Embed, Filters, Source
from pipelines import manifest, schemas
from pipelines.embedding import shard_run, texts
from pipelines.embedding.inference import ShardJob, Tools
from pipelines.embedding.shard_run import ShardLine
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet
from pipelines.errors import UserError
from pipelines.filtering.row_filters import RowFilters
from pipelines.schemas import EncoderInfo
from pipelines.sources import InputShard, Reject, Sample

_KEY = EncoderSpec("precomputed:x", "precomputed", EncoderInfo("print", 2, False, "float32"), "", {})
_TEXT = EncoderSpec("fake", "text", EncoderInfo("text", 2, False, "float32"), "", {})


class Fake:
    """Gives the length of a text and its first letter; fails on texts that contain `bad`."""

    dim = 2

    def __init__(self):
        self.texts, self.lengths, self.lock = [], [], threading.Lock()

    def calls(self, texts, batch_size):
        ordered = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        groups = [[*group] for _, group in itertools.groupby(ordered, lambda place: len(texts[place]))]
        return [g[i : i + batch_size] for g in groups for i in range(0, len(g), batch_size)]

    def encode(self, texts, batch_size):
        given = [text for text in texts if text is not None]
        with self.lock:
            self.lengths.append({len(text) for text in given})
            if any("bad" in text for text in given):
                raise RuntimeError(f"cannot take {[text for text in given if 'bad' in text]}")
            self.texts += given
        return np.array([[len(t), ord(t[0])] if t else [-1, -1] for t in texts], np.float32)


def _embed(folder, monkeypatch, captions, threads=2, batch_size=4, encoder=None, items=None):
    encoder = encoder or Fake()
    samples = [
        Sample(str(i), b"", caption, metadata={}, vectors={"key": np.array([i + 1.0, 1], np.float32)})
        for i, caption in enumerate(captions)
    ]
    monkeypatch.setattr(shard_run.sources, "read", lambda shard, embed: iter(items or samples))
    encoders = {"key": _KEY, "value_text": _TEXT}
    job = ShardJob(InputShard(Source(), "x", "x.tar", 1, "etag", number=0), str(folder), "hash", "run", encoders)
    loaded = EncoderSet({"key": _KEY})
    loaded.columns["value_text"] = encoder
    line = ShardLine(Tools(loaded, RowFilters(Filters()), None), Embed(batch_size=batch_size), threads)
    line.add(job)
    line.finish()
    return encoder


def _rows(folder):
    table = schemas.read(f"{folder}/x.parquet", ["member", "caption", "key", "value_text"])
    return table.to_pylist()


def _captions(count, seed=0):
    rng = np.random.default_rng(seed)
    return [chr(97 + rng.integers(26)) * int(rng.integers(1, 9)) for _ in range(count)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 400])
def test_each_text_is_embedded_once_in_calls_of_one_length_and_rows_keep_their_order(
    tmp_path, monkeypatch, threads, count
):
    captions = _captions(count)
    encoder = _embed(tmp_path, monkeypatch, captions, threads)
    assert sorted(encoder.texts) == sorted(set(captions))
    assert all(len(lengths) == 1 for lengths in encoder.lengths)
    rows = _rows(tmp_path)
    assert [row["member"] for row in rows] == [str(i) for i in range(count)]
    assert [row["key"] for row in rows] == [[i + 1.0, 1.0] for i in range(count)]
    assert [row["value_text"] for row in rows] == [[len(c), ord(c[0])] for c in captions]


def test_bytes_depend_neither_on_threads_nor_on_which_texts_are_remembered(tmp_path, monkeypatch):
    captions, found, embedded = _captions(500), [], []
    for number, (threads, most) in enumerate([(1, 1 << 20), (3, 1 << 20), (2, 0)]):
        monkeypatch.setattr(texts, "_MAX_KNOWN_BYTES", most)
        embedded.append(len(_embed(tmp_path / str(number), monkeypatch, captions, threads).texts))
        found.append((tmp_path / str(number) / "x.parquet").read_bytes())
    assert found[0] == found[1] == found[2]
    assert embedded[0] == embedded[1] == len(set(captions)) < embedded[2]


def test_texts_that_the_encoder_fails_on_are_rejects_wherever_they_are_repeated(tmp_path, monkeypatch):
    captions = _captions(200)
    bad = {3: "bad", 5: "a bad one", 150: "bad", 199: "bad too"}
    captions = [bad.get(i, caption) for i, caption in enumerate(captions)]
    _embed(tmp_path, monkeypatch, captions)
    rejects = schemas.read(f"{tmp_path}/_rejects/x.parquet", schemas.REJECTS.names).to_pylist()
    assert [(r["member"], r["stage"], r["error_type"]) for r in rejects] == [
        (str(i), "encode", "RuntimeError") for i in bad
    ]
    assert [r["message"] for r in rejects] == [f"cannot take ['{text}']" for text in bad.values()]
    assert [row["member"] for row in _rows(tmp_path)] == [str(i) for i in range(200) if i not in bad]
    assert [row["value_text"] for row in _rows(tmp_path)] == [[len(c), ord(c[0])] for c in captions if "bad" not in c]


def test_long_texts_that_all_fail_are_rejects_but_an_encoder_that_fails_on_all_texts_fails_the_job(
    tmp_path, monkeypatch
):
    _embed(tmp_path / "some", monkeypatch, ["a", "bad number 1", "bad number 2", "bad number 3"])
    assert [row["member"] for row in _rows(tmp_path / "some")] == ["0"]
    with pytest.raises(UserError, match=r"fails on every one of 3 inputs \(RuntimeError: cannot take"):
        _embed(tmp_path / "all", monkeypatch, ["bad 1", "bad 22", "bad 333"])
    assert not manifest.read_markers(str(tmp_path / "all"), "hash") and not list((tmp_path / "all").glob("*.*"))


def test_rows_that_are_not_used_end_a_window_and_stay_in_their_order(tmp_path, monkeypatch):
    rows = 20_000
    vector = {"key": np.ones(2, np.float32)}
    items = [
        Sample(f"{i:05d}", b"", f"text {i}", metadata={}, vectors=vector)
        if i % 1000 == 7
        else Reject(f"{i:05d}", "read", "MissingImage", "gone")
        for i in range(rows)
    ]
    _embed(tmp_path, monkeypatch, [], items=items)
    assert [row["caption"] for row in _rows(tmp_path)] == [f"text {i}" for i in range(7, rows, 1000)]
    members = schemas.read(f"{tmp_path}/_rejects/x.parquet", ["member"])["member"].to_pylist()
    assert members == sorted(members) and len(members) == rows - 20


def test_vectors_that_the_source_provides_are_not_embedded(tmp_path, monkeypatch):
    vectors = {"key": np.ones(2, np.float32), "value_text": np.full(2, 5, np.float32)}
    items = [Sample(str(i), b"", "text", metadata={}, vectors=vectors) for i in range(9)]
    encoder = _embed(tmp_path, monkeypatch, [], items=items)
    assert encoder.texts == [] and [row["value_text"] for row in _rows(tmp_path)] == [[5.0, 5.0]] * 9


def test_rows_are_let_go_once_they_are_written(monkeypatch, tmp_path):
    seen = []
    begin = texts.Window.begin

    def watched(self, *arguments):
        seen.append(self)
        return begin(self, *arguments)

    monkeypatch.setattr(texts.Window, "begin", watched)
    _embed(tmp_path, monkeypatch, _captions(500))
    assert len(seen) == 8 and all(not window.batches for window in seen)


def test_images_without_texts_do_not_wait_for_the_texts_before_them_to_the_end(tmp_path, monkeypatch):
    def job(number, encoders):
        shard = InputShard(Source(), f"s{number}", f"s{number}.tar", 1, "etag", number=number)
        return ShardJob(shard, str(tmp_path), "hash", "run", encoders)

    vectors = {"key": np.ones(2, np.float32)}
    samples = [Sample(str(i), b"", "text", metadata={}, vectors=vectors) for i in range(400)]
    monkeypatch.setattr(shard_run.sources, "read", lambda shard, embed: iter(samples[: 400 if shard.number else 5]))
    loaded = EncoderSet({"key": _KEY})
    loaded.columns["value_text"] = Fake()
    line = ShardLine(Tools(loaded, RowFilters(Filters()), None), Embed(batch_size=4), 2)
    line.add(job(0, {"key": _KEY, "value_text": _TEXT}))
    for number in (1, 2):
        line.add(job(number, {"key": _KEY}))
    # The first is written while others are embedded, and so are nearly all rows of the others.
    assert sorted(manifest.read_markers(str(tmp_path), "hash")) == ["s0", "s1"]
    assert sum(shard_run.in_flight.values()) > 300
    line.finish()
    assert sorted(manifest.read_markers(str(tmp_path), "hash")) == ["s0", "s1", "s2"]
