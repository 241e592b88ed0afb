"""Parts and first classes of lists."""

import collections
import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import parts
from pipelines.sources.listing import Row
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines.sources.listed import plan, read, write_images


def _chosen(labels, **fields):
    rows = [Row(f"{i}.jpg", {"label": label}) for i, label in enumerate(labels)]
    source = Source(format="image_list", path="list.txt", **fields)
    return [int(row.member.removesuffix(".jpg")) for row in parts.chosen(source, lambda: iter(rows))]


_LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(_LABELS, st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3, unique=True), st.integers(0, 3))
def test_parts_that_meet_share_no_row_leave_none_out_and_keep_the_order(labels, cuts, seed):
    bounds = [0.0, *sorted(cuts), 1.0]
    found = [_chosen(labels, part=pair, part_seed=seed) for pair in zip(bounds, bounds[1:], strict=False)]
    assert sorted(row for part in found for row in part) == list(range(len(labels)))
    assert all(part == sorted(part) for part in found)


@given(_LABELS, st.floats(0.01, 0.99))
def test_each_class_is_cut_alike(labels, share):
    counts = collections.Counter(labels)
    taken = collections.Counter(labels[row] for row in _chosen(labels, part=(0.0, share)))
    assert all(abs(taken[label] - share * count) <= 0.5 for label, count in counts.items())


def test_fifty_images_a_class_give_two_of_each_and_the_seed_says_which():
    labels = [label for _ in range(50) for label in range(20)]
    first, again, other = (_chosen(labels, part=(0.0, 0.04), part_seed=seed) for seed in (0, 0, 1))
    assert set(collections.Counter(labels[row] for row in first).values()) == {2} and len(first) == 40
    assert first == again and not set(first) == set(other)


def test_an_image_is_of_the_same_part_wherever_it_stands_in_the_list():
    rows = [Row(f"{i}.jpg", {"label": i % 3}) for i in range(90)]
    source = Source(path="list.txt", part=(0.2, 0.5))
    there = {row.member for row in parts.chosen(source, lambda: iter(rows))}
    back = {row.member for row in parts.chosen(source, lambda: reversed(rows))}
    assert there == back and len(there) == 27


def test_rows_of_one_image_stay_together():
    labels = {f"{image}.jpg": image % 2 for image in range(20)}
    rows = [Row(member, {"label": label, "box": box}) for box in range(3) for member, label in labels.items()]
    source = Source(path="list.csv", part=(0.0, 0.3))
    there = [row.member for row in parts.chosen(source, lambda: iter(rows))]
    one_each = [row.member for row in parts.chosen(source, lambda: iter(rows[:20]))]
    assert len(set(there)) == 6 and there == 3 * one_each


def test_first_classes_alone_and_with_a_part():
    labels = [0, 1, 2, 3] * 10
    assert _chosen(labels, classes=2) == [i for i in range(40) if i % 4 < 2]
    assert _chosen(labels, classes=2, part=(0.0, 0.5)) == [i for i in _chosen(labels, part=(0.0, 0.5)) if i % 4 < 2]


def test_rows_without_labels_and_files_of_samples_are_refused(tmp_path):
    source = Source(path="list.txt", classes=1)
    with pytest.raises(UserError, match="list.txt: a.jpg has no label; 'classes' and 'part' choose by labels"):
        list(parts.chosen(source, lambda: iter([Row("a.jpg")])))
    with pytest.raises(UserError, match="format img2dataset: is not a list; leave 'classes' and 'where' empty"):
        plan(tmp_path, Source(format="img2dataset", path="x.tar", where=("label",)))


def _write_parquet(root, rows, label=lambda i: i % 3):
    table = pa.table({"jpg": [tiny.image_bytes(i) for i in rows], "label": [label(i) for i in rows]})
    pq.write_table(table, root / f"{rows[0]:03}.parquet")


