"""The emoji styles: the package of each, its licence, and the names of its drawings.

Owns the pins of the packages, the catalogue of emoji (OpenMoji's, after Unicode's) and the join of each package to it.
Captions, classes and splits are up to `classes`, fetching to `npm_packages`, pixels to `render`.

Left out of the catalogue: OpenMoji's own extras, skin tone variants and the mirrored "facing right" sequences (both
near duplicates, which would be on both sides of a split), and the component swatches (skin tones, hair).
"""

import dataclasses
import json
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pipelines.demo import npm_packages
from pipelines.demo.npm_packages import Package
from pipelines.errors import UserError

_MAX_JSON_BYTES = 1 << 26
_MAX_DRAWING_BYTES = 1 << 20
_SVG = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclasses.dataclass(frozen=True)
class Style:
    """One vendor's drawings of the emoji.

    Attributes:
        package: has the drawings.
        layout: of the package: `chars` and `names` are an iconify `icons.json`, with icons found by the code points of
            `chars.json` or by their names alone; `svg` is OpenMoji's folder; `webp` is a folder of rendered images.
        captions: forms of alternative text as sites with this style would write it; one is drawn for each emoji.
        background: colour of the page behind the drawing, `#rrggbb`.
    """

    package: Package
    layout: Literal["chars", "names", "svg", "webp"]
    captions: tuple[str, ...]
    background: str = "#ffffff"


