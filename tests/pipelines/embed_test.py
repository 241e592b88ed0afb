"""The embed command from its command line, with encoders of a few weights whose answers NumPy knows."""

import hashlib
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines import embed, schemas, storage
from pipelines.images.decode import ImagePreprocess, decode, prepare
from pipelines.manifest import Embeddings
from pipelines.progress import Stage
from tests import slow
from tests.finished import Finished
from tests.pipelines import tiny_encoders as tiny

_CAPTIONS = ["a red dog", "blue cat", "green", "a a dog unknown"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return folder, tiny.save_image_encoder(folder / "image"), tiny.save_text_encoder(folder / "text")


class World:
    """A corpus of two tars and a labelled list, and the command that embeds them."""

    def __init__(self, root: pathlib.Path, encoders: pathlib.Path) -> None:
        self.root = root
        for shard in range(2):
            pairs = [(f"{shard}{i:04d}", tiny.image_bytes(10 * shard + i), _CAPTIONS[i % 4]) for i in range(7)]
            tiny.write_tar(root / f"pairs/{shard:05d}.tar", pairs)
        (root / "images").mkdir()
        for i in range(5):
            (root / f"images/{i}.png").write_bytes(tiny.image_bytes(100 + i))
        (root / "val.txt").write_text("".join(f"{i}.png {i % 3}\n" for i in range(5)))
        self.flags = {
            "data": root,
            "memory.path": "pairs/*.tar",
            "val_set.path": "val.txt",
            "val_set.image_root": "images",
            "encoders.key": encoders / "image",
            "encoders.value_image": "",
            "encoders.value_text": encoders / "text",
            "embed.batch_size": 4,
            "embed.list_shard_rows": 2,
            # With six dimensions everything is near everything.
            "filters.leakage": 0,
        }
        (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")

    def argv(self, out: str = "out", *beam: str, **changes: object) -> list[str]:
        flags = self.flags | {"workdir": self.root / out} | {name.replace("__", "."): v for name, v in changes.items()}
        return [
            f"--config={self.root}/config.py",
            *(f"--config.{name}={value}" for name, value in flags.items()),
            *beam,
        ]

    def embed(self, out: str = "out", *beam: str, **changes: object) -> int:
        return embed.main(self.argv(out, *beam, **changes))

    def parquet(self, out: str = "out") -> dict[str, str]:
        files = sorted(f for f in (self.root / out).rglob("*.parquet") if f.parent.name != "_inputs")
        return {str(f.relative_to(self.root / out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    def rejects(self, out: str = "out") -> list[dict]:
        paths = sorted((self.root / out / "memory/_rejects").glob("*.parquet"))
        return [row for path in paths for row in schemas.read(str(path), schemas.REJECTS.names).to_pylist()]


@pytest.fixture
def world(tmp_path, encoders):
    return World(tmp_path, encoders[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoders):
    """A world that was embedded."""
    world = World(tmp_path_factory.mktemp("embedded") / "world", encoders[0])
    assert world.embed() == 0
    return Finished(world, world.root)


@pytest.fixture
def embedded(finished):
    return finished.restored()


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_rows_are_what_numpy_says(world, encoders, capsys):
    _, weights, words = encoders
    assert world.embed() == 0
    memory = Embeddings(f"{world.root}/out/memory")
    assert memory.shard_rows == {0: 7, 1: 7}
    for shard in (0, 1):
        table = memory.read(shard, schemas.embeddings({"key": tiny.DIM, "value_text": tiny.TEXT_DIM}).names)
        images = [tiny.image_bytes(10 * shard + i) for i in range(7)]
        preprocess = ImagePreprocess(tiny.SIZE, 1.0, "bicubic")
        pixels = np.stack([prepare(decode(data, 10_000), preprocess) for data in images]) / 255
        quadrants = pixels.reshape(7, 2, 8, 2, 8, 3).mean((2, 4)).reshape(7, 12)
        np.testing.assert_allclose(schemas.to_matrix(table["key"]), _unit(quadrants @ weights), atol=1e-5)
        texts = [[tiny.WORDS.index(w) if w in tiny.WORDS else 0 for w in _CAPTIONS[i % 4].split()] for i in range(7)]
        expected = _unit(np.stack([words[t].sum(0) for t in texts]))
        np.testing.assert_allclose(schemas.to_matrix(table["value_text"]), expected, atol=1e-5)
        assert table["id"].to_pylist() == [(shard << 40) | row for row in range(7)]
        assert table["content_key"].to_pylist() == [hashlib.sha256(data).digest() for data in images]
        assert table["member"].to_pylist() == [f"{shard}{i:04d}.jpg" for i in range(7)]
        assert table["url"].to_pylist() == [f"http://host/{shard}{i:04d}" for i in range(7)]
        assert table["caption"].to_pylist() == [_CAPTIONS[i % 4] for i in range(7)]
        assert set(table["width"].to_pylist()) == {24} and set(table["height"].to_pylist()) == {20}
    val = Embeddings(f"{world.root}/out/queries/val")
    assert val.shard_rows == {0: 2, 1: 2, 2: 1}
    assert list(val.encoders) == ["key"]
    assert val.encoder("key") == memory.encoder("key")
    labels = [label for shard in val.shard_rows for label in val.read(shard, ["label"])["label"].to_pylist()]
    assert labels == [0, 1, 2, 0, 1]
    assert "19 rows" in capsys.readouterr().out


def test_runners_and_threads_give_the_same_bytes(world):
    assert world.embed("direct", "--runner=DirectRunner") == 0
    assert world.embed("fnapi", "--runner=FnApiRunner") == 0
    assert world.parquet("fnapi") == world.parquet("direct")
    assert len(world.parquet("direct")) == 3 * 5  # vectors, rejects and filtered rows of each shard


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(world):
    assert world.embed("one") == 0
    assert world.embed("two", "--direct_num_workers=2", "--direct_running_mode=multi_processing") == 0
    assert world.parquet("two") == world.parquet("one")


def test_only_what_is_missing_is_done_again(embedded):
    before = embedded.parquet()
    files = {name: (embedded.root / "out" / name).stat().st_mtime_ns for name in before}
    (embedded.root / "out/memory/_done/00001.json").unlink()
    (embedded.root / "out/queries/val/val-00002.parquet").unlink()
    assert embedded.embed() == 0
    assert embedded.parquet() == before
    again = {name for name, when in files.items() if (embedded.root / "out" / name).stat().st_mtime_ns != when}
    assert again == {
        "memory/00001.parquet",
        "memory/_filtered/00001.parquet",
        "memory/_rejects/00001.parquet",
        "queries/val/val-00002.parquet",
        "queries/val/_filtered/val-00002.parquet",
        "queries/val/_rejects/val-00002.parquet",
    }


def test_an_unfinished_folder_is_not_readable_and_a_new_shard_keeps_old_ids(embedded):
    old = embedded.parquet()
    tiny.write_tar(embedded.root / "pairs/-first.tar", [("x", tiny.image_bytes(77), "a dog")])
    assert embedded.embed() == 0
    assert {name: digest for name, digest in embedded.parquet().items() if name in old} == old
    assert Embeddings(f"{embedded.root}/out/memory").shard_rows == {0: 7, 1: 7, 2: 1}


@pytest.mark.slow
def test_sigkill_anywhere_then_the_same_command_gives_the_same_bytes(world):
    world.embed("whole")
    argv = [sys.executable, "-m", "pipelines.embed", *world.argv("killed")]
    for pause in (0.0, 0.01, 0.03):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=os.getcwd())
        seen = len(list(world.root.glob("killed/**/_done/*.json")))
        deadline = time.monotonic() + 60
        while process.poll() is None and len(list(world.root.glob("killed/**/_done/*.json"))) <= seen:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        # Some time after a marker, in the midst of the next shard.
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in world.root.glob("killed/**/_done/*.json"):
            marker = storage.read_json(str(path))
            assert storage.sha256(str(path.parents[1] / f"{marker['name']}.parquet")) == marker["output_sha256"]
    assert subprocess.run(argv, stdout=subprocess.DEVNULL).returncode == 0
    assert world.parquet("killed") == world.parquet("whole")
    assert not list(world.root.glob("killed/**/*.tmp-*"))


def test_bad_rows_are_rejected_counted_and_change_no_other_row(world):
    world.embed("clean")
    pairs = [(f"0{i:04d}", tiny.image_bytes(i), _CAPTIONS[i % 4]) for i in range(7)]
    bad = [
        ("bad0", b"", "a dog"),
        ("bad1", tiny.image_bytes(1)[:60], "a dog"),
        ("bad2", tiny.image_bytes(1), ""),
        ("bad3", tiny.image_bytes(1), None),
    ]
    tiny.write_tar(world.root / "pairs/00000.tar", [*pairs[:3], *bad, *pairs[3:]])
    assert world.embed("dirty", embed__max_rejects_share=0.5) == 0
    rows = [(row["member"], row["stage"], row["error_type"]) for row in world.rejects("dirty")]
    assert rows == [
        ("bad0.jpg", "decode", "EmptyImage"),
        ("bad1.jpg", "decode", "CannotDecode"),
        ("bad2.jpg", "read", "EmptyCaption"),
        ("bad3.jpg", "read", "EmptyCaption"),
    ]
    marker = storage.read_json(f"{world.root}/dirty/memory/_done/00000.json")
    assert (marker["rows_in"], marker["rows_out"], marker["rows_rejected"]) == (11, 7, 4)
    clean, dirty = (Embeddings(f"{world.root}/{out}/memory").read(0, ["key"]) for out in ("clean", "dirty"))
    assert clean["key"].equals(dirty["key"])


def test_a_truncated_tar_is_a_reject_not_a_crash(world):
    path = world.root / "pairs/00000.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    assert world.embed(embed__max_rejects_share=0.9) == 0
    assert [row["error_type"] for row in world.rejects()] == ["TruncatedTar"]
    assert Embeddings(f"{world.root}/out/memory").shard_rows[0] < 7


def test_changed_inputs_are_embedded_again(embedded):
    snapshots = [Embeddings(f"{embedded.root}/out/{name}").snapshot for name in ("memory", "queries/val")]
    old = embedded.parquet()
    pairs = [(f"0{i:04d}", tiny.image_bytes(50 + i), "a dog") for i in range(7)]
    size = (embedded.root / "pairs/00000.tar").stat().st_size
    tiny.write_tar(embedded.root / "pairs/00000.tar", pairs)
    assert (embedded.root / "pairs/00000.tar").stat().st_size == size
    (embedded.root / "val.txt").write_text("".join(f"{i}.png {2 - i % 3}\n" for i in range(5)))
    (embedded.root / "images/4.png").write_bytes(tiny.image_bytes(99))
    assert embedded.embed() == 0
    now = [Embeddings(f"{embedded.root}/out/{name}") for name in ("memory", "queries/val")]
    assert all(folder.snapshot != before for folder, before in zip(now, snapshots, strict=True))
    labels = [label for shard in now[1].shard_rows for label in now[1].read(shard, ["label"])["label"].to_pylist()]
    assert labels == [2, 1, 0, 2, 1]
    same = {name for name, digest in embedded.parquet().items() if old.get(name) == digest and "/_" not in name}
    assert same == {"memory/00001.parquet"}


def test_a_second_run_at_the_same_time_is_refused(world, capsys):
    with Stage("embed", "images", f"{world.root}/out"):
        _fails(world, capsys, "the same stage is already running there")
    assert world.embed() == 0


def test_a_workdir_may_have_any_name(world):
    assert world.embed("odd[1]*") == 0
    assert world.parquet("odd[1]*")
    assert Embeddings(f"{world.root}/odd[1]*/memory").rows == 14


def _fails(world, capsys, sentence, *beam, out="out", **changes):
    assert world.embed(out, *beam, **changes) == 2
    # A slow machine shows progress before.
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("embed: ", "embed, "))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and sentence in lines[0], lines
    return lines[0]


def test_too_many_rejects_fail_the_job_with_the_reasons(world, capsys):
    pairs = [(f"{i}", b"not an image" if i < 3 else b"", "a dog") for i in range(5)]
    tiny.write_tar(world.root / "pairs/00000.tar", pairs)
    _fails(world, capsys, "5 of 12 rows rejected (CannotDecode 3, EmptyImage 2)")
    assert not (world.root / "out/memory/complete.json").exists()


def test_mistakes_end_in_one_sentence(world, capsys):
    _fails(world, capsys, "neither a SavedModel folder nor built in", encoders__key="resnet")
    _fails(world, capsys, "an encoder of texts, not images", encoders__key=world.flags["encoders.value_text"])
    _fails(world, capsys, "every memory needs keys", encoders__key="")
    _fails(world, capsys, "matches no file", memory__path="nothing/*.tar")
    _fails(world, capsys, "did you mean '--runner'", "--runer=DirectRunner")
    _fails(world, capsys, "Unexpected pipeline runner: NoRunner", "--runner", "NoRunner")
    _fails(world, capsys, "--config.embed.batch_size=0: must be at least 1", embed__batch_size=0)
    _fails(world, capsys, "dtype=float64: unknown; did you mean 'float16'", encoders__dtype="float64")
    _fails(world, capsys, "--config.memory.path: is empty", memory__path="")
    _fails(world, capsys, "has no texts; set --config.memory.class_names to take those", memory__format="image_list")
    _fails(world, capsys, "cannot be imported", "--runner=no.such.Runner")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dim": 7}, "gives [6], its description says [7]"),
        ({"dim": "x"}, "'dim' must be a number of 1 or more"),
        ({"kind": "sound"}, "'kind' is 'sound', must be image or text"),
        ({"preprocess": {}}, "has no 'size'"),
        ({"preprocess": {"size": 16, "crop_fraction": 1, "resize": "magic"}}, "'resize' must be one of bicubic"),
    ],
)
def test_a_wrong_description_of_an_encoder_is_worded(world, capsys, encoders, tmp_path, change, sentence):
    folder = tmp_path / "mine"
    shutil.copytree(encoders[0] / "image", folder)
    description = storage.read_json(str(folder / "encoder.json"))
    storage.write_json(str(folder / "encoder.json"), description | change)
    _fails(world, capsys, sentence, encoders__key=folder)


def test_a_broken_saved_model_is_worded(world, capsys, encoders, tmp_path):
    shutil.copytree(encoders[0] / "image", tmp_path / "mine")
    (tmp_path / "mine/saved_model.pb").write_bytes(b"broken")
    _fails(world, capsys, "TensorFlow cannot load this SavedModel", encoders__key=tmp_path / "mine")


def test_files_that_cannot_be_used_are_worded(world, capsys):
    (world.root / "file").write_text("")
    _fails(world, capsys, "file", out="file")
    _fails(world, capsys, "images: matches no file", val_set__path="images")


def test_a_folder_of_another_config_is_refused_and_left_alone(embedded, capsys):
    before = embedded.parquet()
    capsys.readouterr()
    _fails(embedded, capsys, "belongs to another configuration, batch_size was 4 and is now 8", embed__batch_size=8)
    assert embedded.parquet() == before


def test_a_folder_of_another_encoder_is_refused(embedded, capsys, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "image"
    tiny.save_image_encoder(other, seed=1)
    capsys.readouterr()
    _fails(embedded, capsys, "belongs to another configuration, encoders.key.fingerprint was", encoders__key=other)


def test_rejects_are_read_again_where_that_can_help(world, capsys, monkeypatch):
    """A store that fails for an image once; then the bytes are those of a run that it never failed for."""
    world.embed("whole")
    broken, opened = True, storage.open_read

    def open_read(uri):
        if broken and uri.endswith("images/3.png"):
            raise OSError(5, "Input/output error")
        return opened(uri)

    monkeypatch.setattr(storage, "open_read", open_read)
    monkeypatch.setattr(storage, "local_path", lambda uri: None)
    assert world.embed() == 0
    assert "1 may be read with --retry_rejects" in capsys.readouterr().out
    assert world.embed() == 0
    assert Embeddings(f"{world.root}/out/queries/val").rows == 4
    assert world.embed("out", "--retry_rejects") == 0
    (row,) = schemas.read(f"{world.root}/out/queries/val/_rejects/val-00001.parquet", schemas.REJECTS.names).to_pylist()
    assert (row["error_type"], row["retryable"], row["attempt"]) == ("OSError", True, 2)
    broken = False
    before = {path: path.stat().st_mtime_ns for path in world.root.glob("out/memory/*.parquet")}
    assert world.embed("out", "--retry_rejects") == 0
    assert Embeddings(f"{world.root}/out/queries/val").rows == 5
    assert world.parquet() == world.parquet("whole")
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_copies_of_test_images_are_dropped_from_the_memory(world, capsys):
    """Row 2 of the first tar is a test image, byte for byte; row 4 is nearly one."""
    pairs = [(f"0{i:04d}", tiny.image_bytes(i), "a dog") for i in range(7)]
    twin = tiny.image_bytes(100)
    pixels = np.asarray(Image.open(io.BytesIO(tiny.image_bytes(103)))).copy()
    pixels[0, 0] ^= 1
    near = io.BytesIO()
    Image.fromarray(pixels).save(near, "PNG")
    pairs[2], pairs[4] = ("00002", twin, "a dog"), ("00004", near.getvalue(), "a dog")
    tiny.write_tar(world.root / "pairs/00000.tar", pairs)
    assert world.embed(filters__leakage=0.999999) == 0
    assert "leakage 2, listed in memory/_dropped/" in capsys.readouterr().out
    memory = Embeddings(f"{world.root}/out/memory")
    assert memory.shard_rows == {0: 5, 1: 7}
    rows = schemas.split_ids(memory.read(0, ["id"])["id"].to_numpy())[1]
    assert rows.tolist() == [0, 1, 3, 5, 6]
    # Another threshold is another selection, and nothing is embedded again.
    before = (world.root / "out/memory/00000.parquet").stat().st_mtime_ns
    assert world.embed(filters__leakage=0.0) == 0
    assert Embeddings(f"{world.root}/out/memory").rows == 14
    assert (world.root / "out/memory/00000.parquet").stat().st_mtime_ns == before


def test_the_summary_counts_unused_rows_by_why_they_are_not_used(world, capsys):
    pairs = [(f"0{i:04d}", tiny.image_bytes(i), "a dog") for i in range(4)]
    tiny.write_tar(world.root / "pairs/00000.tar", [*pairs, ("bad", b"", "a dog"), ("short", tiny.image_bytes(9), "a")])
    (world.root / "out").mkdir()
    (world.root / "out/removed.txt").write_text(f"{hashlib.sha256(tiny.image_bytes(1)).hexdigest()}\n")
    (world.root / "listed.txt").write_text("http://host/10002\n")
    assert world.embed(filters__min_caption_chars=3, filters__opt_out="listed.txt", filters__leakage=1) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    counts = {line[0]: line[1] for line in lines if len(line) == 2}
    assert counts["rejected"] == "1 row, listed in _rejects/"
    assert counts["filtered"] == "min_caption_chars 1, opt_out 1, listed in _filtered/"
    assert (counts["dropped"], counts["removed"]) == ("opt_out 0, leakage 0", "1 row")
    assert Embeddings(f"{world.root}/out/memory").shard_rows == {0: 3, 1: 6}


def test_a_memory_without_a_row_left_is_refused(world, capsys):
    said = "every row was dropped (leakage 14); 14 of 14 rows are dropped as copies"
    line = _fails(world, capsys, said, filters__leakage=0.000001, filters__leakage_pixels=0)
    assert "the threshold belongs to the encoder: set --config.filters.leakage above" in line
    _fails(world, capsys, "every row was filtered (min_caption_chars 14)", out="b", filters__min_caption_chars=99)


def test_a_condition_that_no_row_can_meet_is_named(world, capsys):
    said = "every row was filtered (nsfw!=true (missing) 14); no row has the field 'nsfw' of nsfw!=true"
    _fails(world, capsys, said, filters__metadata="nsfw!=true")
    said = "every row was filtered (url==x 14); no row can meet url==x"
    _fails(world, capsys, said, out="b", filters__metadata="url==x")
    assert world.embed("c", filters__metadata="url!=http://host/00001,url!=x") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1)
    assert lines["filtered"] == "url!=http://host/00001 1, listed in _filtered/"
    assert lines["conditions"] == "url!=x excluded no row, check how the source writes 'url'"


def test_several_value_columns_share_an_encoder(world, encoders):
    text = encoders[0] / "text"
    value_text = f"{text},again={text}"
    assert world.embed(encoders__value_text=value_text, encoders__normalize="false", encoders__dtype="float16") == 0
    memory = Embeddings(f"{world.root}/out/memory")
    assert list(memory.encoders) == ["key", "value_text", "value_text_again"]
    assert not memory.encoder("key").normalized and memory.encoder("key").dtype == "float16"
    table = memory.read(0, ["key", "value_text", "value_text_again"])
    assert table["value_text"] == table["value_text_again"] and table["key"].type.value_type == pa.float16()
    assert np.abs(np.linalg.norm(schemas.to_matrix(table["value_text"]), axis=1) - 1).min() > 0.01


def test_a_workdir_may_be_written_in_any_way(world, monkeypatch):
    world.embed("plain")
    monkeypatch.chdir(world.root)
    assert world.embed(workdir="./dotted/../out") == 0
    assert world.parquet("out") == world.parquet("plain")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"test_set.path": "gone.txt"}, "error: --config.test_set: {root}/gone.txt: no such file"),
        ({"test_set.path": "gone/*.txt"}, "error: --config.test_set: {root}/gone/*.txt: matches no file; check"),
        ({"test_set.format": "image_folder", "test_set.path": "gone"}, "error: --config.test_set: {root}/gone: holds"),
        (
            {"test_set.path": "val.txt", "test_set.image_root": "gone"},
            "error: --config.test_set: {root}/gone: no such file or folder",
        ),
        (
            {"train_set.path": "val.txt", "train_set.class_names": "gone"},
            "error: --config.train_set: {root}/gone: no such file or folder",
        ),
        ({"memory.path": "gone.tar"}, "error: --config.memory: {root}/gone.tar: no such file"),
    ],
)
def test_a_source_that_is_missing_is_said_before_anything_is_done(world, capsys, changes, sentence):
    # Not even the encoders are looked for.
    assert world.embed(**{"encoders.key": "no such encoder", **changes}) == 2
    assert capsys.readouterr().err.startswith(sentence.format(root=world.root))
    assert not (world.root / "out/memory").exists()


