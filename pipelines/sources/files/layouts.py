"""Which arrays and tables belong together: files of one name in several folders, `X.npy` and `y.npy`, or one `.npz`.

An array that the source's `fields` do not name is found by the names that people give it. Where two would do, the
source has to say which.
"""

import contextlib
import dataclasses
import re
from collections.abc import Sequence

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.files import arrays
from pipelines.sources.sample import field_names

IMAGES = "img_emb"
KEY = "key"
"""Our column of keys; as the name of an array, `value_image=key`, the array that it is made of."""

COLUMNS = {KEY: (IMAGES,), "value_image": (), "value_text": ("text_emb",)}
FIELDS = {
    "caption": ("caption", "TEXT", "text"),
    "label": ("label",),
    "url": ("url", "URL"),
}
_TABLES = "metadata"
_LABELS = ("y", "labels", "label", "targets", "target")
# Of an .npz: what the array of each column may be called, where `fields` do not say. DataComp has two of each.
_KEYS = (IMAGES, "X", "x", "features", "embeddings", "vectors", "image_features", "image_embeddings", "image")
_KEY_ENDS = "_img"
_TEXTS = {IMAGES: "text_emb", "image_features": "text_features", "image_embeddings": "text_embeddings", "image": "text"}
_VECTORS_WORD = re.compile(r"(?<![^\W_])(X|x|features|feats|embeddings|vectors)(?![^\W_])")


