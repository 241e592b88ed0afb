"""The parts of a source: input shards, samples, and rows that are rejected or filtered."""

import collections
import contextlib
import dataclasses
import decimal
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from configs.base import Source
from pipelines.errors import UserError, nearest
from pipelines.progress import counted
from pipelines.sources.labels import Labels, UnknownClass, is_name

MAX_TEXT_BYTES = 1 << 20
MAX_LABEL = (1 << 31) - 1
_LOGIN = re.compile(r"(?<=://)[^\s/?#\x22]*@")
_SUFFIX = re.compile(r"\.[^\s.]{1,16}\Z")
_MOST_SUFFIXES = 100
_OWN_PLACE = {"caption", "label", "url"}
# EXIF may be large and personal.
_LEFT_OUT = _OWN_PLACE | {"exif"}
# What img2dataset records about its own work, in its own formats and in the tables of vectors made from them.
_BOOKKEEPING = {"key", "error_message"}
_IMG2DATASET = {"img2dataset", "img2dataset_parquet", "tfrecord", "vectors"}
_FAILED, _DONE = "failed_to_", "success"
_WHOLE_NUMBER = re.compile(r"[0-9]{1,40}(\.0{0,40})?")
_MAX_WHOLE_DIGITS = 80
_MAX_SHOWN_CHARS = 80
MAX_DEPTH = 64
"""How deep the metadata of a row may be nested."""


@dataclasses.dataclass(frozen=True)
class InputShard:
    """One unit of work: a file of samples, or consecutive rows of a list.

    Attributes:
        source: that it belongs to, with whole paths (`sources.resolve`).
        name: of the output file, without suffix.
        uri: the file of samples, or the list that names them.
        size_bytes: of the file or of the rows.
        etag: changes with the input; for listed rows also with their images, if these are local.
        rows: number of rows; 0 if it is unknown before they are read.
        listing: Parquet file of the rows of a list; empty for a file of samples.
        siblings: files beside `uri` that are read with it.
        number: upper part of the ids of its rows.
        labels: how names of classes in the file become labels; None if a label must be a number.
        others: is given the number of members that belong to no row, by suffix, while the file is read.
        rows_sha256: of the rows in the listing.
    """

    source: Source
    name: str
    uri: str
    size_bytes: int
    etag: str
    rows: int = 0
    listing: str = ""
    siblings: tuple[str, ...] = ()
    number: int = -1
    labels: Labels | None = None
    others: "collections.Counter[str] | None" = dataclasses.field(default=None, compare=False)
    rows_sha256: str = ""

    @property
    def container(self) -> str:
        """Where `sources.read_image` finds a member again: the file itself, or the folder that the list is of."""
        return self.source.image_root if self.listing else self.uri


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as it was found, still encoded, with its caption, label and metadata.

    Attributes:
        member: name inside the shard's container.
        image: encoded bytes; empty if there are `vectors` instead.
        caption: None for none.
        label: class, from 0.
        url: where the image came from.
        metadata: the source's other fields, as JSON values.
        vectors: embeddings that the source provides, float32 or float16 `[D]` for each column.
        unknown_class: whether it has no label because the training set does not have its class.
    """

    member: str
    image: bytes
    caption: str | None = None
    label: int | None = None
    url: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unknown_class: bool = False


@dataclasses.dataclass(frozen=True)
class Reject:
    """One row that cannot be read, and why."""

    member: str
    stage: str
    error_type: str
    message: str
    retryable: bool = False


def storable_text(text: str) -> str:
    """Returns a text that UTF-8 can hold: half surrogate pairs, as JSON and file names may have, become escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def without_login(text: str) -> str:
    """Returns a text without the names and passwords, `user:secret@`, of the URLs in it."""
    return _LOGIN.sub("", text) if "@" in text else text


def read_bounded(file: IO[bytes], limit: int) -> bytes:
    """Reads a file to its end; a `ValueError` if it has more than `limit` bytes."""
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"is larger than {limit:,} bytes")
    return data


@dataclasses.dataclass(frozen=True)
class Filtered:
    """One row that a filter excludes by its own fields.

    Attributes:
        member: as of a sample.
        filter: name of the filter, by which such rows are counted.
        value: that did not pass.
    """

    member: str
    filter: str
    value: str


def count_passed_over(counts: "collections.Counter[str] | None", member: str) -> None:
    """Adds a file or member that belongs to no row to counts, if any, by suffix: `.txt`, `hidden`, `without suffix`."""
    if counts is None:
        return
    base = member.rpartition("/")[2]
    suffix = _SUFFIX.search(base)
    kind = "hidden" if base.startswith(".") else suffix[0].lower() if suffix else "without suffix"
    counts[kind if kind in counts or len(counts) < _MOST_SUFFIXES else "other suffixes"] += 1


