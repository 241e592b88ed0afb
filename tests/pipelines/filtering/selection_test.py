import dataclasses
import functools
import gzip
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from configs.base import Filters
from pipelines import schemas
from pipelines.embedding import completion
from pipelines.errors import UserError
from pipelines.filtering import selection, selection_job
from pipelines.filtering.dropped import DROPPED, REASONS
from pipelines.manifest import Embeddings
from pipelines.runner import Runner
from tests import slow
from tests.pipelines.filtering import drawn
from tests.pipelines.selection_world import KEY, Rows, brute_leakage, brute_near, dropped, embeddings, near_to

OFF = Filters(leakage=0.0)
FN_API = ["--runner=FnApiRunner"]


class World:
    """A memory of four shards, one empty, numbers not in order; val and test queries."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.memory = Rows.random([50, 0, 40, 30], seed=1)
        self.memory.numbers = [2, 1, 0, 3]
        self.splits = {"val": Rows.random([15, 5], seed=2), "test": Rows.random([0, 20], seed=3)}

    def write(self, key=KEY) -> "World":
        self.shards = self.memory.write(self.root / "memory", key)
        for name, rows in self.splits.items():
            rows.write(self.root / name, key)
        return self

    def select(self, filters: Filters, *beam: str, splits=("val", "test"), seed: int = 0) -> selection.Selection:
        opened = embeddings({name: self.root / name for name in splits})
        return completion.select(self.shards, opened, filters, seed, Runner(beam or FN_API))

    def bytes(self) -> dict[str, str]:
        folder = self.root / "memory/_dropped"
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    def dropped(self):
        return dropped(self.shards)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def leaked(found):
    return {i: row for i, row in found.items() if row[0] == "leakage"}


def assert_leaks(found, right):
    assert set(found) == set(right)
    for i, (split, query, cosine) in right.items():
        assert found[i][:3] == ("leakage", split, query)
        assert found[i][3] == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("threshold", slow.after(1, [0.8, 0.6, 0.95]))
def test_leaks_equal_brute_force(world, threshold):
    world.memory.keys[10:30] = near_to(world.splits["test"].keys, np.linspace(0.5, 0.999, 20))
    world.memory.images[3] = world.splits["val"].images[7]
    world.memory.images[70] = world.splits["test"].images[0]
    world.write()
    result = world.select(Filters(leakage=threshold))
    right = brute_leakage(world.memory, world.splits, threshold)
    assert_leaks(world.dropped(), right)
    assert result.totals == {"leakage": len(right)} and len(right) > 2
    assert {i for i in right if right[i][2] == 1.0} >= {int(world.memory.ids[3]), int(world.memory.ids[70])}


@pytest.mark.parametrize(
    ("dtype", "normalized"), slow.after(1, [("float16", False), ("float32", False), ("float16", True)])
)
def test_keys_of_any_form_are_compared_by_cosine(world, dtype, normalized):
    world.memory.keys[:20] = near_to(world.splits["test"].keys, np.linspace(0.8, 0.99, 20))
    if not normalized:
        world.memory.keys *= np.random.default_rng(5).uniform(0.1, 9, size=(120, 1))
        for split in world.splits.values():
            split.keys *= 7
    world.memory.keys = world.memory.keys.astype(dtype)
    for split in world.splits.values():
        split.keys = split.keys.astype(dtype)
    world.write(dataclasses.replace(KEY, dtype=dtype, normalized=normalized))
    world.select(Filters(leakage=0.9, near_duplicates=0.7))
    right = brute_leakage(world.memory, world.splits, 0.9)
    assert_leaks(leaked(world.dropped()), right)
    assert 5 < len(right) < 15
    stays = np.flatnonzero(~np.isin(world.memory.ids, list(right)))
    right_near = brute_near(world.memory, 0.7, stays)
    assert {i for i, row in world.dropped().items() if row[0] == "near_duplicates"} == set(right_near)


@functools.cache
def _thumbnail(seed, edit="encoded again", layout=None):
    return drawn.small(drawn.EDITS[edit](drawn.picture(seed, layout=layout)))


def _shown(world, seeds):
    """Gives every row and every query the thumbnail of a picture of its own."""
    for rows, seed in zip((world.memory, *world.splits.values()), seeds, strict=True):
        rows.thumbnails = [_thumbnail(seed + row) for row in range(len(rows.images))]


def test_pixels_tell_copies_from_look_alikes(world):
    """Four pairs at the same cosines: a copy cut to 75 %, a look-alike, a blank picture, one without a thumbnail."""
    _shown(world, (0, 1000, 2000))
    test, memory, ids = world.splits["test"], world.memory, world.memory.ids
    blank = bytes([200]) * 1024
    for start, cosine in ((0, 0.95), (4, 0.7), (8, 0.5)):
        memory.keys[start : start + 4] = near_to(test.keys[start : start + 4], cosine)
        memory.thumbnails[start] = _thumbnail(2000 + start, "cut to 75 %")
        memory.thumbnails[start + 2], memory.thumbnails[start + 3] = blank, None
    # A look-alike may be nearer to a copy of a query than the query itself, and hides nothing.
    test.keys[[12, 16]] = near_to(memory.keys[[0, 4]], 0.99)
    world.write()
    # Sixteen dimensions have few high cosines by chance: every pair at 0.6 is looked at.
    result = world.select(Filters(leakage=0.9, leakage_candidates=0.6))
    right = {0: "test", 2: "test", 3: "test", 4: "test"}
    assert {i: world.dropped()[ids[i]][1] for i in right} == right and set(world.dropped()) == {ids[i] for i in right}
    twins = [int(np.searchsorted(test.ids, world.dropped()[ids[i]][2])) for i in right]
    assert twins == [0, 2, 3, 4]
    assert result.compared.by_cosine == 6 and result.compared.pairs >= result.compared.rows >= 4
    table = {
        row["id"]: row["pixels"]
        for path in (world.root / "memory/_dropped").glob("*.parquet")
        for row in schemas.read(str(path), ["id", "pixels"]).to_pylist()
    }
    assert table[ids[0]] > 0.6 and table[ids[4]] > 0.6 and table[ids[2]] is table[ids[3]] is None
    near = {example.id: example for example in result.kept}
    assert near[ids[1]].pixels < 0.6 and near[ids[1]].similarity == pytest.approx(0.95, abs=1e-5)
    assert near[ids[6]].pixels is None and near[ids[6]].similarity == pytest.approx(0.7, abs=1e-5)
    assert not set(near) & set(world.dropped())


def test_without_a_threshold_for_pixels_cosines_decide_alone(world):
    _shown(world, (0, 1000, 2000))
    world.memory.keys[:20] = near_to(world.splits["test"].keys, np.linspace(0.5, 0.999, 20))
    world.write()
    result = world.select(Filters(leakage=0.9, leakage_pixels=0.0))
    right = brute_leakage(world.memory, world.splits, 0.9)
    assert_leaks(world.dropped(), right)
    assert len(right) > 2 and result.compared.pairs == 0 and result.compared.by_cosine == 120


def test_where_either_side_has_no_thumbnails_cosines_decide_alone(world):
    _shown(world, (0, 1000, 2000))
    world.splits["test"].thumbnails = world.splits["val"].thumbnails = None
    world.memory.keys[:20] = near_to(world.splits["test"].keys, np.linspace(0.5, 0.999, 20))
    world.write()
    world.select(Filters(leakage=0.9))
    assert_leaks(world.dropped(), brute_leakage(world.memory, world.splits, 0.9))


def test_an_encoder_for_which_everything_is_alike_drops_copies_only(world):
    _shown(world, (0, 1000, 2000))
    centre = np.eye(16)[0]
    for rows in (world.memory, *world.splits.values()):
        rows.keys = near_to(np.repeat(centre[None], len(rows.keys), 0), 0.99, seed=len(rows.keys))
    world.memory.keys[7] = near_to(world.splits["val"].keys[:1], 0.9999)[0]
    world.memory.thumbnails[7] = _thumbnail(1000, "mirrored")
    world.write()
    assert world.select(Filters()).totals == {"leakage": 1} and set(world.dropped()) == {world.memory.ids[7]}


def test_of_equal_matches_the_first_split_then_the_smallest_id_is_the_twin(world):
    key = world.splits["test"].keys[4]
    world.splits["val"].keys[[9, 12]] = key
    world.splits["test"].keys[17] = key
    world.memory.keys[0] = key
    world.memory.images[1] = world.splits["val"].images[2] = world.splits["test"].images[2]
    world.write()
    ids = world.memory.ids
    world.select(Filters(leakage=0.99))
    assert world.dropped()[ids[0]] == ("leakage", "val", world.splits["val"].ids[9], 1.0)
    assert world.dropped()[ids[1]] == ("leakage", "val", world.splits["val"].ids[2], 1.0)
    world.select(Filters(leakage=0.99, leakage_splits=("test", "val")))
    assert world.dropped()[ids[0]] == ("leakage", "test", world.splits["test"].ids[4], 1.0)
    assert world.dropped()[ids[1]] == ("leakage", "test", world.splits["test"].ids[2], 1.0)


def test_threshold_itself_is_a_leak(world):
    world.splits["val"].keys[0] = np.eye(16)[0]
    world.memory.keys[0] = 0.5 * np.eye(16)[0] + np.sqrt(0.75) * np.eye(16)[1]
    world.memory.keys[1] = np.eye(16)[0]
    world.write()
    world.select(Filters(leakage=1.0))
    assert set(world.dropped()) == {world.memory.ids[1]}
    for threshold, is_leak in ((0.5, True), (float(np.nextafter(np.float32(0.5), np.float32(1))), False)):
        world.splits = {"val": Rows(np.eye(16)[:1], world.splits["val"].images[:1], [None], [1], [0])}
        world.splits["val"].write(world.root / f"val-{threshold}")
        splits = {"val": Embeddings(str(world.root / f"val-{threshold}"))}
        completion.select(world.shards, splits, Filters(leakage=threshold), 0, Runner(FN_API))
        assert (world.memory.ids[0] in world.dropped()) == is_leak


def test_of_equal_images_the_smallest_id_stays(world):
    images, ids = world.memory.images, world.memory.ids
    images[4] = images[9] = images[60] = images[110]
    images[20] = images[21]
    world.write()
    assert world.select(dataclasses.replace(OFF, exact_duplicates=True)).totals == {"exact_duplicates": 4}
    # The third shard that was written has number 0, and so the smallest ids.
    right = {ids[i]: ("exact_duplicates", "memory", ids[60], 1.0) for i in (4, 9, 110)}
    assert world.dropped() == right | {ids[21]: ("exact_duplicates", "memory", ids[20], 1.0)}


def test_near_duplicates_equal_brute_force(world):
    world.memory.keys[60:110] = near_to(world.memory.keys[:50], np.linspace(0.6, 0.9999, 50))
    world.write()
    world.select(dataclasses.replace(OFF, near_duplicates=0.8))
    right = brute_near(world.memory, 0.8)
    found = world.dropped()
    assert set(found) == set(right) and 25 <= len(right) < 40
    for i, (twin, cosine) in right.items():
        assert found[i][:3] == ("near_duplicates", "memory", twin) and found[i][3] == pytest.approx(cosine, abs=1e-6)


def test_a_chain_is_cut_behind_its_first(world):
    a, b = np.eye(16)[0], near_to(np.eye(16)[:1], 0.95)[0]
    c = 2 * 0.95 * b - a
    assert a @ c < 0.9 < b @ c
    world.memory.keys[[0, 10, 20]] = a, b, c
    world.write()
    world.select(dataclasses.replace(OFF, near_duplicates=0.92))
    ids = world.memory.ids
    found = world.dropped()
    assert set(found) == {ids[10], ids[20]}
    assert found[ids[20]][2] == ids[10] and found[ids[10]][2] == ids[0]


def test_one_reason_a_row_the_first_in_order(world):
    memory, val = world.memory, world.splits["val"]
    # Row 1 has every reason, row 2 leaks and repeats row 0, row 3 repeats it, row 5 is only near to row 4.
    memory.images[1:4] = [memory.images[0]] * 3
    memory.keys[1:4] = memory.keys[0]
    memory.keys[5] = near_to(memory.keys[4:5], 0.97)[0]
    val.keys[0] = memory.keys[2] = near_to(memory.keys[:1], 0.9)[0]
    memory.keys[1] = memory.keys[2]
    listed = world.root / "out.txt"
    listed.write_text(f"{memory.urls[1]}\n")
    world.write()
    filters = Filters(opt_out=str(listed), leakage=0.99, exact_duplicates=True, near_duplicates=0.95)
    result = world.select(filters)
    ids = memory.ids
    found = world.dropped()
    assert {int(i): found[i][0] for i in found} == {
        ids[1]: "opt_out",
        ids[2]: "leakage",
        ids[3]: "exact_duplicates",
        ids[5]: "near_duplicates",
    }
    assert found[ids[1]] == ("opt_out", None, None, None)
    assert result.totals == dict.fromkeys(REASONS[1:-1], 1)


def test_rows_that_are_gone_make_no_duplicates(world):
    memory = world.memory
    memory.images[1] = memory.images[0]
    memory.keys[[0, 1]] = memory.keys[0]
    memory.keys[3] = memory.keys[2]
    world.splits["val"].images[0] = memory.images[2]
    listed = world.root / "out.txt"
    listed.write_text(f"# asked for on Monday\n\n{hashlib.sha256(b'x').hexdigest()}\n{memory.urls[1]}\n")
    memory.urls[0], memory.urls[1] = memory.urls[1], memory.urls[0]
    world.write()
    world.select(Filters(opt_out=str(listed), leakage=1.0, exact_duplicates=True, near_duplicates=1.0))
    found = world.dropped()
    assert {int(i): found[i][0] for i in found} == {memory.ids[0]: "opt_out", memory.ids[2]: "leakage"}


def test_opt_out_by_digest_and_compressed_list(world):
    listed = world.root / "out.txt.gz"
    listed.write_bytes(gzip.compress(f"{world.memory.images[17].hex().upper()}\n".encode()))
    world.write()
    assert world.select(dataclasses.replace(OFF, opt_out=str(listed))).totals == {"opt_out": 1}
    assert set(world.dropped()) == {world.memory.ids[17]}


def test_every_shard_has_a_file_and_the_selection_knows_its_bytes(world):
    world.memory.images[0] = world.splits["test"].images[0]
    world.write()
    result = world.select(Filters(leakage=0.999))
    assert [(s.number, s.name, s.dropped) for s in result.shards] == [
        (0, "part-0", {}),
        (1, "part-1", {}),
        (2, "part-2", {"leakage": 1}),
        (3, "part-3", {}),
    ]
    actual = world.bytes()
    assert {f"{s.name}.parquet": s.sha256 for s in result.shards} == {
        name: digest for name, digest in actual.items() if name != "selection.json"
    }
    assert set(actual) == {"selection.json", *(f"part-{n}.parquet" for n in range(4))}
    path, metadata = f"{world.shards.folder}/_dropped/part-2.parquet", {"config_hash": world.shards.config_hash}
    table = schemas.read(path, DROPPED.names, metadata)
    assert table.schema.remove_metadata() == DROPPED and table["id"].to_pylist() == [world.memory.ids[0]]


def test_examples_name_the_least_similar_copies(world):
    cosines = np.linspace(0.91, 0.999, 20)
    world.memory.keys[20:40] = near_to(world.splits["test"].keys, cosines)
    world.write()
    result = world.select(Filters(leakage=0.9))
    assert [(e.member, e.twin_folder, e.twin_member) for e in result.examples] == [
        (f"memory-{20 + i}.jpg", "test", f"test-{i}.jpg") for i in range(4)
    ]
    assert [e.similarity for e in result.examples] == pytest.approx(list(cosines[:4]), abs=1e-5)


def test_the_same_is_not_made_twice_another_is(world, monkeypatch):
    world.memory.keys[0] = near_to(world.splits["val"].keys[:1], 0.9)[0]
    world.write()
    first = world.select(Filters(leakage=0.8))
    runs, run = [], selection_job.run
    monkeypatch.setattr(selection_job, "run", lambda *args: (runs.append(1), run(*args)))
    assert world.select(Filters(leakage=0.8)) == first and not runs
    assert world.select(Filters(leakage=0.8), seed=9) == first and not runs
    assert world.select(Filters(leakage=0.95)).totals == {"leakage": 0} and len(runs) == 1
    assert world.select(Filters(leakage=0.8)) == first and len(runs) == 2
    os.remove(world.root / "memory/_dropped/part-3.parquet")
    assert world.select(Filters(leakage=0.8)) == first and len(runs) == 3
    before = world.bytes()
    world.splits["val"].keys[0] *= -1
    (world.root / "val/complete.json").unlink()
    world.splits["val"].write(world.root / "val")
    assert world.select(Filters(leakage=0.8)).totals == {"leakage": 0} and len(runs) == 4
    assert world.bytes() != before


def test_another_opt_out_list_under_the_same_name_is_another_selection(world):
    listed = world.root / "out.txt"
    listed.write_text("http://nowhere/\n")
    world.write()
    filters = dataclasses.replace(OFF, opt_out=str(listed))
    assert world.select(filters).totals == {"opt_out": 0}
    listed.write_text(f"{world.memory.urls[1]}\n")
    assert world.select(filters).totals == {"opt_out": 1}


@pytest.mark.parametrize(
    ("filters", "splits"), slow.after(2, [(OFF, ("val", "test")), (Filters(), ()), (Filters(leakage_splits=()), ())])
)
def test_without_filters_or_splits_beam_is_not_started(world, monkeypatch, filters, splits):
    world.write()
    world.select(Filters(leakage=0.1))
    monkeypatch.setattr(selection_job, "run", lambda *_: pytest.fail("started"))
    result = world.select(filters, splits=splits)
    assert (result.totals, result.shards, result.examples) == ({}, (), ())
    assert list(world.bytes()) == ["selection.json"]


def test_a_split_that_is_missing_leaks_nothing(world):
    world.memory.images[0] = world.splits["val"].images[0]
    world.memory.images[1] = world.splits["test"].images[0]
    world.write()
    world.select(Filters(leakage=0.99), splits=("test",))
    assert set(world.dropped()) == {world.memory.ids[1]}
    world.select(Filters(leakage=0.99, leakage_splits=("val", "train")))
    assert set(world.dropped()) == {world.memory.ids[0]}


def test_a_memory_without_rows_has_empty_files(world):
    world.memory = Rows.random([0, 0], seed=1)
    world.write()
    filters = Filters(leakage=0.5, exact_duplicates=True, near_duplicates=0.5)
    totals = {"leakage": 0, "exact_duplicates": 0, "near_duplicates": 0}
    assert world.select(filters).totals == totals and len(world.bytes()) == 3


@pytest.mark.parametrize(
    "filters,sentence",
    [
        (Filters(opt_out="/no/such/list"), "/no/such/list: no such file"),
    ],
)
def test_wrong_filters_end_in_one_sentence(world, filters, sentence):
    world.write()
    with pytest.raises(UserError, match=sentence):
        world.select(filters)


def test_queries_of_another_encoder_are_refused(world):
    world.write()
    world.splits["val"].write(world.root / "other", dataclasses.replace(KEY, fingerprint="another"))
    with pytest.raises(UserError, match="other: its keys are of another encoder than those of .*memory"):
        other = embeddings({"val": world.root / "other"})
        completion.select(world.shards, other, Filters(leakage=0.9), 0, Runner(FN_API))


def test_broken_keys_and_lists_are_told_by_workers(world):
    world.memory.keys[60, 3] = np.inf
    world.write()
    with pytest.raises(UserError, match="part-0: row 10 has a key that is not finite"):
        world.select(Filters(leakage=0.9))
    listed = world.root / "out.txt"
    listed.write_text("http://fine/\nnonsense\n")
    with pytest.raises(UserError, match="out.txt, line 2: 'nonsense' is neither a URL"):
        world.select(dataclasses.replace(OFF, opt_out=str(listed)))


def test_a_shard_with_other_rows_than_told_is_refused(world):
    world.write()
    shards = tuple(dataclasses.replace(shard, rows=shard.rows + 1) for shard in world.shards.shards)
    world.shards = dataclasses.replace(world.shards, shards=shards)
    with pytest.raises(UserError, match=r"part-\d.parquet: has \d+ rows, not \d+; remove it"):
        world.select(Filters(leakage=0.9))


def test_damaged_selection_is_refused(world):
    world.write()
    world.select(Filters(leakage=0.9))
    path = world.root / "memory/_dropped/selection.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "totals": {"leakage": 7}}))
    with pytest.raises(UserError, match="selection.json: is damaged; remove it"):
        selection.read(world.shards.folder)
    path.write_text("[]")
    with pytest.raises(UserError, match="selection.json: is damaged or of an older version"):
        world.select(Filters(leakage=0.9))


EVERY = Filters(leakage=0.8, exact_duplicates=True, near_duplicates=0.75)


def _planted(root: pathlib.Path) -> World:
    world = World(root)
    world.memory.keys[60:110] = near_to(world.memory.keys[:50], np.linspace(0.6, 0.9999, 50))
    world.memory.keys[10:30] = near_to(world.splits["test"].keys, np.linspace(0.5, 0.999, 20))
    world.memory.images[40:45] = world.memory.images[90:95]
    _shown(world, (0, 1000, 2000))
    for row in range(10, 30):
        copied = 2000 + row - 10
        world.splits["test"].thumbnails[row - 10] = _thumbnail(copied, layout=5)
        # Every other one is a copy, the others are look-alikes; two have no pixels.
        seen = _thumbnail(copied, "cut to 75 %", layout=5) if row % 2 else _thumbnail(row, layout=5)
        world.memory.thumbnails[row] = seen if row < 28 else None
    return world.write()


def test_bytes_do_not_depend_on_the_order_or_the_blocks(tmp_path, monkeypatch):
    world, other = _planted(tmp_path / "a"), _planted(tmp_path / "b")
    result = world.select(EVERY)
    assert all(result.totals.values())
    other.shards = dataclasses.replace(other.shards, shards=other.shards.shards[::-1])
    monkeypatch.setattr(selection, "BLOCK_ROWS", 7)
    monkeypatch.setattr("pipelines.filtering.similarity.ROW_BLOCK", 3)
    monkeypatch.setattr("pipelines.filtering.similarity.KEY_BLOCK", 5)
    assert other.select(EVERY, "--runner=DirectRunner") == result
    assert other.bytes() == world.bytes()


def test_with_many_cells_what_is_dropped_is_a_near_duplicate(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.filtering.duplicates.ONE_CELL_ROWS", 20)
    monkeypatch.setattr("pipelines.filtering.duplicates.CELL_ROWS", 10)
    world, other = _planted(tmp_path / "a"), _planted(tmp_path / "b")
    filters = dataclasses.replace(OFF, near_duplicates=0.75)
    result = world.select(filters, seed=3)
    right = brute_near(world.memory, 0.75)
    assert 0.8 * len(right) <= result.totals["near_duplicates"] <= len(right) and set(world.dropped()) <= set(right)
    monkeypatch.setattr(selection, "BLOCK_ROWS", 7)
    assert other.select(filters, seed=3) == result and other.bytes() == world.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("cell_rows", [10, 8192])
def test_workers_in_processes_write_the_same_bytes(tmp_path, monkeypatch, cell_rows):
    monkeypatch.setattr("pipelines.filtering.duplicates.ONE_CELL_ROWS", 2 * cell_rows)
    monkeypatch.setattr("pipelines.filtering.duplicates.CELL_ROWS", cell_rows)
    world, other = _planted(tmp_path / "a"), _planted(tmp_path / "b")
    world.select(EVERY)
    other.select(EVERY, "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert other.bytes() == world.bytes()


@pytest.mark.slow
def test_killed_job_is_made_again_with_the_same_bytes(tmp_path):
    world, other = _planted(tmp_path / "a"), _planted(tmp_path / "b")
    world.select(EVERY)
    code = f"""
        import pathlib
        from tests.pipelines.filtering import selection_test
        world = selection_test._planted(pathlib.Path({str(tmp_path / "b")!r}))
        world.select(selection_test.EVERY)
    """
    folder = other.root / "memory/_dropped"
    for what in ("_screened/*.json", "*.parquet"):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=pathlib.Path(__file__).parents[3])
        deadline = time.monotonic() + 60
        while not list(folder.glob(what)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(folder.glob("*")) and not (folder / "selection.json").exists()
    other.select(EVERY)
    assert other.bytes() == world.bytes()
