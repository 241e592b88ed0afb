"""The marker of each input shard that is done, `_done/{shard}.json`, written after its files."""

import dataclasses
from collections.abc import Iterable, Mapping

from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.manifest.claims import (
    MARKERS,
)

_MARKER_AGAIN = "remove it and run web-memory embed again"


@dataclasses.dataclass(frozen=True)
class Marker:
    """Says that an input shard is done; written last. Rows balance: in = out + rejected + filtered.

    Attributes:
        number: upper part of the ids of its rows.
        name: of its files, without suffix.
        uri: of the input.
        size_bytes: of the input.
        etag: of the input.
        rows_in: rows that the reader found.
        rows_out: rows that have vectors.
        rows_rejected: rows that cannot be read.
        output_sha256: of the Parquet file of vectors.
        config_hash: of the folder.
        run_id: of the command.
        secs: time that the shard took.
        rows_filtered: rows that a filter excludes by their own fields.
        filtered: number of filtered rows by filter.
        passed_over: files and members of the input that belong to no row, by suffix.
        retryable: rejected rows that another attempt may be able to read.
        attempt: 1, or more after retries.
        unknown_classes: rows with vectors and without a label, because the training set does not have their class.
        output_footer: SHA-256 of that file's footer (`schemas.footer_sha256`).
        rejects_sha256: of the file of rejected rows.
        filtered_sha256: of the file of filtered rows.
    """

    number: int
    name: str
    uri: str
    size_bytes: int
    etag: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    output_sha256: str
    config_hash: str
    run_id: str
    secs: float
    rows_filtered: int = 0
    filtered: dict[str, int] = dataclasses.field(default_factory=dict)
    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
    retryable: int = 0
    attempt: int = 1
    unknown_classes: int = 0
    output_footer: str = ""
    rejects_sha256: str = ""
    filtered_sha256: str = ""

    def write(self, folder: str) -> None:
        """Writes the marker; a `ValueError` if its rows do not balance."""
        balance = self.rows_out + self.rows_rejected + self.rows_filtered
        if self.rows_in != balance or self.rows_filtered != sum(self.filtered.values()):
            raise ValueError(
                f"{self.name}: {self.rows_in} rows in, {self.rows_out} out, {self.rows_rejected} rejected, "
                f"{self.rows_filtered} filtered ({self.filtered})"
            )
        storage.write_json(storage.join(folder, MARKERS, f"{self.name}.json"), dataclasses.asdict(self))


def read_marker(folder: str, shard: str, config_hash: str) -> Marker | None:
    """Returns the marker of one shard, or None if it is not done.

    Raises:
        UserError: if it is broken or belongs to another configuration.
    """
    path = storage.join(folder, MARKERS, f"{shard}.json")
    if not storage.exists(path):
        return None
    marker = marker_of(path)
    if marker.name != shard:
        raise UserError(f"{path}: is the marker of {marker.name}; {_MARKER_AGAIN}")
    if marker.config_hash != config_hash:
        raise UserError(f"{path}: belongs to configuration {marker.config_hash}, not {config_hash}; remove the folder")
    return marker


def marker_of(path: str) -> Marker:
    """Reads a marker at a path; a `UserError` if it is missing or damaged, or names something outside its folder."""
    value = schemas.read_json(path, schemas.shape_of(Marker), _MARKER_AGAIN)
    try:
        marker = Marker(**value)
    except TypeError as error:
        raise UserError(f"{path}: is not a marker of this version ({error}); {_MARKER_AGAIN}") from error
    storage.inside(path, marker.name)
    return marker


def read_markers(folder: str, config_hash: str, known: Mapping[str, Marker] | None = None) -> dict[str, Marker]:
    """Returns the markers of a folder by shard name.

    Args:
        folder: of the outputs.
        config_hash: that each must carry.
        known: markers that have been read before.

    Raises:
        UserError: as `read_marker`.
    """
    names = [storage.name(path).removesuffix(".json") for path in storage.files(storage.join(folder, MARKERS), ".json")]
    found = {name: (known or {}).get(name) or read_marker(folder, name, config_hash) for name in names}
    markers = {name: marker for name, marker in found.items() if marker}
    check_numbers(folder, ((marker.number, name) for name, marker in markers.items()))
    return markers


def check_numbers(folder: str, shards: Iterable[tuple[int, str]]) -> None:
    """Raises a `UserError` if two shards of a folder, given by number and name, have one number."""
    names: dict[int, str] = {}
    for number, name in shards:
        if names.setdefault(number, name) != name:
            path = storage.join(folder, MARKERS, f"{name}.json")
            raise UserError(f"{path}: has the number {number}, which {names[number]} has too; {_MARKER_AGAIN}")