@dataclasses.dataclass(frozen=True)
class Place:
    """An array: a file, or the one of this name in it."""

    uri: str
    array: str = ""

    def __str__(self) -> str:
        """Returns the name for messages."""
        return self.array or storage.name(self.uri)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What belongs together.

    Attributes:
        columns: the array of each of our columns.
        labels: the array of the labels, if there is one.
        table: with the other fields, empty for none.
        others: names of the arrays of the file that belong to no column.
        stack: closes what is opened.
        packed: the arrays of an `.npz`.
    """

    columns: dict[str, Place]
    labels: Place | None
    table: str
    others: list[str]
    stack: contextlib.ExitStack
    packed: arrays.Arrays | None = None

    def open(self, place: Place) -> arrays.Bytes:
        """Opens an array; a `BrokenStream` if it cannot be read."""
        if place.array and self.packed:
            return self.packed.open(place.array)
        return arrays.read_plain(place.uri, self.stack)


def find(source: Source, uri: str, beside: Sequence[str], stack: contextlib.ExitStack) -> Layout:
    """Returns the layout of a file of embeddings.

    Args:
        source: with whole paths.
        uri: of the file.
        beside: which of its `siblings` exist.
        stack: closes what is opened.

    Raises:
        BrokenStream: if it is no `.npz`, although its name says so.
        UserError: if what `fields` name does not exist, or two arrays would do.
    """
    is_packed = uri.endswith(".npz")
    packed = arrays.Arrays(uri, stack) if is_packed else None
    columns = _packed(source, uri, packed.names) if packed else _files(source, uri, beside)
    table = next((sibling for sibling in beside if sibling.endswith(".parquet")), "")
    labels = _labels(source, uri, beside, packed.names if packed else [])
    used = {place.array for place in [*columns.values(), *([labels] if labels else [])]}
    others = [name for name in packed.names if name not in used] if packed else []
    named = _chosen(source).keys() & FIELDS.keys() - ({"label"} if labels else set())
    if named and not table:
        raise UserError(f"{uri}: there is no {_table_name(uri)} with the fields named")
    return Layout(columns, labels, table, others, stack, packed)


def siblings(source: Source, uri: str) -> list[str]:
    """Returns where the files that belong to a file of embeddings may be."""
    if IMAGES not in storage.name(uri):
        here = uri.removesuffix(storage.name(uri))
        own = [source.metadata] if source.metadata.endswith((".npy", ".parquet")) else []
        labels = [] if source.metadata.endswith(".npy") else [f"{here}{name}" for name in _label_names(uri)]
        folder = source.metadata if source.metadata and not own else here
        tables = [] if source.metadata.endswith(".parquet") else [storage.join(folder, _table_name(uri))]
        return [*own, *labels, *tables]
    kinds = [kind for kinds in _columns(source).values() for kind in kinds if kind != IMAGES]
    found = [candidate for kind in kinds for candidate in _candidates(uri, kind, ".npy")]
    return [*found, *_candidates(uri, _TABLES, ".parquet", source.metadata)]


def _name(uri: str, kind: str, suffix: str) -> str:
    """Returns the file name of another kind: `img_emb_0000.npy` gives `metadata_0000.parquet`."""
    return storage.name(uri).replace(IMAGES, kind).removesuffix(".npy") + suffix


def _table_name(uri: str) -> str:
    return _name(uri.removesuffix(".npz"), _TABLES, ".parquet")


def _label_names(uri: str) -> list[str]:
    """Returns what the file of labels may be called: `X_train.npy` gives `y_train.npy` and `labels_train.npy`."""
    name = storage.name(uri)
    if not (name.endswith(".npy") and _VECTORS_WORD.search(name)):
        return []
    return [_VECTORS_WORD.sub(label, name) for label in _LABELS]


def _labels(source: Source, uri: str, beside: Sequence[str], packed: Sequence[str]) -> Place | None:
    """Returns the array of labels: of an `.npz` with the names `packed`, or a file; None if there is none."""
    chosen = _chosen(source).get("label")
    if chosen in packed:
        return Place(uri, str(chosen))
    files = [sibling for sibling in beside if sibling.endswith(".npy")]
    if IMAGES in storage.name(uri) or (chosen and not source.metadata.endswith(".npy")):
        # Another file of this layout is a column, and a label that has a name is a column of the table.
        return None
    inside = [] if chosen else [name for name in packed if name in _LABELS]
    found = _only(uri, "label", [*inside, *files])
    return Place(uri, found.uri) if found and found.uri in inside else found


def _only(uri: str, ours: str, candidates: Sequence[str]) -> Place | None:
    """Returns the one candidate, None for none; a `UserError` if there are several."""
    if len(candidates) > 1:
        shown = " and ".join(storage.name(name) for name in candidates)
        remedy = (
            f"the source's fields={ours}={storage.name(candidates[0])}" if uri.endswith(".npz") else "metadata=FILE"
        )
        raise UserError(f"{uri}: {shown} may each be the {ours}; say which by {remedy}")
    return Place(candidates[0]) if candidates else None


def _candidates(uri: str, kind: str, suffix: str, folder: str = "") -> list[str]:
    """Returns where the file of another kind may be: in `folder` or, without one, beside this file or its folder."""
    name = _name(uri, kind, suffix)
    if folder:
        return [storage.join(folder, name)]
    here = uri.removesuffix(storage.name(uri))
    parent = storage.name(here)
    above = here.rstrip("/").removesuffix(parent)
    own = [f"{above}{parent.replace(IMAGES, kind)}/{name}"] if IMAGES in parent else []
    return [f"{here}{name}", *own]


def _chosen(source: Source) -> dict[str, str]:
    return {ours: theirs for ours, _, theirs in (entry.partition("=") for entry in source.fields)}


def _columns(source: Source) -> dict[str, tuple[str, ...]]:
    names = field_names(source, {**COLUMNS, **FIELDS})
    return {ours: names[ours] for ours in COLUMNS}


def _files(source: Source, uri: str, beside: Sequence[str]) -> dict[str, Place]:
    """Returns the .npy file of each column; files that are only a default may be missing."""
    found = {}
    chosen, own = _chosen(source), {IMAGES, KEY, storage.name(uri).removesuffix(".npy")}
    for ours, kinds in _columns(source).items():
        for kind in kinds:
            files = [uri] if kind in own else [f for f in beside if storage.name(f) == _name(uri, kind, ".npy")]
            if files:
                found[ours] = Place(files[0])
            elif ours in chosen:
                raise UserError(f"{uri}: there is no {_name(uri, kind, '.npy')} for {ours}={kind}")
    return found


def _packed(source: Source, uri: str, names: Sequence[str]) -> dict[str, Place]:
    """Returns the array of each column in an `.npz`."""
    chosen = _chosen(source)
    for ours in COLUMNS:
        if ours in chosen and chosen[ours] not in names and (ours == KEY or chosen[ours] != KEY):
            raise UserError(
                f"{uri}: has no array {chosen[ours]!r} ({ours}=..); its arrays are {', '.join(names)[:500]}"
            )
    if KEY not in chosen:
        found = _only(uri, KEY, [name for name in names if name in _KEYS or name.endswith(_KEY_ENDS)])
        if not found:
            raise UserError(
                f"{uri}: say which array has the vectors by the source's fields=key=..; its arrays are "
                f"{', '.join(names)[:500]}"
            )
        chosen[KEY] = found.uri
    key = chosen[KEY]
    text = _TEXTS.get(key) or (f"{key.removesuffix(_KEY_ENDS)}_txt" if key.endswith(_KEY_ENDS) else "")
    if text in names:
        chosen.setdefault("value_text", text)
    named = {ours: chosen[ours] for ours in COLUMNS if ours in chosen}
    return {ours: Place(uri, name if name in names else key) for ours, name in named.items()}