def test_what_a_later_stage_will_lack_is_said_at_the_start(world, capsys):
    assert world.embed(train__values="text,image") == 0
    first, *rest = capsys.readouterr().out.split("note: ")[1:]
    assert first.split() == (
        "--config.train_set.path=: is empty; neighbors and train need the train, the val and the test set".split()
    )
    assert rest[0].startswith("--config.test_set.path=") and rest[1].startswith("--config.train.values=text,image")
    # A memory alone is complete.
    assert world.embed("alone", val_set__path="") == 0
    assert "note: " not in capsys.readouterr().out


@pytest.mark.parametrize("damage", slow.after(2, [None, b"[]", b"null", b"{", b""]))
def test_numbers_of_shards_are_known_without_their_list(embedded, damage):
    before = embedded.parquet()
    for place in ("out/memory", "out/queries/val"):
        (embedded.root / place / "inputs.json").unlink()
        if damage is not None:
            (embedded.root / place / "inputs.json").write_bytes(damage)
    # A shard of each is to be embedded again, the first; it must not get the number of another.
    (embedded.root / "out/memory/_done/00000.json").unlink()
    (embedded.root / "out/queries/val/_done/val-00000.json").unlink()
    assert embedded.embed() == 0
    assert embedded.parquet() == before
    assert storage.read_json(f"{embedded.root}/out/memory/inputs.json")["names"] == ["00000", "00001"]


