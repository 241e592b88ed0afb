"""What becomes of single rows: who is guilty of a batch that fails, what is filtered, what is read again."""

import hashlib
import json

import numpy as np
import pytest

from configs.base import Embed, Filters, Source
from pipelines import inference, schemas, storage
from pipelines.encoders import EncoderSet, EncoderSpec
from pipelines.errors import UserError
from pipelines.filters import RowFilters
from pipelines.inference import ShardJob, Tools, embed_shard, encode_or_bisect
from pipelines.manifest import EncoderInfo
from pipelines.opt_out import OptOut
from pipelines.sources import Filtered, InputShard, Reject, Sample


class Fragile:
    """Gives each input with its place in the batch, and fails on those that are named."""

    def __init__(self, *bad):
        self.bad, self.calls = bad, 0

    def encode(self, inputs, batch_size):
        self.calls += 1
        if any(x in self.bad for x in inputs if x is not None):
            raise RuntimeError(f"cannot take {[x for x in inputs if x in self.bad]}")
        return np.array([[place, -1 if x is None else x] for place, x in enumerate(inputs)], np.float32)


@pytest.mark.parametrize("bad", [(), (0,), (7,), (2, 3), (0, 2, 4, 6)])
def test_a_failing_batch_is_halved_to_the_guilty_and_the_others_keep_their_places(bad):
    encoder, guilty = Fragile(*bad), {}
    matrix = encode_or_bisect(encoder, list(range(8)), 8, guilty)
    assert sorted(guilty) == sorted(bad)
    assert all(kind == "RuntimeError" and f"[{place}]" in message for place, (kind, message) in guilty.items())
    for place in set(range(8)) - set(bad):
        np.testing.assert_array_equal(matrix[place], [place, place])
    assert encoder.calls <= 1 + 8 * max(len(bad), 0) and matrix.shape == (8, 2)


def test_an_encoder_that_fails_on_everything_is_not_the_images_fault():
    with pytest.raises(UserError, match="fails on every one of 3 inputs"):
        encode_or_bisect(Fragile(1, 2, 3), [1, 2, 3], 3, {})


_DIGESTS = [hashlib.sha256(bytes([i])).digest() for i in range(9)]
_SPEC = EncoderSpec("precomputed:x", "precomputed", EncoderInfo("print", 2, False, "float32"), "", {})


def _sample(i, vector=(3.0, 4.0), **fields):
    metadata = {"sha256": _DIGESTS[i].hex(), "similarity": i / 10, "original_width": 10 * i, "original_height": 7}
    fields = {"caption": f"caption {i}", "url": f"http://host/{i}", "label": i, **fields}
    return Sample(str(i), b"", metadata=metadata, vectors={"key": np.array(vector, np.float32)}, **fields)


def _embed(tmp_path, monkeypatch, items, filters=None, listed=(), is_memory=True):
    monkeypatch.setattr(inference.sources, "read", lambda shard, embed: iter(items))
    shard = InputShard(Source(), "x", "x.tar", 1, "etag", number=3)
    job = ShardJob(shard, str(tmp_path), "hash", "run", {"key": _SPEC}, is_memory)
    opt_out = OptOut(np.array(listed, "S32")) if listed else None
    tools = Tools(EncoderSet({"key": _SPEC}), RowFilters(filters or Filters()), opt_out)
    marker = embed_shard(job, tools, Embed(batch_size=2), 2)
    read = {
        "": schemas.embeddings({"key": 2}).names,
        "_rejects/": schemas.REJECTS.names,
        "_filtered/": schemas.FILTERED.names,
    }
    return marker, *(schemas.read(f"{tmp_path}/{f}x.parquet", columns).to_pylist() for f, columns in read.items())


def test_vectors_that_a_source_brings_are_rows_without_an_image(tmp_path, monkeypatch):
    marker, rows, _, _ = _embed(tmp_path, monkeypatch, [_sample(i, (i, 1.0)) for i in range(5)])
    assert (marker.rows_in, marker.rows_out) == (5, 5)
    assert [row["id"] for row in rows] == [(3 << 40) | i for i in range(5)]
    assert [row["key"] for row in rows] == [[float(i), 1.0] for i in range(5)]
    assert [row["content_key"] for row in rows] == _DIGESTS[:5]
    assert [(row["width"], row["height"], row["label"]) for row in rows] == [(10 * i, 7, i) for i in range(5)]
    assert json.loads(rows[2]["metadata"])["similarity"] == 0.2


def test_rows_balance_and_others_are_listed_in_the_order_of_the_source(tmp_path, monkeypatch):
    items = [
        _sample(0),
        Reject("1", "read", "MissingImage", "gone", retryable=True),
        _sample(2),
        Filtered("3", "status", "failed_to_download: 404"),
        _sample(4, (np.nan, 1)),
        Sample("5", b"not an image", "text"),
        _sample(6, caption="no"),
    ]
    marker, rows, rejects, filtered = _embed(tmp_path, monkeypatch, items, Filters(min_caption_chars=3))
    assert (marker.rows_in, marker.rows_out, marker.rows_rejected, marker.rows_filtered) == (7, 2, 3, 2)
    assert marker.filtered == {"status": 1, "min_caption_chars": 1} and marker.retryable == 1
    assert [row["member"] for row in rows] == ["0", "2"]
    named = [(row["member"], row["stage"], row["error_type"], row["retryable"], row["attempt"]) for row in rejects]
    assert named == [
        ("1", "read", "MissingImage", True, 1),
        ("4", "encode", "NotFinite", False, 1),
        ("5", "read", "MissingVector", False, 1),
    ]
    assert [(row["member"], row["filter"]) for row in filtered] == [("3", "status"), ("6", "min_caption_chars")]
    assert storage.read_json(f"{tmp_path}/_done/x.json")["rows_in"] == 7


def test_opted_out_images_are_never_stored(tmp_path, monkeypatch):
    listed = [_DIGESTS[1], hashlib.sha256(b"http://host/3").digest()]
    marker, rows, _, filtered = _embed(tmp_path, monkeypatch, [_sample(i) for i in range(5)], None, listed)
    assert [row["member"] for row in rows] == ["0", "2", "4"] and marker.filtered == {"opt_out": 2}
    assert [row["member"] for row in filtered] == ["1", "3"]


def test_queries_are_not_filtered(tmp_path, monkeypatch):
    strict = Filters(min_caption_chars=99, min_side=99, metadata=("similarity>5",))
    marker, rows, _, _ = _embed(tmp_path, monkeypatch, [_sample(1)], strict, [_DIGESTS[1]], is_memory=False)
    assert marker.rows_out == len(rows) == 1


def test_a_file_with_other_rows_than_were_read_gets_no_marker(tmp_path, monkeypatch):
    monkeypatch.setattr(schemas, "count_rows", lambda uri: 1)
    with pytest.raises(ValueError, match="5 rows in, 1 out"):
        _embed(tmp_path, monkeypatch, [_sample(i) for i in range(5)])
    assert not (tmp_path / "_done").exists()
