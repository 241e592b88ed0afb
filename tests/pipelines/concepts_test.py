import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.base import Config
from pipelines import concepts, storage
from pipelines.captions import job, layout
from pipelines.manifest import Concepts, Embeddings
from pipelines.runner import Runner
from tests import world

NAMES = ["dog, canine", "hot dog", "tiger (animal)", "tiger shark", "金毛犬", "nothing"]
SHARDS = [
    ["two Dogs", "a hot dog, and a dog", None, "TIGER-SHARKS"],
    ["canine dogs", "", "concatenated dogma", "一只金毛犬在草地上"],
    ["tigers"] * 3,
]
# Class and (shard, row) of each match.
ROWS = [(0, 0, 0), (0, 0, 1), (1, 0, 1), (3, 0, 3), (0, 1, 0), (4, 1, 3), (2, 2, 0), (2, 2, 1), (2, 2, 2)]


@pytest.fixture
def folder(tmp_path):
    world.write_captions(f"{tmp_path}/memory", SHARDS)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (tmp_path / "config.py").write_text(
        "from configs.base import Config\n"
        "def get_config():\n"
        f"    return Config(workdir={str(tmp_path)!r}, class_names={str(tmp_path / 'names.txt')!r})\n"
    )
    return tmp_path


def run(folder, *flags):
    return concepts.main([f"--config={folder}/config.py", "--runner=FnApiRunner", *flags])


def pairs(found):
    """Class, shard and row of all rows."""
    return [
        (int(label), int(id_) >> 40, int(id_) & ((1 << 40) - 1))
        for chunk in found.chunks()
        for label, id_ in zip(chunk.labels, chunk.ids, strict=True)
    ]


def test_counts_names_and_classes_and_lists_the_rows_of_each_class(folder, capsys):
    assert run(folder) == 0
    found = Concepts.open(f"{folder}/concepts")
    assert sorted(pairs(found)) == pairs(found) == sorted(ROWS)
    assert (found.captions, found.named) == (9, 8)
    assert found.memory == Embeddings(f"{folder}/memory").snapshot
    assert found.classes().to_pydict() == {"label": [0, 1, 2, 3, 4, 5], "name": NAMES, "captions": [3, 1, 3, 1, 1, 0]}
    assert found.names().to_pydict() == {
        "label": [0, 0, 1, 2, 3, 4, 5],
        "name": ["dog", "canine", "hot dog", "tiger", "tiger shark", "金毛犬", "nothing"],
        "captions": [3, 1, 1, 3, 1, 1, 0],
    }
    said = capsys.readouterr().out
    assert "8 of 9 name a class" in said and "1 of 6: nothing" in said
    assert run(folder) == 0 and "already found" in capsys.readouterr().out


def test_a_dry_run_says_what_would_be_read(folder, capsys):
    assert run(folder, "--dry_run") == 0
    assert "0 of 1 segment" in capsys.readouterr().out and not (folder / "concepts").exists()
    assert run(folder) == run(folder, "--dry_run") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_another_memory_or_other_names_replace_the_folder(folder):
    assert run(folder) == 0
    first = Concepts.open(f"{folder}/concepts")
    (folder / "names.txt").write_text("tiger\n")
    assert run(folder) == 0
    second = Concepts.open(f"{folder}/concepts")
    assert second.fingerprint != first.fingerprint and second.classes()["captions"].to_pylist() == [4]
    with pytest.raises(Exception, match="other class names"):
        second.check_names(NAMES)
    storage.remove(f"{folder}/memory")
    world.write_captions(f"{folder}/memory", [["a tiger"]])
    with pytest.raises(Exception, match="is of another memory than there is now"):
        second.check_memory(Embeddings(f"{folder}/memory").snapshot)
    assert run(folder) == 0
    assert Concepts.open(f"{folder}/concepts").classes()["captions"].to_pylist() == [1]


def test_names_are_those_of_the_training_set_if_there_is_no_file(folder, capsys):
    world.write_captions(f"{folder}/queries/train", [["x"]])
    assert run(folder, "--config.class_names=") == 2
    assert "its labels are numbers" in capsys.readouterr().err
    (folder / "names.txt").write_text("")
    assert run(folder) == 2
    assert "has no names; write" in capsys.readouterr().err


def test_needs_an_embedded_memory(folder, capsys):
    storage.remove(f"{folder}/memory")
    assert run(folder) == 2
    assert "run web-memory embed first" in capsys.readouterr().err


def config(folder, name):
    return Config(workdir=str(folder / name), class_names=str(folder / "names.txt"))


