"""The predict command: its rows are a recogniser's, its bytes the same for any workers and after a kill."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from model import predict
from model.recognizer import Recognizer
from pipelines import storage
from tests.model.recognition.line import Line

_BEAM = "--runner=FnApiRunner"


def _argv(line: Line, *flags: str) -> list[str]:
    return [f"--run={line.workdir}", *flags]


def _write(line: Line, output: pathlib.Path, *flags: str) -> pathlib.Path:
    images = (
        [] if any("predict_set" in flag or "images" in flag for flag in flags) else [f"--images={line.root / 'test'}"]
    )
    assert predict.main(_argv(line, f"--output={output}", *images, *flags, _BEAM)) == 0
    return output


@pytest.fixture(scope="module")
def written(line, tmp_path_factory):
    return _write(line, tmp_path_factory.mktemp("predicted") / "x.parquet", "--influence", "--head=mam")


def test_rows_are_a_recognisers(line, written):
    rows = pq.read_table(written).to_pylist()
    assert [f"{row['source_shard']}/{row['member']}" for row in rows] == line.photographs()
    assert [row["label"] for row in rows] == [pathlib.Path(path).parent.name for path in line.photographs()]
    with Recognizer.open(str(line.workdir), head="mam") as recognizer:
        for row, found in zip(rows, recognizer.predict(line.photographs(), influence=True), strict=True):
            assert (*row["classes"],) == found.classes and (*row["probabilities"],) == found.probabilities
            near = [(n.id, n.caption, n.url, n.score, n.weight, n.influence) for n in found.neighbors[:10]]
            assert [tuple(n.values()) for n in row["neighbors"]] == near
    assert not list(written.parent.glob("*.parts"))


def test_says_the_accuracy_and_the_rejects(line, tmp_path, capsys):
    shutil.copytree(line.root / "test", tmp_path / "mixed")
    (tmp_path / "mixed/red/broken.png").write_bytes(b"no image")
    (tmp_path / "mixed/other").mkdir()
    shutil.copy(line.photographs()[0], tmp_path / "mixed/other/x.png")
    shutil.copy(line.photographs()[0], tmp_path / "mixed/other/x.heic")
    _write(line, tmp_path / "x.parquet", f"--images={tmp_path / 'mixed'}")
    said = capsys.readouterr().out
    assert "16 photographs" in said and "of 15 with a label" in said and "1, listed in" in said
    assert "passed over  1 .heic" in said
    assert "1 of 16, such as of 'other', which is the name of no class of the model" in " ".join(said.split())
    (reject,) = pq.read_table(tmp_path / "x.rejects.parquet").to_pylist()
    assert reject["member"] == "red/broken.png" and reject["error_type"] == "CannotDecode"


@pytest.mark.parametrize("workers", [2])
def test_bytes_are_the_same_for_any_workers(line, written, tmp_path, workers):
    more = ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
    assert _write(line, tmp_path / "x.parquet", "--influence", "--head=mam", *more).read_bytes() == written.read_bytes()


def test_csv_and_json_lines_say_the_same(line, tmp_path):
    rows = [json.loads(row) for row in _write(line, tmp_path / "x.jsonl").read_text().splitlines()]
    with _write(line, tmp_path / "x.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(rows) == len(cells) == len(line.photographs())
    for row, cell in zip(rows, cells, strict=True):
        assert cell["class_1"] == row["classes"][0] and float(cell["probability_1"]) == row["probabilities"][0]
        assert json.loads(cell["neighbors"]) == row["neighbors"] and cell["member"] == row["member"]


def test_a_pattern_and_a_source_name_photographs(line, tmp_path, written):
    found = pq.read_table(_write(line, tmp_path / "a.parquet", f"--images={line.root}/test/*/*.png", "--head=mam"))
    assert found["probabilities"].equals(pq.read_table(written)["probabilities"])
    members = [path.removeprefix(f"{line.root}/") for path in line.photographs()]
    (tmp_path / "list.txt").write_text("".join(f"{member} {number // 5}\n" for number, member in enumerate(members)))
    fields = [f"--config.predict_set.path={tmp_path / 'list.txt'}", f"--config.predict_set.image_root={line.root}"]
    rows = pq.read_table(_write(line, tmp_path / "c.parquet", *fields, "--head=mam"))
    assert rows["probabilities"].equals(found["probabilities"]) and rows["label"].to_pylist()[4:6] == ["blue", "green"]
    fields = ["--config.predict_set.format=img2dataset", f"--config.predict_set.path={line.root}/pairs/*.tar"]
    assert pq.read_table(_write(line, tmp_path / "b.parquet", *fields)).num_rows == 12


def test_a_few_photographs_are_shown(line, capsys):
    assert predict.main(_argv(line, f"--images={line.photographs()[0]}", "--head=mam", "--top=2")) == 0
    said = capsys.readouterr().out
    assert "0.png" in said and "blue" in said and "a blue dog" in said


def test_a_file_whose_name_looks_like_a_pattern(line, tmp_path, capsys):
    path = tmp_path / "im[1]*.png"
    shutil.copy(line.photographs()[0], path)
    assert predict.main(_argv(line, f"--images={path}")) == 0
    assert "im[1]*.png" in capsys.readouterr().out


def test_photographs_of_a_store(line, tmp_path, capsys):
    root = f"memory://{tmp_path.name}"
    paths = line.photographs()[4:6]
    for path in paths:
        with storage.atomic_write(f"{root}/{pathlib.Path(path).parent.name}/x.png") as file:
            file.write(pathlib.Path(path).read_bytes())
    rows = pq.read_table(_write(line, tmp_path / "x.parquet", f"--images={root}/*/*.png")).to_pylist()
    assert [row["member"] for row in rows] == ["blue/x.png", "green/x.png"]
    with Recognizer.open(str(line.workdir)) as recognizer:
        assert [(*row["probabilities"],) for row in rows] == [f.probabilities for f in recognizer.predict(paths)]
    for images, said in (
        (f"{root}/*/*.png,{line.root}/test/*/*.png", "share no folder; predict one after the other"),
        ("http://127.0.0.1:9/x.png", "http://127.0.0.1:9/x.png: cannot be reached"),
    ):
        assert predict.main(_argv(line, f"--images={images}", f"--output={tmp_path / 'y.csv'}", _BEAM)) == 2
        assert said in capsys.readouterr().err
    storage.remove(root)


def test_more_classes(line, tmp_path):
    (tmp_path / "more.txt").write_text("dog\ncat\n")
    more = [f"--classes={tmp_path / 'more.txt'}", "--head=mam_names", "--top=9"]
    rows = pq.read_table(_write(line, tmp_path / "x.parquet", *more)).to_pylist()
    assert {*rows[0]["classes"]} == {"blue", "green", "red", "cat", "dog"}


def test_refusals(line, tmp_path, capsys):
    (tmp_path / "there.csv").write_text("")
    images = f"--images={line.root / 'test'}"
    for flags, said in (
        ([f"--output={tmp_path / 'x.parquet'}"], "give --images=PATTERN, or a source"),
        ([images], "--output is missing"),
        ([images, f"--output={tmp_path / 'x.txt'}"], "must end in .parquet, .csv, .jsonl"),
        ([images, f"--output={tmp_path / 'there.csv'}"], "exists; name another file"),
        ([f"--images={tmp_path}/*.png", f"--output={tmp_path / 'x.csv'}"], "matches no file"),
        ([images, f"--output={tmp_path / 'x.csv'}", "--head=nohead"], "is not among the trained ones"),
        ([images, "--model=a", "--run=b"], "give --model=BUNDLE or --run=WORKDIR, not both"),
        ([images, f"--output={tmp_path / 'x.csv'}", "--top=0"], "--top must be at least 1"),
    ):
        assert predict.main(_argv(line, *flags, _BEAM)) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_job_resumes_with_the_same_bytes(line, written, tmp_path):
    output = tmp_path / "x.parquet"
    more = ["--influence", "--head=mam", f"--images={line.root / 'test'}", f"--output={output}", _BEAM]
    command = [sys.executable, "-m", "model.predict", *_argv(line, *more)]
    for pattern in ("keys/_done/*.json", "predictions/_done/*.json"):
        process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if list(pathlib.Path(f"{output}.parts").glob(pattern)):
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not output.exists():
        assert subprocess.run(command, env=os.environ, check=False).returncode == 0
    assert output.read_bytes() == written.read_bytes()
