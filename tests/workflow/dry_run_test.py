"""`--dry_run` of every command: what it says, and that not one file below the workdir is created or changed."""

import hashlib
import importlib
import pathlib
import shutil

import pytest

import web_memory
from tests.model.recognition.line import Line

# What a command needs beside the config; {root} is the folder of the line.
_MORE = {
    "encoders": ["{root}/image"],
    "init": ["mine", "--images={root}/test"],
    "search": ["--text=red"],
    "ablate": ["--vary=k=2,3"],
    "predict": ["--images={root}/test/red/*.png"],
    "arrays": ["--output={root}/arrays"],
    "export": ["--output={root}/bundle"],
}
# Their configs are of another kind, or they need another encoder.
_REFUSED = {
    "demo_corpus": "only a DemoConfig",
    "align": "only a TwoTowerConfig",
}
# They look at the disk, and need no inputs but the config.
_ALWAYS = ("init", "encoders", "leaks", "search", "plan", "embed", "reindex", "run", "check")


class _Copy(Line):
    """The line with a workdir of its own, over the same images and encoders."""

    def __init__(self, made: Line, workdir: pathlib.Path, is_empty: bool = False) -> None:
        if not is_empty:
            shutil.copytree(made.workdir, workdir)
        self.root, self._workdir, self.flags = made.root, workdir, made.flags | {"workdir": workdir}

    @property
    def workdir(self) -> pathlib.Path:
        return self._workdir


@pytest.fixture
def empty(line, tmp_path):
    return _Copy(line, tmp_path / "empty", is_empty=True)


@pytest.fixture
def copied(line, tmp_path):
    return _Copy(line, tmp_path / "out")


def _dry(line: Line, name: str) -> int:
    more = [text.format(root=line.root) for text in _MORE.get(name, [])]
    argv = [*more, *line.argv("--dry_run")] if name == "encoders" else line.argv("--dry_run", *more)
    argv = [*more, "--dry_run"] if name == "init" else argv
    return importlib.import_module(web_memory.STAGES[name][0]).main(argv)


def _snapshot(root: pathlib.Path) -> dict[str, tuple]:
    """Everything below a folder: bytes and times of change of files, and folders."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in [root, *root.rglob("*")]
    }


@pytest.mark.parametrize("name", sorted(web_memory.STAGES))
def test_nothing_is_written(name, copied, capsys):
    before = _snapshot(copied.root) | _snapshot(copied.workdir)
    code = _dry(copied, name)
    printed = capsys.readouterr()
    assert _snapshot(copied.root) | _snapshot(copied.workdir) == before
    if name in _REFUSED:
        assert code == 2 and _REFUSED[name] in printed.err
    else:
        assert (code, printed.err) == (0, "")
        assert "dry run: nothing was written" in printed.out


@pytest.mark.parametrize("name", sorted(web_memory.STAGES.keys() - _REFUSED.keys()))
def test_an_empty_workdir_stays_empty(name, empty, capsys):
    code = _dry(empty, name)
    assert not empty.workdir.exists()
    printed = capsys.readouterr()
    assert code == (0 if name in _ALWAYS else 2), printed.err


def test_what_is_done_and_what_would_be(copied, capsys):
    def said(name: str) -> dict[str, str]:
        assert _dry(copied, name) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        return {parts[0]: parts[1] for line in lines if len(parts := line.split(maxsplit=1)) == 2}

    assert said("embed")["memory"] == "2 of 2 shards done (12 rows); nothing to embed"
    assert said("build")["done"] == "the index of 12 rows is published; nothing to build"
    assert said("neighbors")["done"] == "all lists are looked up; nothing to do"
    # One trial and two seeds of each head.
    assert said("train")["mam"] == "3 of 3 runs done; nothing to train"
    (copied.runs / "mam/seed-1/result.json").unlink()
    assert said("train")["mam"] == "2 of 3 runs done; would train 1 of 20 steps in all"
    assert said("sweep")["mam"] == "1 of 1 run done; nothing to train"
    shutil.rmtree(copied.workdir / "neighbors")
    assert said("neighbors")["done"] == "0 of 3 blocks of lists"
    shutil.rmtree(copied.workdir / "index")
    assert said("build")["would"] == "build 1"
    (copied.workdir / "memory/_done/00001.json").unlink()
    size = (copied.root / "pairs/00001.tar").stat().st_size
    assert said("embed")["memory"] == f"1 of 2 shards done (6 rows); would embed 1, of {size:,} bytes"
    for path in (copied.workdir / "queries/val/_done").iterdir():
        path.unlink()
    assert said("embed")["val"] == "0 of 1 shard done (0 rows); would embed 1, of 12 rows"


def test_run_stops_where_inputs_are_missing(copied, capsys):
    shutil.rmtree(copied.workdir / "index")
    assert _dry(copied, "run") == 0
    out = capsys.readouterr().out
    assert "embed, dry run" in out and "build, dry run" in out and "neighbors, dry run" not in out
    assert "neighbors, train, report: would follow; what they would do depends on what build writes" in out


def test_a_value_goes_to_beam(copied, capsys):
    assert importlib.import_module("pipelines.embed").main(copied.argv("--dry_run=true")) == 2
    assert "--dry_run: DirectRunner does not have it" in capsys.readouterr().err
    assert importlib.import_module("model.train").main(copied.argv("--dry_run=true")) == 2
    assert "--dry_run=true: unknown flag; did you mean '--dry_run'?" in capsys.readouterr().err


def test_run_looks_for_names_where_lists_go_by_them(copied, capsys):
    (copied.workdir / "index/manifest.json").rename(copied.workdir / "index/kept.json")
    run = importlib.import_module("workflow.run")
    assert run.main(copied.argv("--dry_run", "--config.neighbors.by=name")) == 0
    said = capsys.readouterr().out
    assert "concepts, dry run: nothing was written" in said and "build, neighbors, train, report: would follow" in said
    assert run.main(copied.argv("--dry_run")) == 0
    assert "concepts" not in capsys.readouterr().out
