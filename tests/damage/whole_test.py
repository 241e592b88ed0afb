"""The damage matrix of a workdir that real commands made, from images to results: slow, and all of it."""

import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from index import build, neighbors
from model import evaluate, train
from pipelines import embed
from tests.damage import matrix
from tests.damage.matrix import Kind, Made
from tests.pipelines import tiny_encoders as tiny
from tests.world import REPOSITORY

_EMBED, _RUNS = ("embed", "build", "neighbors"), ("train", "evaluate")
KINDS = [
    *(
        Kind(name, pattern, _EMBED)
        for name, pattern in (
            ("embedded shard", "memory/*.parquet"),
            ("embedded stage", "memory/stage.json"),
            ("embedded config", "memory/config.json"),
            ("inputs", "memory/inputs.json"),
            ("embedding marker", "memory/_done/*.json"),
            ("rejects", "memory/_rejects/*.parquet"),
            ("filtered", "memory/_filtered/*.parquet"),
            ("dropped", "memory/_dropped/*.parquet"),
            ("selection", "memory/_dropped/selection.json"),
            ("embedded complete", "memory/complete.json"),
            ("split inputs", "queries/val/inputs.json"),
            ("split marker", "queries/val/_done/*.json"),
            ("split shard", "queries/val/*.parquet"),
            ("class vectors", "classes.parquet"),
            ("stage note", "stages/*.json"),
        )
    ),
    Kind("listing", "queries/val/_inputs/*.parquet", _EMBED),
    Kind("listing, to embed", "queries/val/_inputs/*.parquet", _EMBED, ("queries/val/_done/*-00000.json",)),
    Kind("inputs, to embed", "memory/inputs.json", _EMBED, ("memory/_done/00001.json",)),
    *(
        Kind(name, pattern, _RUNS)
        for name, pattern in (
            ("run stage", "runs/*/stage.json"),
            ("trial", "runs/*/mam/trial-0/trial.json"),
            ("trial result", "runs/*/mam/trial-0/result.json"),
            ("chosen", "runs/*/mam/chosen.json"),
            ("result", "runs/*/*/seed-*/result.json"),
            ("predictions", "runs/*/*/seed-*/predictions.parquet"),
            ("metrics", "runs/*/*/seed-*/metrics.jsonl"),
        )
    ),
]


_TRAINED_ON = ("runs/tables/*/*.arrow", "runs/tables/*/*.json", "runs/*/mam/seed-1/checkpoints*/**/*")


def _write(root: pathlib.Path, seed: int) -> None:
    """Writes images, lists and a config; the rows are rejected, filtered and dropped in part."""
    for shard in range(2):
        pairs = [(f"{shard}{i:04d}", tiny.image_bytes(seed + 20 * shard + i), "a red dog") for i in range(8)]
        pairs += [(f"{shard}0090", pairs[0][1], "a red dog"), (f"{shard}0091", tiny.image_bytes(seed + 99), "a")]
        tiny.write_tar(root / f"pairs/{shard:05d}.tar", [*pairs, (f"{shard}0092", b"no image", "a blue cat")])
    (root / "images").mkdir()
    for number, split in enumerate(("train", "val", "test")):
        for i in range(8):
            (root / f"images/{split}{i}.png").write_bytes(tiny.image_bytes(seed + 1000 + 20 * number + i))
        (root / f"{split}.txt").write_text("".join(f"{split}{i}.png {i % 2}\n" for i in range(8)))
    (root / "names.txt").write_text("red dog\nblue cat\n")
    source = "Source(format='image_list', path='{0}.txt', image_root='images')"
    splits = ", ".join(f"{split}_set={source.format(split)}" for split in ("train", "val", "test"))
    (root / "config.py").write_text(
        "import pathlib\n"
        "from configs.base import Config, Embed, Encoders, Filters, Index, Neighbors, Source, Train\n"
        "root = pathlib.Path(__file__).parent\n"
        "def get_config():\n"
        "    return Config(data=str(root), workdir=str(root / 'out'), class_names='names.txt',\n"
        f"        memory=Source(format='img2dataset', path='pairs/*.tar'), {splits},\n"
        "        encoders=Encoders(key=str(root / 'image'), value_image=(), value_text=(str(root / 'text'),)),\n"
        "        embed=Embed(batch_size=4, list_shard_rows=4, max_rejects_share=1.0),\n"
        "        filters=Filters(leakage=0.0, exact_duplicates=True, min_caption_chars=3),\n"
        "        index=Index(searcher='exact', shards=2, k=3), neighbors=Neighbors(k=3, block_rows=4),\n"
        "        train=Train(heads=('linear', 'mam'), values=('text',), steps=4, batch_size=4, checkpoint_every=2,\n"
        "            learning_rates=(0.01, 0.03), dropouts=(0.0,), seeds=(0, 1), attention_dim=4, value_dim=4,\n"
        "            table='host'))\n"
    )


def _run(command: str, root: pathlib.Path) -> int:
    argv = [f"--config={root}/config.py"]
    mains = {"embed": embed, "build": build, "neighbors": neighbors, "train": train, "evaluate": evaluate}
    code = mains[command].main(argv if command in _RUNS else [*argv, "--runner=FnApiRunner"])
    if command == "evaluate" and code == 0:
        # Read by `figures`, without what tells the time.
        results = json.loads((root / "out/results.json").read_text())
        rows = [{name: value for name, value in row.items() if name != "train_secs"} for row in results["rows"]]
        (root / "out/figures.json").write_text(json.dumps([rows, results["differences"], results["filter"]]))
    return code


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """The workdir of all commands, and that of another run."""
    encoders, roots = tmp_path_factory.mktemp("encoders"), []
    tiny.save_image_encoder(encoders / "image")
    tiny.save_text_encoder(encoders / "text")
    for name, seed in (("one", 0), ("two", 500)):
        root = tmp_path_factory.mktemp(name)
        for kind in ("image", "text"):
            shutil.copytree(encoders / kind, root / kind)
        _write(root, seed)
        assert all(_run(command, root) == 0 for command in (*_EMBED, *_RUNS))
        roots.append(root)
    return Made(roots[0], "out", roots[1] / "out", _run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_damage_of_every_kind(made, tmp_path, capsys, kind):
    ends, wrong = matrix.run(made, [kind], tmp_path, flips=200)
    with capsys.disabled():
        print("\n" + matrix.table(ends))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", ["runs/tables/*/*.arrow", "runs/tables/*/*.json", "runs/*/mam/seed-1/checkpoints*/**/*"]
)
def test_damaged_tables_and_checkpoints_end_in_a_sentence_not_in_an_abort(made, tmp_path, pattern, capsys):
    """In a process of their own, which trains the last seed again from each damaged file."""
    code = "from tests.damage import retrained; retrained.main()"
    files = sorted(path for path in (made.root / "out").glob(pattern) if path.is_file())
    assert files
    names = [str(file.relative_to(made.root)) for file in files]
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.root), str(tmp_path), *names],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ends = collections.Counter(line.rpartition(": ")[2] for line in done.stdout.splitlines())
    with capsys.disabled():
        print(f"\n{pattern:28} {dict(ends)}")
    assert set(ends) <= {"refused", "healed", "harmless"}, done.stdout
    assert sum(ends.values()) >= 200