def test_a_marker_with_the_number_of_another_shard_is_refused(embedded, capsys):
    path = f"{embedded.root}/out/memory/_done/00001.json"
    storage.write_json(path, storage.read_json(path) | {"number": 5})
    assert embedded.embed() == 2
    assert (
        "_done/00001.json: has the number 5, which inputs.json gives to another shard; remove it"
        in capsys.readouterr().err
    )
    os.remove(path)
    before = embedded.parquet()
    assert embedded.embed() == 0 and embedded.parquet() == before


def test_lists_of_rejected_rows_that_are_gone_are_made_again(embedded):
    before = embedded.parquet()
    (embedded.root / "out/memory/_rejects/00000.parquet").unlink()
    (embedded.root / "out/queries/val/_filtered/val-00001.parquet").unlink()
    assert embedded.embed() == 0 and embedded.parquet() == before


def test_a_command_that_failed_before_its_first_shard_claims_nothing(world, capsys):
    (world.root / "saved_model").mkdir()
    broken = world.root / "saved_model"
    shutil.copytree(world.flags["encoders.key"], broken, dirs_exist_ok=True)
    (broken / "variables/variables.index").write_bytes(b"")
    (broken / "saved_model.pb").write_bytes(b"broken")
    assert world.embed("out", encoders__key=broken) == 2
    assert world.embed("out", embed__batch_size=3) == 0
    assert world.embed("out", embed__batch_size=4) == 2
    assert "another configuration, batch_size was 3 and is now 4; set" in capsys.readouterr().err


