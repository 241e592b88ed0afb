"""The commands of docs/tutorial.md, word for word and in order, on pictures that the test draws."""

import csv
import io
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.world import REPOSITORY

COMMANDS = [
    line.strip()
    for line in (REPOSITORY / "docs/tutorial.md").read_text().splitlines()
    if line.startswith("    ") and line.split()[0] in ("web-memory", "echo", "cp")
]
CLASSES = ("circle", "square", "triangle", "cross")
_EACH, _PAIRS = 12, 120


def _draw(kind: str, seed: int) -> bytes:
    """Returns a JPEG of a shape on a ground of clouds, so that no two pictures are taken for copies."""
    rng = np.random.default_rng([CLASSES.index(kind), seed])
    ink = tuple(rng.integers(155, 256, 3).tolist())
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    pen, size, (x, y) = ImageDraw.Draw(image), int(rng.integers(14, 30)), rng.integers(34, 62, 2).tolist()
    box = (x - size, y - size, x + size, y + size)
    match kind:
        case "circle":
            pen.ellipse(box, fill=ink)
        case "square":
            pen.rectangle(box, fill=ink)
        case "triangle":
            pen.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=ink)
        case _:
            pen.line((x - size, y, x + size, y), fill=ink, width=9)
            pen.line((x, y - size, x, y + size), fill=ink, width=9)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def _write_tar(path: pathlib.Path, first: int, count: int) -> None:
    """Writes image-text pairs as img2dataset does."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + count):
            kind, key = CLASSES[number % len(CLASSES)], f"{number:09d}"
            about = json.dumps({"url": f"http://pictures.example/{number}.jpg", "key": key, "status": "success"})
            members = {"jpg": _draw(kind, 1000 + number), "txt": f"a {kind}".encode(), "json": about.encode()}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that the reader of the page has: photos/, pairs/, more/ and new/."""
    root = tmp_path_factory.mktemp("tutorial")
    for kind in CLASSES:
        (root / "photos" / kind).mkdir(parents=True)
        for number in range(_EACH):
            (root / f"photos/{kind}/{number}.jpg").write_bytes(_draw(kind, number))
    _write_tar(root / "pairs/00000.tar", 0, _PAIRS)
    _write_tar(root / "more/00001.tar", _PAIRS, 20)
    (root / "new").mkdir()
    for number, kind in enumerate(CLASSES[:3]):
        (root / f"new/{number}.jpg").write_bytes(_draw(kind, 500 + number))
    return root


def _run(command: str, folder: pathlib.Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if command.startswith("web-memory"):
        command = command.replace("web-memory", f"{shlex.quote(sys.executable)} {REPOSITORY}/web_memory.py", 1)
    done = subprocess.run(command, cwd=folder, env=env, shell=True, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _serve(command: str, folder: pathlib.Path) -> dict:
    """Starts the service, asks it how it is, and stops it."""
    argv = [sys.executable, f"{REPOSITORY}/web_memory.py", *shlex.split(command)[1:]]
    env, quiet = {**os.environ, "PYTHONPATH": str(REPOSITORY)}, subprocess.DEVNULL
    process = subprocess.Popen(argv, cwd=folder, env=env, stdout=quiet, stderr=quiet)
    try:
        for _ in range(600):
            assert process.poll() is None, "it has ended"
            try:
                with urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=2) as answer:
                    return json.load(answer)
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise AssertionError("it does not answer")
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_every_command_does_what_the_page_says(folder):
    said = {}
    for command in COMMANDS:
        if command.startswith("web-memory app"):
            said[command] = _serve(command, folder)
        else:
            said[command] = _run(command, folder)
    by_stage: dict[str, list] = {}
    for command, printed in said.items():
        by_stage.setdefault(" ".join(command.split()[:2]), []).append(printed)
    assert "48" in by_stage["web-memory init"][0] and "img2dataset" in by_stage["web-memory init"][0]
    assert "nothing stands in the way" in by_stage["web-memory check"][0]
    for page in ("index", "classes", "gallery", "training", "data"):
        assert (folder / f"out/mine/report/{page}.html").stat().st_size > 1000
    assert all(f"{number}.jpg" in by_stage["web-memory predict"][0] for number in range(3))
    with open(folder / "found.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    removed, added = by_stage["web-memory reindex"]
    assert "0 added, 1 removed, 119 now" in removed and "20 added, 0 removed, 139 now" in added
    assert by_stage["web-memory app"][0]["classes"] == len(CLASSES)


def test_the_page_has_the_commands():
    assert [command.split()[1] for command in COMMANDS if command.startswith("web-memory")] == [
        *("init", "check", "run", "predict", "predict", "search", "reindex", "predict", "reindex"),
        *("export", "predict", "app"),
    ]
