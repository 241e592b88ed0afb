"""Renders emoji to JPEG.

Owns the geometry, the codec settings and the processes that share the work. Equal drawings give equal bytes with the
same versions of resvg_py and pillow. The caller provides the drawings and stores the images.
"""

import concurrent.futures
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool

import PIL
import resvg_py
from PIL import Image

from pipelines.demo.styles import Drawing
from pipelines.errors import UserError

_JPEG_QUALITY = 90
_MARGIN_SHARE = 1 / 16
# Drawings from which on processes share the work; the images do not depend on it.
POOL_MIN_DRAWINGS = 400
_POOL_CHUNK = 16


def render(data: bytes, background: str, image_size: int) -> bytes:
    """Renders a drawing, centred with a small margin, as a square JPEG.

    Args:
        data: an SVG or WebP file.
        background: `#rrggbb`.
        image_size: side in pixels.

    Returns:
        JPEG bytes, which depend on the arguments alone.

    Raises:
        ValueError: if the drawing cannot be rendered.
    """
    inner = image_size - 2 * round(image_size * _MARGIN_SHARE)
    if data[:4] == b"RIFF":
        picture = Image.open(io.BytesIO(data), formats=["WEBP"]).convert("RGBA")
        picture.thumbnail((inner, inner), Image.Resampling.LANCZOS)
    else:
        png = resvg_py.svg_to_bytes(svg_string=data.decode(), skip_system_fonts=True, width=inner, height=inner)
        picture = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGBA")
    canvas = Image.new("RGBA", (image_size, image_size), background)
    canvas.alpha_composite(picture, ((image_size - picture.width) // 2, (image_size - picture.height) // 2))
    jpeg = io.BytesIO()
    canvas.convert("RGB").save(jpeg, "JPEG", quality=_JPEG_QUALITY)
    return jpeg.getvalue()


def render_all(
    tasks: Sequence[tuple[Drawing, str]], image_size: int, on_done: Callable[[int], None]
) -> Generator[bytes, None, None]:
    """Renders many drawings, in as many processes as there are cores if there is enough work for them.

    Args:
        tasks: drawings and their backgrounds, `#rrggbb`.
        image_size: side in pixels.
        on_done: called with the number of finished tasks.

    Yields:
        The JPEG of each task, in order. Close the generator to stop early.

    Raises:
        UserError: if a drawing cannot be rendered or a process is killed.
    """
    work = [(drawing.data, background, image_size, drawing.path) for drawing, background in tasks]
    workers = min(os.cpu_count() or 1, len(work) // (POOL_MIN_DRAWINGS // 2))
    on_done(0)
    if workers < 2:
        for done, task in enumerate(work, 1):
            image = _render_task(task)
            on_done(done)
            yield image
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_die_with_parent
    )
    try:
        for done, image in enumerate(pool.map(_render_task, work, chunksize=_POOL_CHUNK), 1):
            on_done(done)
            yield image
    except BrokenProcessPool as error:
        raise UserError(
            "a process that renders emoji was killed, perhaps for lack of memory; run the same command again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _render_task(task: tuple[bytes, str, int, str]) -> bytes:
    data, background, image_size, path = task
    try:
        return render(data, background, image_size)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be rendered ({error}); install the pinned resvg_py and pillow, installed are "
            f"{resvg_py.__version__} and {PIL.__version__}"
        ) from error


def _die_with_parent() -> None:
    """Ties a worker to its parent, which may be killed without a chance to stop it; the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