def said_passed_over(counts: "collections.Counter[str]") -> str:
    """Returns counts of `count_passed_over` as text: `8 .txt, 4 .db`."""
    most_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in most_first)


def field_names(source: Source, defaults: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Returns the names that each of our fields may have in the source, in the order of preference.

    Args:
        source: whose `fields` say `ours=theirs`.
        defaults: our fields with their default names.

    Raises:
        UserError: if an entry is not `ours=theirs`, or names none of our fields.
    """
    names = dict(defaults)
    for entry in source.fields:
        ours, equals, theirs = entry.partition("=")
        if not equals or not theirs:
            raise UserError(f"the source's fields={entry}: must be ours=theirs, such as caption=txt")
        if ours not in defaults:
            raise UserError(f"the source's fields={entry}: there is no {ours!r}; {nearest(ours, list(defaults))}")
        names[ours] = (theirs,)
    return names


def rename(fields: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Returns the fields of a source with ours under our names, None if missing; the others keep their names.

    Args:
        fields: by the source's names.
        names: as `field_names` returns them; the first that has a value is used.
    """
    rest, ours = dict(fields), {}
    for our, theirs in names.items():
        found = next((name for name in theirs if not is_missing(fields.get(name))), None)
        ours[our] = rest.pop(found, None) if found else None
    return {**rest, **ours}


def check_depth(value: Any) -> None:
    """Raises a `ValueError` if lists and objects of JSON are nested more than `MAX_DEPTH` deep.

    Deeper ones can be parsed, but not everywhere written again: how deep Python goes depends on who calls.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        parts = [part if isinstance(part, list | tuple) else part.values() for part in level]
        level = [inner for part in parts for inner in part if isinstance(inner, dict | list | tuple)]
        if not level:
            return
    raise ValueError(f"is nested more than {MAX_DEPTH} deep")


def _json_value(value: Any) -> Any:
    """Returns a value as JSON: numbers that are not finite and bytes become null, other types their text."""
    if isinstance(value, str):
        return without_login(value)
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return _exact_number(value)
    if isinstance(value, Mapping):
        return {str(name): _json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, np.generic):
        return _json_value(value.item())
    return None if isinstance(value, bytes) else str(value)


def _exact_number(value: decimal.Decimal) -> int | float | str | None:
    """Returns a decimal as the number of the same digits; where no float has them, as text."""
    if not value.is_finite():
        return None
    if abs(value.adjusted()) > _MAX_WHOLE_DIGITS:
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    return float(value) if decimal.Decimal(repr(float(value))) == value else str(value)


def is_missing(value: Any) -> bool:
    """Tells whether a value says that there is none: null, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float | decimal.Decimal) and math.isnan(value))


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float | decimal.Decimal):
        return repr(str(value)[:_MAX_SHOWN_CHARS])
    return f"a list of {counted(len(value), 'value')}" if isinstance(value, list | tuple) else _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with the fields {', '.join(map(str, value))[:_MAX_SHOWN_CHARS]}"
    return f"of type {type(value).__name__}"


def _single(value: Any) -> Any:
    """Returns the value of a list of one, None for an empty list, any other value as it is."""
    return (value[0] if value else None) if isinstance(value, list | tuple) and len(value) < 2 else value


def label_of(value: Any) -> int | None:
    """Returns the label that a value of a source stands for, None for none; the rule is the same in all formats.

    Whole numbers are labels: integers, floats and decimals without a fraction, and texts of digits (`7`, `7.0`). Null,
    NaN and blank text are none. A list of one value stands for that value, an empty list for none.

    Raises:
        ValueError: says what the value is, if it is something else.
    """
    value = _single(value)
    value = value.item() if isinstance(value, np.generic) else value
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, decimal.Decimal) and value.is_finite() and value.adjusted() < _MAX_WHOLE_DIGITS:
        number = int(value) if value == value.to_integral_value() else None
    elif isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        number = int(value.strip().partition(".")[0])
    if number is None or not 0 <= number <= MAX_LABEL:
        raise ValueError(f"label is {_shown(value)}, must be a whole number from 0")
    return number