def made(folder, name, *, segment_rows, part_rows=layout.PART_ROWS, flags=()):
    """Makes the concepts of the memory in a folder of their own."""
    home = folder / name
    home.mkdir()
    (home / "memory").symlink_to(folder / "memory")
    places = config(folder, name).places
    claimed = layout.claim(places, segment_rows)
    job.run(dataclasses.replace(claimed, part_rows=part_rows), Runner(["--runner=FnApiRunner", *flags]))
    return Concepts.open(places.concepts)


def test_segments_and_parts_change_no_row(folder):
    whole = made(folder, "whole", segment_rows=100)
    cut = made(folder, "cut", segment_rows=4, part_rows=1)
    assert (len(whole.files), len(cut.files)) == (3, 2 + 8)
    assert sorted(pairs(cut)) == pairs(whole)
    assert cut.classes().equals(whole.classes()) and cut.names().equals(whole.names())
    assert [whole.rows(label).tolist() for label in range(7)] == [cut.rows(label).tolist() for label in range(7)]


def test_bytes_do_not_depend_on_the_number_of_workers(folder):
    made(folder, "one", segment_rows=4)
    made(folder, "two", segment_rows=4, flags=["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    assert world.snapshot(folder / "one/concepts") == world.snapshot(folder / "two/concepts")


def test_an_interrupted_job_reads_only_the_segments_that_are_left(folder):
    made(folder, "whole", segment_rows=4)
    (folder / "cut").mkdir()
    (folder / "cut/memory").symlink_to(folder / "memory")
    claimed = layout.claim(config(folder, "cut").places, 4)
    step = job.ReadSegment(claimed)
    step.setup()
    step.process(0)
    step.process(2)
    # A segment without its rows is not done.
    rows = folder / "cut/concepts/rows"
    kept, lost = sorted(rows.iterdir())
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert [claimed.is_done(segment) for segment in range(3)] == [True, False, False]
    again = layout.claim(config(folder, "cut").places, 4)
    job.run(again, Runner(["--runner=FnApiRunner"]))
    assert kept.stat().st_mtime_ns == before
    assert world.snapshot(folder / "cut/concepts") == world.snapshot(folder / "whole/concepts")


def test_long_and_odd_captions_are_read(folder):
    captions = ["dog " * 200_000, "\u0e34" * 50_000 + "dog", "d" * 1_000_000, "\u202edog\0", "İ" * 10, "🐕 dog\ufe0f"]
    storage.remove(f"{folder}/memory")
    world.write_captions(f"{folder}/memory", [captions])
    assert run(folder) == 0
    assert Concepts.open(f"{folder}/concepts").rows(0).tolist() == [0, 1, 3, 5]


def test_damage_is_named(folder):
    assert run(folder) == 0
    path = folder / "concepts/rows/00000-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path)
    with pytest.raises(Exception, match="is damaged or of another run"):
        Concepts.open(f"{folder}/concepts").rows(0)
    complete = folder / "concepts/complete.json"
    value = json.loads(complete.read_text())
    value["files"][2]["name"] = "../memory/00000.parquet"
    complete.write_text(json.dumps(value))
    with pytest.raises(Exception, match="damaged"):
        Concepts.open(f"{folder}/concepts")


def test_balanced_takes_at_most_so_many_rows_of_each_class_by_the_seed(folder):
    storage.remove(f"{folder}/memory")
    world.write_captions(f"{folder}/memory", [["dog and canine tiger"] * 30 + ["dog"] * 70, ["a hot dog"] * 5])
    assert run(folder) == 0
    found = Concepts.open(f"{folder}/concepts")
    chosen = found.balanced(10, seed=1)
    assert np.bincount(chosen.labels).tolist() == [10, 5, 10]
    order = np.lexsort((chosen.ids, chosen.labels))
    assert (order == np.arange(len(order))).all()
    for label in range(3):
        assert np.isin(chosen.ids[chosen.labels == label], found.rows(label)).all()
    again, other, more = found.balanced(10, seed=1), found.balanced(10, seed=2), found.balanced(20, seed=1)
    assert again.ids.tolist() == chosen.ids.tolist() != other.ids.tolist()
    assert set(zip(*chosen[:2], strict=True)) <= set(zip(*more[:2], strict=True))
    alone = found.balanced(1000, seed=1, alone=True)
    assert np.bincount(alone.labels).tolist() == [70, 5] and alone.classes.max() == 1
    assert found.balanced(1000, seed=3).ids.tolist() == np.concatenate([found.rows(i) for i in range(3)]).tolist()