@dataclasses.dataclass(frozen=True)
class Emoji:
    """An emoji of the catalogue.

    Attributes:
        codepoints: lower case hexadecimal, joined by dashes, without variation selectors.
        name: Unicode's short name.
        tags: its keywords.
        subgroup: Unicode's subgroup, the class.
    """

    codepoints: str
    name: str
    tags: tuple[str, ...]
    subgroup: str


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One style's picture of one emoji.

    Attributes:
        path: of the file or icon in its package.
        data: an SVG file, or a WebP file for the layout `webp`.
    """

    path: str
    data: bytes


OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    "CC-BY-SA-4.0",
    "OpenMoji, HfG Schwäbisch Gmünd",
    "https://openmoji.org",
)
STYLES: dict[str, Style] = {
    "noto": Style(
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            "Apache-2.0",
            "Google",
            "https://github.com/googlefonts/noto-emoji",
        ),
        "chars",
        ("{name}", "{name}: {tags}", "{name}: {tags}", "{name} emoji"),
    ),
    "twemoji": Style(
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            "CC-BY-4.0",
            "Twitter and other contributors",
            "https://github.com/jdecked/twemoji",
        ),
        "chars",
        ("{name}", "{name}: {tags}", "{name} ({tags})", "{name} emoji, {tags}"),
    ),
    "openmoji": Style(
        OPENMOJI,
        "svg",
        ("{name}", "{name} icon: {tags}", "{tags}, {name}", "{name} - {tags}"),
    ),
    "fluent-3d": Style(
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "MIT",
            "Microsoft",
            "https://github.com/microsoft/fluentui-emoji",
        ),
        "webp",
        ("{name} 3D render", "3D {name}, {tags}", "{name} | {tags}", "{name}: {tags}"),
    ),
    "fluent-flat": Style(
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
            "MIT",
            "Microsoft",
            "https://github.com/microsoft/fluentui-emoji",
        ),
        "chars",
        ("{name} flat icon", "{name}, {tags}", "{name}: {tags}", "{tags} - {name}"),
    ),
    "emojione": Style(
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
            "CC-BY-4.0",
            "EmojiOne",
            "https://github.com/EmojiTwo/emojitwo",
        ),
        "names",
        ("{name}", "{name} emoji", "{name}: {tags}", "{name}, {tags}"),
    ),
    "fxemoji": Style(
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
            "Apache-2.0",
            "Mozilla",
            "https://github.com/mozilla/fxemoji",
        ),
        "names",
        ("{name}", "{name} sticker", "{name}: {tags}", "{name}, {tags}"),
    ),
}


def read_catalogue(tarball: pathlib.Path) -> tuple[Emoji, ...]:
    """Returns the base emoji of OpenMoji's tarball in Unicode's order; a `UserError` if it cannot be read."""
    rows = _read_json(tarball, "package/data/openmoji.json")
    emoji = []
    for row in sorted(rows, key=lambda row: (int(row["order"] or 0), row["hexcode"])):
        codepoints = _codepoints(row["hexcode"])
        if row["skintone"] or row["group"].startswith("extras") or row["group"] == "component":
            continue
        if codepoints.endswith("-200d-27a1"):
            continue
        tags = dict.fromkeys(tag.strip() for tag in f"{row['tags']},{row['openmoji_tags']}".split(","))
        kept = tuple(tag for tag in tags if tag and tag != row["annotation"])
        emoji.append(Emoji(codepoints, row["annotation"], kept, row["subgroups"]))
    return tuple(emoji)


def read_drawings(style: Style, tarball: pathlib.Path, catalogue: Iterable[Emoji]) -> dict[str, Drawing]:
    """Returns a style's drawings of the catalogue's emoji, by code points; a `UserError` if it cannot be read."""
    if style.layout == "svg":
        return _read_files(tarball, "package/color/svg/", ".svg", catalogue)
    if style.layout == "webp":
        return _read_files(tarball, "package/assets/", ".webp", catalogue)
    icons = _read_json(tarball, "package/icons.json")
    if style.layout == "chars":
        chars = _read_json(tarball, "package/chars.json")
        names = {_codepoints(char): name for char, name in sorted(chars.items(), reverse=True)}
    else:
        names = _join_by_name([*icons["icons"], *icons.get("aliases", {})], catalogue)
    return {
        emoji.codepoints: Drawing(name, _icon_svg(icons, name))
        for emoji in catalogue
        if (name := names.get(emoji.codepoints)) is not None
    }


def _codepoints(text: str) -> str:
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def _read_json(tarball: pathlib.Path, name: str) -> Any:
    members = npm_packages.read_members(tarball, lambda member: member == name, _MAX_JSON_BYTES)
    if name not in members:
        raise UserError(f"{tarball}: has no {name}; remove it and run the same command again")
    return json.loads(members[name])


def _read_files(tarball: pathlib.Path, folder: str, suffix: str, catalogue: Iterable[Emoji]) -> dict[str, Drawing]:
    known = {emoji.codepoints for emoji in catalogue}

    def codepoints(name: str) -> str | None:
        if not name.startswith(folder) or not name.endswith(suffix):
            return None
        stem = _codepoints(name[len(folder) : -len(suffix)])
        return stem if stem in known else None

    files = npm_packages.read_members(tarball, lambda name: codepoints(name) is not None, _MAX_DRAWING_BYTES)
    drawings = {}
    for name in sorted(files, reverse=True):
        stem = codepoints(name)
        assert stem is not None
        drawings[stem] = Drawing(name.removeprefix("package/"), files[name])
    return drawings


def _join_by_name(icons: Iterable[str], catalogue: Iterable[Emoji]) -> dict[str, str]:
    """Returns icon names by code points, found by Unicode's short name or else its character name."""
    by_name = {_squeeze(icon): icon for icon in sorted(icons, reverse=True)}
    joined = {}
    for emoji in catalogue:
        names = [emoji.name, emoji.name.replace("flag: ", "flag for ")]
        if "-" not in emoji.codepoints:
            names.append(unicodedata.name(chr(int(emoji.codepoints, 16)), emoji.name))
        if found := [by_name[name] for name in map(_squeeze, names) if name in by_name]:
            joined[emoji.codepoints] = found[0]
    return joined


def _squeeze(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", plain.lower().replace("&", "and"))


def _icon_svg(icons: Mapping[str, Any], name: str) -> bytes:
    """Returns an iconify icon as a file; of the transformations of aliases, the pinned packages use only `hFlip`."""
    flip = False
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        flip ^= alias.get("hFlip", False)
        name = alias["parent"]
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if flip:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return f'<svg {_SVG} viewBox="{left} {top} {width} {height}">{body}</svg>'.encode()
