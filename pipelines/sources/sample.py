"""The parts of a source: input shards, samples, and rows that are rejected or filtered."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from configs.base import Source
from pipelines.errors import UserError, nearest

MAX_TEXT_BYTES = 1 << 20
MAX_LABEL = (1 << 31) - 1
MAX_DEPTH = 64
"""How deep the metadata of a row may be nested."""

_OWN_PLACE = {"caption", "label", "url", "width", "height"}
# What img2dataset records about its own work, and EXIF, which may be large and personal.
_BOOKKEEPING = {"key", "status", "error_message", "exif"}


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
    """

    member: str
    image: bytes
    caption: str | None = None
    label: int | None = None
    url: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reject:
    """One row that cannot be read, and why."""

    member: str
    stage: str
    error_type: str
    message: str
    retryable: bool = False


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
            raise UserError(f"--config..fields={entry}: must be ours=theirs, such as caption=txt")
        if ours not in defaults:
            raise UserError(f"--config..fields={entry}: there is no {ours!r}; {nearest(ours, list(defaults))}")
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
        found = next((name for name in theirs if fields.get(name) is not None), None)
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
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, bytes) else str(value)


def to_sample(
    member: str, image: bytes, fields: Mapping[str, Any], vectors: Mapping[str, np.ndarray] | None = None
) -> Sample | Reject | Filtered:
    """Makes a sample of a row's fields; a field of a wrong type is a reject, a download that failed is filtered.

    Args:
        member: name inside the container.
        image: encoded bytes.
        fields: `caption`, `label` and `url`, and others, which become metadata as JSON values.
        vectors: embeddings that the source provides.
    """
    status = fields.get("status", "success")
    if status != "success":
        return Filtered(member, "status", f"{status}: {fields.get('error_message')}")
    caption, label, url = fields.get("caption"), fields.get("label"), fields.get("url")
    if not _is_label(label):
        return Reject(member, "read", "BadLabel", f"label is {str(label)[:80]!r}, must be a whole number from 0")
    if not isinstance(caption, str | None):
        return Reject(member, "read", "BadCaption", f"caption is of type {type(caption).__name__}, not a text")
    url = url if isinstance(url, str) else None
    try:
        check_depth(fields)
        metadata = _metadata(fields)
        size = len(json.dumps([caption, url, metadata], ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        return Reject(member, "read", "BadMetadata", str(error))
    if size > MAX_TEXT_BYTES:
        return Reject(member, "read", "TooLarge", f"its texts have {size:,} bytes, the limit is {MAX_TEXT_BYTES:,}")
    return Sample(member, image, (caption or "").strip() or None, label, url, metadata, vectors or {})


def _is_label(label: object) -> bool:
    return label is None or (isinstance(label, int) and not isinstance(label, bool) and 0 <= label <= MAX_LABEL)


def _metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all other fields as JSON values."""
    others = {name: value for name, value in fields.items() if name not in _OWN_PLACE | _BOOKKEEPING}
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