def caption_of(value: Any, number: int = 0) -> str | None:
    """Returns the caption that a value of a source stands for, stripped; None if there is none.

    Args:
        value: a text, or a list of them.
        number: which text of a list is the caption; for 0 the first that is not blank.

    Raises:
        ValueError: says what the value is, if it is something else.
    """
    texts = [None if is_missing(text) else text for text in (value if isinstance(value, list | tuple) else [value])]
    for text in texts:
        if not isinstance(text, str | None):
            inside = " in a list" if isinstance(value, list | tuple) else ""
            raise ValueError(f"caption is {_kind(text)}{inside}, not a text")
    if number >= max(len(texts), 1):
        raise ValueError(f"has {counted(len(texts), 'caption')}, so there is none of number {number}, counted from 0")
    stripped = [(text or "").strip() or None for text in texts]
    return stripped[number] if number else next((text for text in stripped if text), None)


def _url_of(value: Any) -> str | None:
    """Returns the URL that a value of a source stands for, None for none; errors as `caption_of`."""
    value = _single(value)
    if is_missing(value) or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"url is {_shown(value)}, must be a text")
    return without_login(value)


def to_sample(
    shard: InputShard,
    member: str,
    image: bytes,
    fields: Mapping[str, Any],
    vectors: Mapping[str, np.ndarray] | None = None,
) -> Sample | Reject | Filtered:
    """Makes a sample of a row's fields; a field of a wrong type is a reject, a download that failed is filtered.

    A memory's row of a class that the training set does not have keeps its name in the metadata, as `class`.

    Args:
        shard: of the row; its format says which fields are img2dataset's own, its `labels` what a class's name means.
        member: name inside the container.
        image: encoded bytes.
        fields: `caption`, `label` and `url`, and others, which become metadata as JSON values.
        vectors: embeddings that the source provides.
    """
    left_out = _LEFT_OUT
    if shard.source.format in _IMG2DATASET:
        status = fields.get("status")
        if isinstance(status, str) and status.startswith(_FAILED):
            return Filtered(member, "status", f"{status}: {fields.get('error_message')}")
        left_out = left_out | _BOOKKEEPING | ({"status"} if status == _DONE else set())
    try:
        # Those of lists count from 0 since they were planned.
        first = 0 if shard.listing else shard.source.first_label
        label, is_unknown = _label(shard.labels, fields.get("label"), first)
    except ValueError as error:
        return Reject(member, "read", "UnknownClass" if isinstance(error, UnknownClass) else "BadLabel", str(error))
    try:
        caption = caption_of(fields.get("caption"), shard.source.caption_number)
    except ValueError as error:
        return Reject(member, "read", "BadCaption", str(error))
    try:
        url = _url_of(fields.get("url"))
    except ValueError as error:
        return Reject(member, "read", "BadUrl", str(error))
    try:
        check_depth(fields)
        metadata = _metadata({"class": fields["label"], **fields} if is_unknown else fields, left_out)
        size = len(json.dumps([caption, url, metadata], ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        return Reject(member, "read", "BadMetadata", str(error))
    if size > MAX_TEXT_BYTES:
        return Reject(member, "read", "TooLarge", f"its texts have {size:,} bytes, the limit is {MAX_TEXT_BYTES:,}")
    return Sample(member, image, caption, label, url, metadata, vectors or {}, is_unknown)


def number_or_name(value: Any) -> int | str | None:
    """Returns the label or the name of a class that a value stands for, None for none; errors as `label_of`."""
    value = _single(value)
    return value if is_name(value) else label_of(value)


def counted_from(first: int, label: int) -> int:
    """Returns a label that counts from `first` as one that counts from 0; a `ValueError` if it is less."""
    if label < first:
        raise ValueError(f"label is {label}, the source's 'first_label' is {first}")
    return label - first


def _label(found: Labels | None, value: Any, first: int) -> tuple[int | None, bool]:
    """Returns the label that a value stands for, and whether it is the name of a class that a memory alone has.

    Args:
        found: how names become numbers; None if labels are numbers.
        value: as the source has it.
        first: number of the first class where labels are numbers.
    """
    if found is None:
        number = label_of(value)
        return number if number is None else counted_from(first, number), False
    value = _single(value)
    named = value if isinstance(value, str) and value.strip() else label_of(value)
    if named is None:
        return None, False
    number = found.number(named)
    return number, number is None


def _metadata(fields: Mapping[str, Any], left_out: set[str]) -> dict[str, Any]:
    """Returns all other fields as JSON values."""
    others = {name: value for name, value in fields.items() if name not in left_out}
    return {name: value for name, value in _json_value(others).items() if value is not None}


def stated_digest(metadata: Mapping[str, Any]) -> bytes | None:
    """Returns the SHA-256 that a source states for the image as it was downloaded, 32 bytes, or None.

    img2dataset encodes images again, so their bytes differ from those on the web.
    """
    stated = metadata.get("sha256")
    with contextlib.suppress(TypeError, ValueError):
        digest = bytes.fromhex(stated or "")
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    return None