def test_parts_of_files_of_samples_share_no_row_and_leave_none_out(tmp_path):
    for begin in (0, 100, 200):
        _write_parquet(tmp_path, range(begin, begin + 100))
    whole = Source(format="img2dataset_parquet", path="*.parquet")
    bounds = [0.0, 0.1, 0.4, 1.0]
    found = [
        [sample.image for sample in read(tmp_path, dataclasses.replace(whole, part=pair))]
        for pair in zip(bounds, bounds[1:], strict=False)
    ]
    assert sorted(image for part in found for image in part) == sorted(tiny.image_bytes(i) for i in range(300))
    # Three standard deviations of draws are 16, 24 and 26 rows.
    assert [abs(len(part) - expected) < 26 for part, expected in zip(found, (30, 90, 180), strict=True)] == [True] * 3
    other = {sample.image for sample in read(tmp_path, dataclasses.replace(whole, part=(0.0, 0.1), part_seed=1))}
    assert other != set(found[0])


def test_classes_are_counted_in_the_part_of_files_of_samples(tmp_path):
    _write_parquet(tmp_path, range(60), lambda i: f"class {i % 3}")
    source = Source(format="img2dataset_parquet", path="*.parquet", part=(0.0, 0.5))
    naming = sources.find_names(source, str(tmp_path), Embed())
    rows = collections.Counter(int(sample.member) % 3 for sample in read(tmp_path, source))
    assert naming.names == ("class 0", "class 1", "class 2")
    assert naming.counts() == {f"class {place}": count for place, count in rows.items()}


def test_parts_of_tars_are_drawn_by_the_names_in_them(tmp_path):
    tiny.write_tar(tmp_path / "0.tar", [(f"{i:03}", tiny.image_bytes(i), f"text {i}") for i in range(40)])
    whole = Source(format="img2dataset", path="0.tar")
    parts_of = [read(tmp_path, dataclasses.replace(whole, part=pair)) for pair in ((0.0, 0.3), (0.3, 1.0))]
    captions = [{sample.caption for sample in part} for part in parts_of]
    assert all(captions) and not captions[0] & captions[1] and len(captions[0] | captions[1]) == 40


def _having(where, *fields):
    rows = [Row(str(place), each) for place, each in enumerate(fields)]
    return [row.member for row in parts.having(Source(path="list.csv", where=where), iter(rows))]


def test_rows_are_chosen_by_the_values_of_their_columns():
    rows = [{"split": "train", "label": 0}, {"split": "val", "label": 1}, {"split": "test"}, {"label": 2}, {"split": 7}]
    assert _having((), *rows) == ["0", "1", "2", "3", "4"]
    assert _having(("split=train",), *rows) == ["0"]
    assert _having(("split=train|test|7",), *rows) == ["0", "2", "4"]
    assert _having(("label",), *rows) == ["0", "1", "3"]
    assert _having(("split", "label=1"), *rows) == ["1"]
    assert _having(("split=train|val", "split= val |test"), *rows) == ["1"]
    assert _having(("ok=true",), {"ok": True}, {"ok": False}, {"ok": "true"}, {"ok": None}) == ["0", "2"]


def test_rows_that_cannot_be_used_are_kept_and_a_value_that_no_row_has_is_named():
    rows = [Row("a", {"split": "val"}), Row("b", problem="broken")]
    source = Source(path="list.csv", where=("split=train",))
    found = parts.having(source, iter(rows))
    assert next(found).member == "b"
    with pytest.raises(UserError, match="list.csv: no row has split=train, .* the first rows have split=val"):
        next(found)


def test_a_part_is_of_the_rows_that_are_chosen(tmp_path):
    write_images(tmp_path, *(f"{i}.jpg" for i in range(8)))
    lines = [f"{i}.jpg,{i % 2 if i < 6 else ''},{'train' if i < 4 else 'test'}\n" for i in range(8)]
    (tmp_path / "list.csv").write_text("".join(["path,label,split\n", *lines]))
    source = Source(format="table", path="list.csv", where=("split=train",), part=(0.0, 0.5))
    assert [shard.rows for shard in plan(tmp_path, source)] == [2]
    named = dataclasses.replace(source, fields=("label=label", "caption=split"), part=())
    assert sum(shard.rows for shard in plan(tmp_path, named)) == 4
    labelled = dataclasses.replace(source, where=("label",), part=())
    assert sum(shard.rows for shard in plan(tmp_path, labelled)) == 6


def test_a_source_is_planned_with_its_part(tmp_path):
    write_images(tmp_path, *(f"{i}.jpg" for i in range(8)))
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg {i % 2}\n" for i in range(8)))
    source = Source(format="image_list", path="list.txt", part=(0.0, 0.25))
    assert [shard.rows for shard in plan(tmp_path, source)] == [2]
