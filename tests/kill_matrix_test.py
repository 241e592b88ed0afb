"""Each stage is killed forty times at random moments and started again: what it leaves is the same to the byte.

The kill takes the whole process group, as a machine that loses its power does. The moments are spread over the time
that an undisturbed run takes; a run that ends before its moment is not counted.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.pipelines import tiny_encoders as tiny
from tests.world import REPOSITORY

pytestmark = pytest.mark.slow

KILLS = 40
# The results are compared after so many kills; in between, what one killed run left is found by the next.
_KILLS_A_ROUND = 8
_TARS, _PAIRS = 6, 40
_QUERIES = {"train": 60, "val": 30, "test": 30}
_STAGES = {
    "embed": ("memory", "queries", "classes.parquet"),
    "concepts": ("concepts",),
    "build": ("index",),
    "neighbors": ("neighbors",),
    "train": ("runs",),
}
# What changes a memory that is there: each cell starts from what the one before it made.
_CHANGES = ("add", "remove", "compact")
_TWO_PROCESSES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
_CASES = [
    *((stage, "one process", []) for stage in _STAGES),
    *((stage, "two processes", _TWO_PROCESSES) for stage in ("embed", "concepts", "build", "neighbors")),
    ("train", "memory on the host", ["--config.train.table=host"]),
]
_CHANGING_CASES = [
    *((change, "one process", []) for change in _CHANGES),
    *((change, "two processes", _TWO_PROCESSES) for change in _CHANGES),
]
# Markers, checkpoints and TensorBoard's events say when and by whom they were written; no result depends on that.
_NOT_COMPARED = {"_done", "checkpoints", "checkpoints.json", "tensorboard", "stages"}
_TIMES = {"rates", "reading", "train_secs", "secs", "run_id"}


def _digest(path: pathlib.Path) -> str:
    """Returns a digest of a file, of JSON without its times and without the checksum over them."""
    data = path.read_bytes()
    if path.suffix == ".json":
        values = json.loads(data)
        data = json.dumps({name: value for name, value in values.items() if name not in {*_TIMES, "sha256"}}).encode()
    return hashlib.sha256(data).hexdigest()


class Line:
    """A corpus, a config, and the commands that run on it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self._tars = root, 0
        for _ in range(_TARS):
            self._add_tar()
        (root / "images").mkdir()
        for number in range(sum(_QUERIES.values())):
            (root / f"images/{number}.png").write_bytes(tiny.image_bytes(10_000 + number))
        first = 0
        for split, rows in _QUERIES.items():
            (root / f"{split}.txt").write_text("".join(f"{i}.png {i % 4}\n" for i in range(first, first + rows)))
            first += rows
        (root / "names.txt").write_text("a dog\nred cat\ngreen\nblue\n")
        tiny.save_image_encoder(root / "encoders/image")
        tiny.save_text_encoder(root / "encoders/text")
        (root / "config.py").write_text(_CONFIG.format(root=root))

    def _add_tar(self) -> None:
        """Writes one more tar of pairs into the corpus."""
        tar, self._tars = self._tars, self._tars + 1
        pairs = [(f"{tar}{i:04d}", tiny.image_bytes(100 * tar + i), "a red dog") for i in range(_PAIRS)]
        tiny.write_tar(self.root / f"pairs/{tar:05d}.tar", pairs)

    def _list_removed(self) -> list[str]:
        """Lists three images of the newest tar for removal; returns the flag."""
        path = self.root / "gone.txt"
        path.write_text("".join(f"http://host/{self._tars - 1}{i:04d}\n" for i in (3, 5, 30)))
        return [f"--remove={path}"]

    def prepare(self, change: str) -> list[str]:
        """Brings the line to where a change is due and keeps a copy of it; returns the flags of the change."""
        if change != "remove":
            self._add_tar()
        if change == "compact":
            self.run("reindex", self._list_removed())
        shutil.rmtree(self.root / "saved", ignore_errors=True)
        shutil.copytree(self.root / "out", self.root / "saved")
        return {"add": [], "remove": self._list_removed(), "compact": ["--compact"]}[change]

    def reset(self) -> None:
        """Puts the workdir back to where the change was due."""
        shutil.rmtree(self.root / "out")
        shutil.copytree(self.root / "saved", self.root / "out")

    def command(self, stage: str, flags: list[str]) -> list[str]:
        """Returns the command line of a stage."""
        return [sys.executable, "-m", "web_memory", stage, f"--config={self.root}/config.py", *flags]

    def run(self, stage: str, flags: list[str]) -> float:
        """Runs a stage to its end; returns the seconds that it took."""
        begin = time.monotonic()
        done = subprocess.run(self.command(stage, flags), cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - begin

    def kill(self, stage: str, flags: list[str], after_secs: float) -> bool:
        """Starts a stage and kills it and its children; tells whether it was still running."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(self.command(stage, flags), cwd=REPOSITORY, start_new_session=True, **quiet)
        try:
            process.wait(after_secs)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        return False

    def clear(self, stage: str) -> None:
        """Deletes what a stage writes."""
        for name in _STAGES[stage]:
            path = self.root / "out" / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def files(self, stage: str) -> dict[str, str]:
        """Returns a digest of every result of a stage, of reindex of all files, by its path below the workdir."""
        out = self.root / "out"
        roots = [out / name for name in _STAGES.get(stage, ("",))]
        paths = [path for root in roots for path in (sorted(root.rglob("*")) if root.is_dir() else [root])]
        return {
            str(path.relative_to(out)): _digest(path)
            for path in paths
            if path.is_file() and not _NOT_COMPARED.intersection(path.relative_to(out).parts)
        }


_CONFIG = """
from configs.base import Config, Embed, Encoders, Filters, Index, Neighbors, Source, Train


def split(name):
    return Source(format="image_list", path=f"{{name}}.txt", image_root="images")


def get_config():
    return Config(
        data="{root}",
        workdir="{root}/out",
        memory=Source(format="img2dataset", path="pairs/*.tar"),
        train_set=split("train"),
        val_set=split("val"),
        test_set=split("test"),
        class_names="names.txt",
        encoders=Encoders(key="{root}/encoders/image", value_image=(), value_text=("{root}/encoders/text",)),
        embed=Embed(batch_size=8, list_shard_rows=16),
        filters=Filters(leakage=0.0),
        index=Index(shards=2, k=8),
        neighbors=Neighbors(k=8),
        train=Train(
            heads=("linear", "mam"), values=("text",), seeds=(0,), steps=60, batch_size=16, checkpoint_every=10,
            learning_rates=(0.01,), dropouts=(0.2,), attention_dim=0, value_dim=8,
        ),
    )
"""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The line with every stage run once, undisturbed."""
    made = Line(tmp_path_factory.mktemp("killed"))
    for stage in _STAGES:
        made.run(stage, [])
    return made


def _check_kills(line: Line, command: tuple[str, list[str]], reset: Callable[[], None], secs: float) -> str:
    """Kills a command at random moments until its kills are spent; returns what was seen.

    Args:
        line: The line that the command has just run on undisturbed.
        command: Name of the command, and its flags.
        reset: Deletes what the command made.
        secs: Seconds that the command takes undisturbed.
    """
    whole, random, kills, tries = line.files(command[0]), np.random.default_rng(0), 0, 0
    while kills < KILLS:
        reset()
        for _ in range(_KILLS_A_ROUND):
            tries += 1
            if not line.kill(*command, random.uniform(0.2, 1.0) * secs):
                break
            kills += 1
        line.run(*command)
        found = line.files(command[0])
        assert found == whole, (f"after {kills} kills", dict(whole.items() ^ found.items()))
        assert not list((line.root / "out").rglob("*.tmp-*"))
    return f"{kills} kills of {tries} runs, same bytes"


@pytest.mark.parametrize(("stage", "how", "flags"), _CASES, ids=[f"{stage}, {how}" for stage, how, _ in _CASES])
def test_killed_at_random_moments(line: Line, stage: str, how: str, flags: list[str]) -> None:
    undisturbed = line.files(stage)
    line.clear(stage)
    secs = line.run(stage, flags)
    assert undisturbed and (line.files(stage) == undisturbed or stage == "train")
    print(f"{stage}, {how}: {_check_kills(line, (stage, flags), lambda: line.clear(stage), secs)}")


@pytest.mark.parametrize(
    ("change", "how", "flags"), _CHANGING_CASES, ids=[f"{change}, {how}" for change, how, _ in _CHANGING_CASES]
)
def test_a_change_killed_at_random_moments(line: Line, change: str, how: str, flags: list[str]) -> None:
    command = "reindex", [*line.prepare(change), *flags]
    secs = line.run(*command)
    print(f"{change}, {how}: {_check_kills(line, command, line.reset, secs)}")
