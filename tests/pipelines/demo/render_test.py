"""Pixels with a known colour and place; the processes that share the work."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from pipelines.demo import render
from pipelines.demo.styles import Drawing
from pipelines.errors import UserError

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}"><rect width="{w}" height="{h}" fill="{fill}"/></svg>'
)


def _svg(fill: str, w: int = 10, h: int = 10) -> bytes:
    return SVG.format(fill=fill, w=w, h=h).encode()


def _pixel(jpeg: bytes, x: int, y: int) -> tuple[int, ...]:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG" and image.mode == "RGB"
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return tuple(round(value / 16) * 16 for value in pixel)


def _webp() -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (200, 100), (0, 0, 255, 255)).save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.mark.parametrize("data", [_svg("blue", 20, 10), _webp()])
def test_a_drawing_is_centred_on_its_background(data: bytes) -> None:
    jpeg = render.render(data, "#ff0000", 64)
    assert Image.open(io.BytesIO(jpeg)).size == (64, 64)
    assert _pixel(jpeg, 32, 32) == (0, 0, 256)
    assert _pixel(jpeg, 32, 4) == _pixel(jpeg, 32, 60) == _pixel(jpeg, 1, 32) == (256, 0, 0)


def test_processes_give_the_bytes_of_one_process_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [(Drawing(str(i), _svg(f"#{6 * i:02x}0080")), "#ffffff") for i in range(40)]
    done: list[int] = []
    alone = list(render.render_all(tasks, 32, done.append))
    assert done == list(range(41))
    monkeypatch.setattr(render, "POOL_MIN_DRAWINGS", 40)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert list(render.render_all(tasks, 32, done.append)) == alone
    assert len(set(alone)) == 40


@pytest.mark.parametrize("data", [b"<svg", b"\xff\xfe", b"RIFF, but no WebP"])
def test_a_drawing_that_cannot_be_rendered_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match="some/icon cannot be rendered"):
        list(render.render_all([(Drawing("some/icon", data), "#ffffff")], 32, lambda done: None))


def _runs(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_processes_die_with_a_killed_parent(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from pipelines.demo import render\n"
        "from pipelines.demo.styles import Drawing\n"
        "if __name__ == '__main__':\n"
        "    os.cpu_count = lambda: 2\n"
        f"    images = render.render_all([(Drawing('x', {_svg('red')!r}), '#ffffff')] * 400, 32, id)\n"
        "    next(images)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = pathlib.Path(render.__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2 and all(map(_runs, children))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, children))
