"""Lists of lines `relative/path label`: ImageNet-LT, Places-LT and any other. A label is a number or a class's name.

A list of paths alone, such as those of DTD and Food-101, has the folder of each image as its class; if its paths have
no suffix, they get that of the first image.

The images of Places365 are published in several layouts, and the lists of Places-LT use more than one of them:

- `train/airport-x/1.jpg`, `val/airport-x/2.jpg`, also below `places365_standard/`: the download "with easy directory
  structure", and the lists of Decoupling (facebookresearch/classifier-balancing);
- `data_256/a/airport/x/1.jpg`, `val_256/2.jpg`: the plain downloads (`data_large`, `val_large` in high resolution;
  torchvision adds `_standard`), and the lists of OLTR (Places_LT_v2);
- `/a/airport/x/1.jpg`, `2.jpg`: the lists of Places365 itself.

Images are found in any of these layouts, whatever the style of the list.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.images.suffixes import is_image, suffixes
from pipelines.sources.images import below, leaves_root
from pipelines.sources.labels import is_name
from pipelines.sources.listing import Row
from pipelines.sources.sample import MAX_LABEL
from pipelines.sources.text import files, read_lines

_PROBED_ROWS = 20
_DIGITS, _BLANKS = "0123456789", " \t"
_NUMBERS = f"{_DIGITS},{_BLANKS}"
_BETWEEN = {*_BLANKS, *",;|"}
_STYLES = (
    re.compile(r"(?:places365_standard/)?(?P<split>train|val)/(?P<flat>[^/]+)/(?P<file>[^/]+)"),
    re.compile(r"(?:data_(?:256|large)(?:_standard)?/|/)[a-z]/(?P<nested>[^/]+(?:/[^/]+)?)/(?P<file>[^/]+)"),
    re.compile(r"(?:val_(?:256|large)/)?(?P<file>Places365_val_\d+\.jpg)"),
)
_EASY = ("", "places365_standard/")
_PLAIN = (
    ("data_256/", "val_256/"),
    ("data_256_standard/", "val_256/"),
    ("data_large/", "val_large/"),
    ("data_large_standard/", "val_large/"),
    ("", ""),
)


def parse_line(uri: str, number: int, line: str, names: bool = False) -> Row:
    """Returns the row of a line `relative/path label`; a `UserError` names a line that is something else.

    Args:
        uri: of the list.
        number: of the line.
        line: without its end.
        names: whether a label may be a name; the path must then end as that of an image.
    """
    text = line.rstrip(_BLANKS)
    head = text.rstrip(_DIGITS)
    path, label = (head.rstrip(_BLANKS), text[len(head) :]) if head.endswith(tuple(_BLANKS)) else ("", "")
    if names and not (label and is_image(path)) and (named := _named().fullmatch(line)):
        if is_name(named["name"]) and named["name"].strip(_NUMBERS):
            return Row(named["path"], {"label": named["name"].strip()})
    if not (path and label) or len(label) > 10 or int(label) > MAX_LABEL or _has_more_numbers(path):
        raise UserError(f"{uri}, line {number}: must be `relative/path label`, found {line[:80]!r}")
    return Row(path, {"label": int(label)})


@functools.cache
def _named() -> re.Pattern[str]:
    """Returns the pattern of a path and the name of a class, which may have spaces, as paths may."""
    ends = "|".join(re.escape(suffix) for suffix in sorted(suffixes()))
    return re.compile(rf"(?P<path>.+?(?:{ends}))[ \t]+(?P<name>.+)", re.IGNORECASE)


def _has_more_numbers(path: str) -> bool:
    """Tells whether numbers or commas follow a path, as in `a.jpg, 0` or `a.jpg 0 0`: which is the label?"""
    head = path.rstrip(_NUMBERS)
    return head != path and not path[len(head)].isdigit() and (is_image(head) or path.endswith(","))


def parse(uri: str, root: str, names: bool = False) -> Iterator[tuple[int, Row]]:
    """Yields number and row of each line of a list that is not blank, and checks it.

    Args:
        uri: of the list.
        root: folder that its paths are below.
        names: as of `parse_line`.
    """
    place = below(root)
    row_of: Callable[[int, str], Row] | None = None
    for number, line in read_lines(uri):
        if line.strip():
            row_of = row_of or _reader(uri, line, names)
            row = row_of(number, line)
            yield number, dataclasses.replace(row, member=place(row.member))


def _reader(uri: str, first: str, names: bool) -> Callable[[int, str], Row]:
    """Returns what reads the lines of a list, of which the first says whether it has paths alone."""
    return _Folders(uri).row if names and _is_path(first) else functools.partial(parse_line, uri, names=names)


def is_of_paths(uri: str) -> bool:
    """Tells whether a list has paths alone, by its first line."""
    return next((_is_path(line) for _, line in read_lines(uri) if line.strip()), False)


def _is_path(line: str) -> bool:
    """Tells whether a line is a path with a folder in it, and nothing else."""
    text = line.strip(_BLANKS)
    inside = text.replace("\\", "/").strip("/").count("/")
    return inside > 0 and "://" not in text and _ends(text) and not _named().fullmatch(line)


def _ends(path: str) -> bool:
    """Tells whether a path ends as that of an image, or has nothing that might be between it and a label."""
    return is_image(path) or not _BETWEEN.intersection(path)


class _Folders:
    """Reads the lines of a list of paths alone."""

    def __init__(self, uri: str) -> None:
        """Knows no folder yet."""
        self._uri, self._parents, self._levels = uri, dict[str, str](), set[int]()

    def row(self, number: int, line: str) -> Row:
        """Returns the row of a path, whose label is the name of its folder.

        Raises:
            UserError: if it is not a path alone, or folders do not say what the classes are: at several levels, or of
                one name in several places.
        """
        path = line.strip(_BLANKS).replace("\\", "/")
        where = f"{self._uri}, line {number}"
        if not _is_path(line):
            raise UserError(f"{where}: must be a path in the folder of its class, as before, found {line[:80]!r}")
        parent, _, name = path.rpartition("/")[0].rpartition("/")
        self._levels.add(parent.count("/") + bool(parent))
        if self._parents.setdefault(name, parent) != parent or len(self._levels) > 1:
            raise UserError(
                f"{where}: {path[:80]!r} has no label, and the folders of the images before it say the class otherwise "
                "(at another level, or by the same name elsewhere); write `relative/path label` in each line"
            )
        return Row(path, {"label": name})


def suffix(root: str, member: str) -> str:
    """Returns the suffix of the image that a path without one names; nothing if there is no such image, or several.

    Args:
        root: folder that the path is below.
        member: the path.
    """
    if is_image(member) or leaves_root(member):
        return ""
    folder, _, stem = member.rpartition("/")
    # A name may be longer than the storage allows.
    with contextlib.suppress(OSError, UserError):
        entries = storage.entries(storage.join(root, folder) if folder else root)
        ends = {os.path.splitext(entry.name) for entry in entries if entry.kind == "file" and is_image(entry.name)}
        found = [end for start, end in ends if start == stem]
        return found[0] if len(found) == 1 else ""
    return ""


def rows(source: Source) -> Iterator[Row]:
    """Yields the rows of the lists of a source, their paths in the style of the images.

    Raises:
        UserError: if a line is wrong, or a list is of Places365 and its first images are below the image root in no
            known layout.
    """
    for uri in files(source):
        listed = (row for _, row in parse(uri, source.image_root, names=True))
        first = list(itertools.islice(listed, _PROBED_ROWS))
        members = [row.member for row in first]
        place = _style(uri, members, source.image_root)
        end = suffix(source.image_root, members[0]) if members and not any(map(is_image, members)) else ""
        for row in itertools.chain(first, listed):
            member = row.member + end if place is None else place(row.member)
            yield dataclasses.replace(row, member=member)


@dataclasses.dataclass(frozen=True)
class _Place:
    """An image of Places365; `scene` is its class as the easy structure writes it, empty if the path has none."""

    split: str
    scene: str
    file: str


_Layout = Callable[[_Place], str]


def _place(member: str) -> _Place | None:
    for style in _STYLES:
        if match := style.fullmatch(member):
            found = match.groupdict()
            scene = found.get("flat") or found.get("nested", "").replace("/", "-")
            return _Place(found.get("split") or ("train" if scene else "val"), scene, found["file"])
    return None


def _easy(top: str, scenes: dict[str, str], place: _Place) -> str:
    return f"{top}{place.split}/{place.scene or scenes.get(place.file, '')}/{place.file}"


def _plain(data: str, val: str, place: _Place) -> str:
    if place.split == "val":
        return f"{val}{place.file}"
    return f"{data}{place.scene[0]}/{place.scene.replace('-', '/')}/{place.file}"


def _scenes(folder: str) -> dict[str, str]:
    """Returns the class of each validation image, which paths of the easy structure have and plain ones do not."""
    scenes = [entry.name for entry in storage.entries(folder) if entry.kind != "file"]
    return {entry.name: scene for scene in scenes for entry in storage.entries(storage.join(folder, scene))}


def _layouts(root: str, places: list[_Place]) -> Iterator[_Layout]:
    for top in _EASY:
        unknown = any(not place.scene for place in places)
        yield functools.partial(_easy, top, _scenes(storage.join(root, f"{top}val")) if unknown else {})
    for data, val in _PLAIN:
        yield functools.partial(_plain, data, val)


def _style(uri: str, members: list[str], root: str) -> Callable[[str], str] | None:
    """Returns a function from a path in the list to one below the root; None if paths need no change."""
    places = [place for member in members if (place := _place(member))]
    present = sum(_is_there(root, member) for member in members)
    if len(places) < len(members) or present == len(members):
        return None
    best: _Layout | None = None
    # A layout may have the images of one split and not of the other.
    for layout in _layouts(root, places):
        found = sum(_is_there(root, layout(place)) for place in places)
        if found > present:
            best, present = layout, found
    if not present:
        raise UserError(
            f"{uri}: none of its first {len(members)} images is below {root}, nor in a layout of Places365; "
            "check the source's image_root"
        )
    return functools.partial(_move, best) if best else None


def _move(layout: _Layout, member: str) -> str:
    place = _place(member)
    return layout(place) if place else member


def _is_there(root: str, member: str) -> bool:
    # A name may be longer than the storage allows.
    with contextlib.suppress(OSError):
        return not leaves_root(member) and storage.exists(storage.join(root, member))
    return False