def test_the_listing_of_another_split_is_refused(world, capsys):
    (world.root / "test.txt").write_text("".join(f"{i}.png {2 - i % 3}\n" for i in range(5)))
    more = {"test_set__path": "test.txt", "test_set__image_root": "images"}
    assert world.embed("out", **more) == 0
    before = world.parquet()
    listing = next((world.root / "out/queries/val/_inputs").glob("val-00000-*"))
    shutil.copy(next((world.root / "out/queries/test/_inputs").glob("test-00000-*")), listing)
    (world.root / "out/queries/val/_done/val-00000.json").unlink()
    assert world.embed("out", **more) == 2
    assert (
        f"{listing}: is damaged or of another list; remove it and run web-memory embed again" in capsys.readouterr().err
    )
    listing.unlink()
    assert world.embed("out", **more) == 0 and world.parquet() == before


def test_rows_whose_captions_name_no_class_are_filtered(world, capsys):
    (world.root / "names.txt").write_text("dog\nblue cat, feline\nhorse\n")
    named = {"class_names": "names.txt", "filters__concepts": "true"}
    assert world.embed(**named) == 0
    memory = Embeddings(f"{world.root}/out/memory")
    captions = [row for shard in memory.shard_rows for row in memory.read(shard, ["caption"])["caption"].to_pylist()]
    wanted = [_CAPTIONS[i % 4] for _ in range(2) for i in range(7) if _CAPTIONS[i % 4] != "green"]
    assert captions == wanted and "concepts 4" in capsys.readouterr().out
    # Other names are another memory.
    (world.root / "names.txt").write_text("dog\nblue cat, feline\ngreen\n")
    assert world.embed(**named) == 2
    assert "belongs to another configuration" in capsys.readouterr().err
    (world.root / "names.txt").write_text("(none)\n\n\n")
    assert world.embed("other", **named) == 2
    assert "--config.filters.concepts: looks for the names of classes in captions" in capsys.readouterr().err


