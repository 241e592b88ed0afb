"""Small pictures of rows as JPEG files, each written once, made from pixels so that nothing of the original is copied.

Their names are numbers of rows; nothing that a stranger has named becomes a path.
"""

import dataclasses
import io
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from model.gallery.rows import Rows
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.pictures import Pictures

SIDE = 96
"""Pixels of the longer side of a picture."""
MOST_BYTES, WORTH_BYTES = 42_000_000, 1_800
"""What all pictures may take together, so that they stay below 60 MB with the page, and what one needs to be seen."""
_LARGEST_BYTES, _QUALITIES, _SIDES = 16_000, (85, 75, 60, 45, 30), (SIDE, 64, 48)
_THREADS = 2
# Rows of a list that a thread reads before it takes others.
_PART = 128
_WEB = ("http://", "https://")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Rows of one source whose pictures are wanted.

    Attributes:
        prefix: of the files' names.
        rows: of the source.
        pictures: of the source.
    """

    prefix: str
    rows: Rows
    pictures: Pictures


@dataclasses.dataclass
class Written:
    """What was written.

    Attributes:
        files: the name of each row's file, for each source; None for a row without a picture.
        size_bytes: of all files.
        unreadable: rows whose picture cannot be read now.
        on_the_web: rows whose picture would have to be downloaded, and is not.
        why: what was wrong with the first container that could not be read; empty for none.
    """

    files: list[list[str | None]]
    size_bytes: int = 0
    unreadable: int = 0
    on_the_web: int = 0
    why: str = ""


@dataclasses.dataclass(frozen=True)
class _Part:
    """Rows of one container, by place, that one thread reads."""

    source: int
    container: str
    places: list[int]


def most_pictures() -> int:
    """Returns how many pictures are worth showing, given what they may take together."""
    return MOST_BYTES // WORTH_BYTES


def encode(picture: Image.Image, most_bytes: int) -> bytes:
    """Returns a JPEG of at most `most_bytes`, the largest and best that fits; the smallest of all if none does."""
    data = b""
    for side in _SIDES:
        small = picture.copy()
        # Pillow would write the comment of the original.
        small.info = {}
        small.thumbnail((side, side))
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=quality, optimize=True)
            data = buffer.getvalue()
            if len(data) <= most_bytes:
                return data
    return data


def write(folder: str, sources: Sequence[Wanted], on_done: Callable[[int], None] = lambda count: None) -> Written:
    """Writes the pictures of rows as a folder that replaces the one of an earlier report.

    Each container is read once, in its own order. A picture that cannot be read is counted and left out.

    Args:
        folder: to write.
        sources: what to write.
        on_done: is told the number of rows that are done.
    """
    result = Written([[None] * len(wanted.rows.ids) for wanted in sources])
    count = sum(len(wanted.rows.ids) for wanted in sources)
    each = min(MOST_BYTES // max(count, 1), _LARGEST_BYTES)
    lock, done = threading.Lock(), 0

    def work(part: _Part) -> tuple[dict[int, bytes], str]:
        nonlocal done
        found, why = _read(sources[part.source], part, each)
        with lock:
            done += len(part.places)
            on_done(done)
        return found, why

    files: dict[str, bytes] = {}
    parts = [part for number, wanted in enumerate(sources) for part in _parts(number, wanted, result)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for part, (found, why) in zip(parts, pool.map(work, parts), strict=True):
            names = sources[part.source].rows.names
            for place, data in found.items():
                file = f"{sources[part.source].prefix}-{names[place]}.jpg"
                result.files[part.source][place], files[file] = file, data
            result.unreadable += len(part.places) - len(found)
            result.why = result.why or why
    result.size_bytes = sum(map(len, files.values()))
    storage.remove(folder)
    if files:
        with storage.atomic_folder(folder) as temporary:
            system, path = storage.filesystem(temporary)
            system.pipe({f"{path}/{file}": data for file, data in files.items()})
    return result


def _parts(source: int, wanted: Wanted, result: Written) -> Iterator[_Part]:
    """Yields the rows to read by container, those of a list in small parts; counts those on the web."""
    by_container = defaultdict(list)
    for place, (container, member) in enumerate(zip(wanted.rows.containers, wanted.rows.members, strict=True)):
        if member.lower().startswith(_WEB):
            result.on_the_web += 1
        else:
            by_container[container].append(place)
    for container, places in by_container.items():
        step = _PART if wanted.pictures.is_list else len(places)
        for first in range(0, len(places), step):
            yield _Part(source, container, places[first : first + step])


def _read(wanted: Wanted, part: _Part, most_bytes: int) -> tuple[dict[int, bytes], str]:
    """Returns the JPEGs of the rows of a part by their places, and why not all of the container could be read."""
    places: dict[str, list[int]] = defaultdict(list)
    found: dict[int, bytes] = {}
    for place in part.places:
        places[wanted.rows.members[place]].append(place)
    try:
        for member, picture in wanted.pictures.load_small(part.container, list(places), SIDE):
            if picture is not None:
                found |= dict.fromkeys(places[member], encode(picture, most_bytes))
    except UserError as error:
        return found, str(error)
    return found, ""
