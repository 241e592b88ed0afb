"""YFCC15M: the subset of YFCC100M with English texts that CLIP's authors chose, joined with YFCC100M's own metadata.

`path` is OpenAI's `yfcc100m_subset_data.tsv` (line number, photo id, hash of 14,829,396 photos; openai/CLIP,
data/yfcc100m.md), `metadata` is `yfcc100m_dataset`, or its parts `yfcc100m_dataset-{0..9}.bz2`, which has the same
three columns first. Line numbers count from 0, are written in the file, and are the index of the image: image 12345678
is `12/345.zip/678.jpg` below the image root, as facebookresearch/SLIP lays them out.

The caption is title and description, cleaned as SLIP does: URL-quoting is decoded; tags of links, bold and italics, and
anything that looks like an address, are removed. SLIP draws one of the two for each training step; a memory has one
text for an image, so here they are joined.
"""

import array
import re
import urllib.parse
from collections.abc import Iterator

import numpy as np

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources import patterns
from pipelines.sources.listing import Row
from pipelines.sources.text import decode_line, files, read_raw_lines

_PHOTO_ID, _USER, _DATE, _TITLE, _DESCRIPTION, _PAGE, _URL, _LICENSE, _LICENSE_URL = 1, 4, 5, 8, 9, 15, 16, 17, 18
_COLUMNS = 25
_MAX_DIGITS = 8
_MAX_PHOTO_ID = (1 << 63) - 1
_TAGS = re.compile(r"<a.*?>|</a>|<b>|</b>|<i>|</i>")
_ADDRESSES = re.compile(r"http\S+|www\S+")


def rows(source: Source) -> Iterator[Row]:
    """Yields the photos of the subset, in the order of their line numbers.

    The subset is kept as arrays, 16 bytes a photo (237 MB, twice that while it is sorted); the metadata is streamed.

    Raises:
        UserError: if a line of either is wrong, they disagree on a photo, or the metadata lacks one.
    """
    if not source.metadata:
        raise UserError("the source's metadata: is empty; yfcc15m needs the texts of yfcc100m_dataset")
    wanted, photos = _read_subset(files(source))
    if not len(wanted):
        return
    place, target, last = 0, int(wanted[0]), -1
    for uri in [file.uri for file in patterns.glob(source.metadata)]:
        for number, line in read_raw_lines(uri):
            if not line.strip():
                continue
            index = _index(line.partition(b"\t")[0], uri, number)
            if index <= last:
                raise UserError(f"{uri}, line {number}: has line number {index} after {last}; they must grow")
            last = index
            if index < target:
                continue
            if index > target:
                raise UserError(f"{uri}, line {number}: has line number {index}, but {target} is missing before it")
            yield _row(index, int(photos[place]), decode_line(uri, number, line), f"{uri}, line {number}")
            place += 1
            if place == len(wanted):
                return
            target = int(wanted[place])
    raise UserError(f"{source.metadata}: ends before line number {target}, which {source.path} names")


def _read_subset(uris: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns line numbers and photo ids, int64, sorted by line number."""
    lines, photos = array.array("q"), array.array("q")
    for uri in uris:
        for number, line in read_raw_lines(uri):
            if not line.strip():
                continue
            columns = line.rstrip(b"\r\n").split(b"\t")
            if len(columns) != 3:
                raise UserError(f"{uri}, line {number}: must be line number, photo id and hash, found {line[:80]!r}")
            lines.append(_index(columns[0], uri, number))
            photos.append(_photo(columns[1], uri, number))
    order = np.argsort(np.asarray(lines), kind="stable")
    wanted = np.asarray(lines)[order]
    twice = wanted[1:][np.diff(wanted) == 0]
    if len(twice):
        raise UserError(f"{', '.join(uris)}: names line number {twice[0]} more than once")
    return wanted, np.asarray(photos)[order]


def _index(text: bytes, uri: str, number: int) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise UserError(f"{uri}, line {number}: must begin with a number below 100 million, found {text[:80]!r}")
    return int(text)


def _photo(text: bytes, uri: str, number: int) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > _MAX_PHOTO_ID:
        raise UserError(f"{uri}, line {number}: must have a photo id in its second column, found {text[:80]!r}")
    return int(text)


def _row(index: int, photo: int, line: str, where: str) -> Row:
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) != _COLUMNS:
        raise UserError(f"{where}: has {len(columns)} columns, yfcc100m_dataset has {_COLUMNS}")
    if columns[_PHOTO_ID] != str(photo):
        found = columns[_PHOTO_ID][:80]
        raise UserError(f"{where}: is of photo {found}, the subset has photo {photo} for line number {index}")
    texts = [clean(columns[_TITLE]), clean(columns[_DESCRIPTION])]
    digits = f"{index:08d}"
    fields = {
        "caption": " ".join(text for text in texts if text),
        "url": columns[_URL],
        "photo_id": photo,
        "user": urllib.parse.unquote_plus(columns[_USER]),
        "date_taken": columns[_DATE],
        "page": columns[_PAGE],
        "license": columns[_LICENSE],
        "license_url": columns[_LICENSE_URL],
    }
    return Row(f"{digits[:2]}/{digits[2:5]}.zip/{digits[5:]}.jpg", fields)


def clean(text: str) -> str:
    """Returns a title or description as people read it: unquoted, without tags and addresses."""
    return _ADDRESSES.sub("", _TAGS.sub("", urllib.parse.unquote_plus(text))).strip()