def test_a_class_keeps_so_many_rows_that_name_it_whatever_the_workers(world, capsys):
    (world.root / "names.txt").write_text("dog\nblue cat, feline\nhorse\n")
    named = {"class_names": "names.txt", "filters__concepts_per_class": 2}
    assert world.embed(**named) == 0
    memory = Embeddings(f"{world.root}/out/memory")
    captions = [row for shard in memory.shard_rows for row in memory.read(shard, ["caption"])["caption"].to_pylist()]
    assert sum("dog" in text for text in captions) == sum("cat" in text for text in captions) == 2
    assert captions.count("green") == 4 and "concepts_per_class 6" in capsys.readouterr().out
    assert world.embed("fnapi", "--runner=FnApiRunner", **named) == 0
    assert world.parquet("fnapi") == world.parquet()
    # The same memory, of which other rows are used; none is embedded again.
    before = {name: digest for name, digest in world.parquet().items() if "_dropped" not in name}
    assert world.embed(seed=3, class_names="names.txt", filters__concepts_per_class=1) == 0
    assert {name: digest for name, digest in world.parquet().items() if "_dropped" not in name} == before
    assert "embed: already done" in capsys.readouterr().out and Embeddings(f"{world.root}/out/memory").rows == 6


@pytest.mark.slow
def test_worker_processes_keep_the_same_rows_of_a_class(world):
    (world.root / "names.txt").write_text("dog\nblue cat, feline\nhorse\n")
    named = {"class_names": "names.txt", "filters__concepts": "true", "filters__concepts_per_class": 2}
    assert world.embed("one", **named) == 0
    assert world.embed("two", "--direct_num_workers=2", "--direct_running_mode=multi_processing", **named) == 0
    assert world.parquet("two") == world.parquet("one") and Embeddings(f"{world.root}/two/memory").rows == 4
