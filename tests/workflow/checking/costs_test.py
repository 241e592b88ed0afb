"""Costs with known answers."""

import shutil

import pytest

from configs.base import Index, Neighbors
from pipelines.encoders.handles import precomputed
from pipelines.sources import Sample
from workflow.checking import costs
from workflow.checking.encoder_check import Speed

_SPECS = {
    "key": precomputed("precomputed:key", 8, "float32", True),
    "value_text": precomputed("precomputed:value_text", 100, "float32", True),
}


def test_a_row_has_its_vectors_in_the_type_that_is_stored_and_its_texts():
    def size(caption: str, dtype: str, *columns: str) -> int:
        specs = {"key": precomputed("precomputed:key", 8, dtype, True), "value_text": _SPECS["value_text"]}
        return costs.row_bytes(specs, columns, [Sample("a.jpg", b"", caption), Sample("b.jpg", b"", caption)])

    assert size("", "float32", "key", "value_text") - size("", "float32", "key") == 4 * 100
    assert size("", "float32", "key") - size("", "float16", "key") == 2 * 8
    assert size("étoile", "float32", "key") - size("", "float32", "key") == 7


def test_time_is_the_sum_of_decoding_and_of_each_encoder():
    speed = Speed({"key": 50.0, "value_text": 100.0}, decode=200.0)
    samples = {"memory": [Sample("a", b"", "x")], "val": [Sample("a", b"", "x")]}
    cost = costs.of_embedding({"memory": 1000, "val": 100}, _SPECS, samples, speed)
    # 5 + 20 + 10 seconds of the memory, 0.5 + 2 of val, which has keys alone.
    assert cost.secs == pytest.approx(37.5) and cost.what == "1,100 rows"
    assert costs.of_embedding({"memory": 1000}, _SPECS, samples, Speed({}, 0.0)).secs is None


def test_lists_name_no_more_rows_than_there_are():
    assert costs.of_lists(10, 1000, Neighbors(k=4), 100).disk_bytes == 10 * 4 * 12 + 40 * 100
    assert costs.of_lists(10, 30, Neighbors(k=4), 100).disk_bytes == 10 * 4 * 12 + 30 * 100


def test_an_exact_index_has_its_keys_ids_and_digests():
    cost = costs.of_index(1000, 8, Index(searcher="exact", shards=2))
    assert (cost.what, cost.disk_bytes) == ("2 shards of 500 rows", 1000 * (4 * 8 + 8 + 32))


def test_tables_are_not_held_where_they_are_in_files():
    held = [costs.of_training(10, 30, _SPECS, is_on_host).memory_bytes for is_on_host in (False, True)]
    assert held == [4 * (10 * 8 + 30 * 108), 4 * 10 * 8]


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    free = costs.free_bytes(f"{tmp_path}/a/b")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert costs.free_bytes("gs://bucket/run") is None


@pytest.mark.parametrize(("number", "text"), [(14_100_000, "14.1 MB"), (3.2e9, "3.20 GB"), (None, "not estimated")])
def test_bytes_in_words(number, text):
    assert costs.shown(number) == text
