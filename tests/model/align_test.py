"""The command on a world of tiny encoders: what it writes, does not do twice, and refuses."""

import json
import pathlib

import numpy as np
import pytest

import web_memory
from model import align
from pipelines import storage
from pipelines.encoders import handles, loaded
from tests.pipelines import tiny_encoders

COLORS = ["red", "green", "blue", "dog", "cat", "a"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Returns a folder with 90 pairs, two encoders and a config, aligned."""
    root = tmp_path_factory.mktemp("align")
    for kind in ("image", "text"):
        getattr(tiny_encoders, f"save_{kind}_encoder")(root / f"base_{kind}")
    pairs = [(f"{i:05d}", tiny_encoders.image_bytes(i), f"{COLORS[i % 6]} {COLORS[i % 5]}") for i in range(90)]
    tiny_encoders.write_tar(root / "data/0.tar", pairs[:50])
    tiny_encoders.write_tar(root / "data/1.tar", pairs[50:])
    towers = f"{root}/align/towers"
    (root / "config.py").write_text(
        "from configs.base import *\n"
        "def get_config():\n"
        f"    return TwoTowerConfig(data='{root}/data', workdir='{root}/out', memory=Source(path='*.tar'),\n"
        f"        encoders=Encoders(key='{towers}/image', value_image=(), value_text=('{towers}/text',)),\n"
        "        index=Index(searcher='exact', k=5),\n"
        f"        align=Align(folder='{root}/align', key='{root}/base_image', text='{root}/base_text', dim=4,\n"
        "            steps=20, val_every=10, batch_size=16, val=10, held_out=20))\n"
    )
    assert _align(root) == 0
    return root


def _align(root: pathlib.Path, *flags: str) -> int:
    return align.main([f"--config={root}/config.py", "--runner=FnApiRunner", *flags])


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_encoders_of_one_space_are_written(world):
    image, text = (handles.resolve(f"{world}/align/towers/{kind}", "float32") for kind in ("image", "text"))
    assert image.space == text.space != "" and image.info.dim == text.info.dim == 4
    facts = storage.read_json(f"{world}/align/towers/align.json", sealed=True)
    assert facts["rows"] == {"train": 60, "val": 10, "held_out": 20}
    assert facts["recall"]["at_10"]["image_by_text"]["chance"] == 0.5
    held_out = storage.read_json(f"{world}/align/towers/held_out.json", sealed=True)["content_keys"]
    assert len(set(held_out)) == 20 and {len(key) for key in held_out} == {64}
    assert facts["fingerprints"] == {"image": image.info.fingerprint, "text": text.info.fingerprint}
    vectors = loaded.TextEncoder(text).encode(["red dog", "blue cat"], 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_finished_towers_are_left_alone_even_when_the_memory_grows(world, capsys):
    before = _files(world / "align")
    tiny_encoders.write_tar(world / "data/2.tar", [("99999", tiny_encoders.image_bytes(99), "red")])
    assert _align(world) == 0
    (world / "data/2.tar").unlink()
    assert "align: already done" in capsys.readouterr().out
    assert _files(world / "align") == before


@pytest.mark.slow
def test_lost_towers_come_back_byte_for_byte(world):
    before = _files(world / "align/towers")
    storage.remove(f"{world}/align/towers")
    assert _align(world) == 0
    assert _files(world / "align/towers") == before


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("align.dim=5", "was trained with other settings, align.dim was 4 and is now 5; remove it, or set another"),
        ("seed=1", "was trained with other settings, seed was 0 and is now 1; remove it, or set another"),
        ("align.key=precomputed:mine", "encoder 'precomputed:mine': has vectors and no model; a tower is made of"),
        ("align.key=minilm-l6-v2", "--config.align.key=minilm-l6-v2: is an encoder of texts, not images"),
        ("align.learning_rate=0", "--config.align.learning_rate=0.0: must be above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(world, flag, sentence, capsys):
    assert _align(world, f"--config.{flag}") == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1


def test_damaged_towers_are_refused(world, capsys):
    file = world / "align/towers/text/encoder.json"
    whole = file.read_text()
    file.write_text(json.dumps({**json.loads(whole), "name": "other"}))
    assert _align(world) == 2
    file.write_text(whole)
    assert "towers: is damaged; remove" in capsys.readouterr().err


def test_a_config_without_towers_is_refused(capsys):
    assert align.main(["--config=configs/demo.py"]) == 2
    assert (
        "this config trains no encoders; only a TwoTowerConfig, such as configs/two_tower.py" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_run_trains_the_towers_first_and_then_embeds_with_them(world, tmp_path):
    """Without labelled splits the line ends, in one sentence, where they are missing: after align, embed and build."""
    flags = [f"--config={world}/config.py", f"--config.workdir={tmp_path}/out", "--runner=FnApiRunner"]
    flags += [f"--config.align.folder={tmp_path}/align", f"--config.encoders.key={tmp_path}/align/towers/image"]
    flags += [f"--config.encoders.value_text={tmp_path}/align/towers/text"]
    assert web_memory.main(["run", *flags]) == 2
    assert _files(tmp_path / "align/towers") == _files(world / "align/towers")
    encoders = storage.read_json(f"{tmp_path}/out/memory/stage.json")["encoders"]
    known = storage.read_json(f"{tmp_path}/align/towers/align.json")["fingerprints"]
    assert {role: info["fingerprint"] for role, info in encoders.items()} == {
        "key": known["image"],
        "value_text": known["text"],
    }
    assert (tmp_path / "out/index/manifest.json").exists()


def test_run_refuses_encoders_that_are_not_the_towers(world, capsys):
    assert web_memory.main(["run", f"--config={world}/config.py", "--config.align.folder=elsewhere"]) == 2
    assert "is not the tower that --config.align.folder trains; name elsewhere/towers/image" in capsys.readouterr().err
