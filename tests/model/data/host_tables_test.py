"""A memory in files: their contents, the rows of a batch, and that training gives the same results."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import Train
from model.data import host_tables, tables, vectors
from model.data.host_tables import Meter, RowFile
from model.training.trainer import Setting, Trainer
from pipelines.errors import UserError
from tests import slow
from tests.model.small_task import small_task

_SETTING = Setting(0.01, 0.01, 0.1)
_TRAIN = Train(
    values=("text",),
    value_scale=0.0,
    steps=7,
    batch_size=16,
    checkpoint_every=5,
    attention_dim=4,
    value_dim=8,
    layers=2,
    neighbor_dropout=0.2,
)


def _standardized(x):
    x = x.astype(np.float64)
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of several record batches, and what is in it."""
    path = str(tmp_path_factory.mktemp("rows") / "key.arrow")
    rows = np.random.default_rng(0).normal(size=(2 * vectors.CHUNK_ROWS + 77, 5)).astype(np.float32)
    RowFile.write(path, rows, "float32")
    return RowFile(path, rows.shape, "float32"), _standardized(rows)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 2 * vectors.CHUNK_ROWS + 76), min_size=1, max_size=40), st.integers(0, 3))
def test_rows_are_read_from_any_record_batch(file, rows, more):
    rows = np.array(sorted(rows))
    window = file[0].read(rows, len(rows) + more)
    assert window.shape == (len(rows) + more, 5)
    np.testing.assert_allclose(window[: len(rows)], file[1][rows], atol=1e-5)


def test_the_first_and_last_row_of_each_record_batch(file):
    size = vectors.CHUNK_ROWS
    rows = np.array([0, size - 1, size, 2 * size - 1, 2 * size, 2 * size + 76])
    np.testing.assert_allclose(file[0].read(rows, 6), file[1][rows], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", slow.after(1, ["mam", "rac"]))
def test_losses_and_predictions_are_those_of_the_table_on_the_device(tmp_path, head, dtype):
    task, found = small_task(rows=37), []
    for data in (tables.load(task, dtype), host_tables.load(task, dtype, str(tmp_path))):
        trainer = Trainer(head, task, data, _TRAIN)
        state, losses = trainer.steps(trainer.start(0), 0, _TRAIN.steps, _SETTING)
        found.append((losses, *trainer.predict(state.params, "test")))
        assert trainer.compilations == {"start": 1, "steps": 1, "predict": 1}
    assert np.ptp(found[0][0]) > 0
    for device, host in zip(*found, strict=True):
        np.testing.assert_allclose(host, device, rtol=1e-5, atol=1e-5)


def test_a_batch_gets_the_rows_it_names_and_no_others(tmp_path):
    task = small_task(rows=40)
    data = host_tables.load(task, "float32", str(tmp_path))["train"]
    rows = np.array([[3, 5, 3], [7, 0, 1]], np.int32)
    near = task.splits["train"].neighbors
    for number, (part, batch, count) in enumerate(data.parts(rows, 2, True)):
        assert count == 1 and part.keys.shape == (3 * 8, 24)
        np.testing.assert_array_equal(batch, rows[number : number + 1])
        assert part.neighbors.max() + 1 == len(np.unique(near[rows[number]]))
        gathered = part.gather(jnp.asarray(batch[0]))
        np.testing.assert_allclose(gathered.keys, _standardized(task.keys[near[batch[0]]]), atol=1e-4)
        np.testing.assert_allclose(
            gathered.values["text"], _standardized(task.values["text"])[near[batch[0]]], atol=1e-4
        )
    assert number == 1
    rates = data.rates()
    assert rates["rows_per_sec"] > 0 and 0 <= rates["waited_share"] <= 1
    assert data.rates() == {}


def test_heads_without_neighbours_read_none(tmp_path):
    task = small_task(rows=20)
    trainer = Trainer("linear", task, host_tables.load(task, "float32", str(tmp_path)), _TRAIN)
    trainer.steps(trainer.start(0), 0, 3, _SETTING)
    assert trainer.data["train"].rates() == {}


def test_rates():
    meter = Meter(rows=400, size_bytes=8_000_000, read_secs=2.0, waited_secs=0.5, secs=10.0)
    assert meter.rates() == {"rows_per_sec": 200, "mb_per_sec": 4.0, "waited_share": 0.05}
    assert host_tables.words([meter.rates()]) == "200 rows/s, 4 MB/s, steps waited 5.0% of their time"


def test_files_are_made_once_for_lists_and_type(tmp_path):
    task = small_task(rows=20)
    host_tables.load(task, "float32", str(tmp_path))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    assert {path.name for path in files} == {"key.arrow", "value_text.arrow"}
    host_tables.load(task, "float32", str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")} == files
    host_tables.load(dataclasses.replace(task, fingerprint="g"), "float32", str(tmp_path))
    host_tables.load(task, "bfloat16", str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_is_not_made_whole_is_absent(tmp_path):
    class Broken(np.ndarray):
        def __getitem__(self, rows):
            if rows.start:
                raise OSError("torn away")
            return np.asarray(self)[rows]

    rows = np.zeros((vectors.CHUNK_ROWS + 1, 2), np.float32).view(Broken)
    with pytest.raises(OSError, match="torn away"):
        RowFile.write(str(tmp_path / "key.arrow"), rows, "float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "noise", "rows", "width", "dtype"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "key.arrow"
    RowFile.write(str(path), np.eye(6, 4, dtype=np.float32), "float32")
    data = path.read_bytes()
    shape, dtype = {"rows": (7, 4), "width": (6, 3)}.get(damage, (6, 4)), "bfloat16" if damage == "dtype" else "float32"
    path.write_bytes({"cut": data[:-40], "noise": b"\7" * 100}.get(damage, data))
    with pytest.raises(UserError, match=r"key.arrow: is no complete file of . rows of . \w+ values; remove it"):
        RowFile(str(path), shape, dtype)


def test_any_changed_bit_is_refused_before_arrow_sees_it(tmp_path):
    path = tmp_path / "key.arrow"
    RowFile.write(str(path), np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), "float32")
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 7):
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :])
        with pytest.raises(UserError, match="key.arrow: is no complete file of 6 rows of 4 float32 values; remove it"):
            RowFile(str(path), (6, 4), "float32")
    path.write_bytes(data)
    assert len(RowFile(str(path), (6, 4), "float32")) == 6


@pytest.mark.parametrize("damage", ["[]", "null", "{}", "{", None])
def test_a_checksum_that_is_damaged_or_lost(tmp_path, damage):
    task = small_task(rows=20)
    host_tables.load(task, "float32", str(tmp_path))
    path = next(tmp_path.rglob("key.json"))
    path.unlink() if damage is None else path.write_text(damage)
    if damage is None:
        host_tables.load(task, "float32", str(tmp_path))
        assert path.exists()
    else:
        with pytest.raises(UserError, match="key.json: is .+; remove .*key.json, run again"):
            host_tables.load(task, "float32", str(tmp_path))
        path.unlink()
        host_tables.load(task, "float32", str(tmp_path))


def test_checksums(tmp_path):
    (tmp_path / "x").write_bytes(b"123456789")
    # The check value of CRC-32C (Castagnoli), RFC 3720.
    assert host_tables.checksum(str(tmp_path / "x")) == [9, 0xE3069283]
    (tmp_path / "y").write_bytes(b"")
    assert host_tables.checksum(str(tmp_path / "y")) == [0]
