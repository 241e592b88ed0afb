"""Embeds the names of the classes with the text encoders of the memory, into `classes.parquet` beside it.

Heads may compare the names with the texts of retrieved rows, or, where a text encoder shares the space of the keys,
with images. The file is whole or absent, and is written again only if something that decides its vectors changes.
Which head reads it is up to `model`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Encoders, Places
from configs.schema.data import FREQUENT
from pipelines import class_names, manifest, schemas, storage
from pipelines.embedding.names import class_texts
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet, TextEncoder
from pipelines.encoders.process import one_thread_a_call
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.runner import Runner

_KEY = "key"
_OTHERS = "other_synonyms"


@dataclasses.dataclass(frozen=True)
class Written:
    """What the file has.

    Attributes:
        classes: the number of embedded classes.
        shared: column of texts whose encoder shares the space of the keys; empty for none.
        others: classes whose vector there is of another synonym than the first.
    """

    classes: int = 0
    shared: str = ""
    others: int = 0

    def lines(self, path: str, encoders: Encoders) -> dict[str, str]:
        """Returns the lines of a summary; none if there is no file."""
        said = [f"{self.classes:,}, in {path}"]
        if self.shared:
            said.append(f"also in the space of the keys, by {self.shared}")
        if self.shared and encoders.synonyms == FREQUENT:
            said.append(f"there {self.others:,} by another synonym than the first")
        return {"class names": "; ".join(said)} if self.classes else {}


def read(places: Places) -> list[str]:
    """Returns the names in the config's file of class names; none without such a file.

    Raises:
        UserError: if the file cannot be read.
    """
    return class_names.read(storage.join(places.data, places.class_names)) if places.class_names else []


def check(specs: Mapping[str, EncoderSpec], encoders: Encoders) -> None:
    """Raises a `UserError` if prompts or synonyms are chosen for a space in which no names are embedded."""
    for name in ("prompts", "synonyms"):
        if getattr(encoders, name) != getattr(Encoders(), name) and not _of_key_space(specs):
            raise UserError(
                f"--config.encoders.{name}: is for names in the space of the keys, and no encoder of "
                "--config.encoders.value_text shares the space of --config.encoders.key; name the two towers of one "
                "checkpoint (docs/encoders.md, 'space'), or leave it out"
            )


def write(
    names: list[str],
    specs: Mapping[str, EncoderSpec],
    places: Places,
    encoders: Encoders,
    batch_size: int,
    runner: Runner,
) -> Written:
    """Writes the embedded class names, unless the file has them already.

    Args:
        names: of the classes.
        specs: of each vector column; the text encoders among them embed the names. The first whose space is that of
            the keys also fills the column `key`, as `encoders` says.
        places: of the file, and of the finished memory, whose captions may be counted.
        encoders: prompts and synonyms.
        batch_size: texts in each encoder call.
        runner: of the command, which counts captions.

    Returns:
        What the file has; nothing without names or without a text encoder.

    Raises:
        UserError: if an encoder returns values that are not finite, or only zeros.
    """
    texts = {column: spec for column, spec in specs.items() if spec.kind == "text"}
    if not names or not texts:
        return Written()
    shared = _of_key_space(specs)
    counted = class_texts.to_count(names) if shared and encoders.synonyms == FREQUENT else []
    infos = {column: dataclasses.asdict(spec.info) for column, spec in texts.items()}
    identity: dict[str, Any] = {"names": names, "encoders": infos, "batch_size": batch_size}
    fingerprints = {column: spec.info.fingerprint for column, spec in texts.items()}
    if shared:
        fingerprints[_KEY] = specs[_KEY].info.fingerprint
        identity |= {"shared": shared, "key": fingerprints[_KEY], "prompts": encoders.prompts}
    if counted:
        identity["captions"] = Embeddings(places.memory).snapshot
    config_hash, path = manifest.fingerprint(identity), places.classes
    stored = _stored(path)
    if stored.get("config_hash") == config_hash:
        return Written(len(names), shared, int(stored.get(_OTHERS, 0)))
    parts, others = [class_texts.phrases(name) for name in names], 0
    wanted = {column: (spec, parts) for column, spec in texts.items()}
    if shared:
        chosen, others = _most_mentioned(names, counted, places, runner) if counted else (parts, 0)
        wanted[_KEY] = texts[shared], [class_texts.prompted(part, encoders.prompts) for part in chosen]
    metadata = {"config_hash": config_hash, schemas.KEY_SPACE: shared, _OTHERS: str(others)}
    metadata |= {f"{column}.fingerprint": fingerprint for column, fingerprint in fingerprints.items()}
    schemas.write(path, _table(names, wanted, batch_size), metadata)
    return Written(len(names), shared, others)


def _of_key_space(specs: Mapping[str, EncoderSpec]) -> str:
    """Returns the first column of texts whose encoder shares the space of the keys; empty if there is none."""
    key = specs.get(_KEY)
    if key is None or not key.space:
        return ""
    wanted = ("text", key.space, key.info.dim)
    return next((name for name, spec in specs.items() if (spec.kind, spec.space, spec.info.dim) == wanted), "")


def _most_mentioned(
    names: Sequence[str], phrases: Sequence[class_texts.Phrase], places: Places, runner: Runner
) -> tuple[list[list[str]], int]:
    """Returns the text of each class that most captions mention, and how many of these are not the first synonym."""
    from pipelines.embedding.names import mention_counts

    counts = mention_counts.count(places.memory, phrases, f"{places.classes}.counts.json", runner)
    best = [class_texts.most_mentioned(name, counts) for name in names]
    return [[text] for _, text in best], sum(number > 0 for number, _ in best)


def _stored(path: str) -> dict[str, str]:
    """Returns the metadata of the file; nothing if it is missing, damaged or of an earlier form."""
    if not storage.exists(path):
        return {}
    try:
        with storage.open_read(path) as file:
            metadata = pq.read_schema(file).metadata or {}
    except storage.BROKEN_PARQUET:
        return {}
    found = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in metadata.items()}
    return found if found.get("schema_version") == str(schemas.SCHEMA_VERSION) else {}


def _table(names: list[str], wanted: Mapping[str, tuple[EncoderSpec, list[list[str]]]], batch_size: int) -> pa.Table:
    """Returns the file's table.

    One thread, and batches in the order of the names, so that the vectors do not depend on the job's workers.

    Args:
        names: of the C classes.
        wanted: for each column its encoder, and the texts of each class.
        batch_size: texts in each encoder call.
    """
    one_thread_a_call(1)
    specs = {column: spec for column, (spec, _) in wanted.items()}
    loaded, dtype = EncoderSet(specs).columns, next(iter(specs.values())).info.dtype
    schema = schemas.classes({column: spec.info.dim for column, spec in specs.items()}, dtype)
    arrays = {"label": pa.array(range(len(names)), pa.int32()), "name": pa.array(names, pa.string())}
    for column, (spec, parts) in wanted.items():
        encoder = loaded[column]
        if not isinstance(encoder, TextEncoder):
            raise TypeError(f"{column}: {spec.handle} is not a text encoder")
        vectors = encode(names, parts, encoder, spec, batch_size)
        arrays[column] = schemas.fixed_list(vectors, schema.field(column))
    return pa.Table.from_arrays([arrays[column] for column in schema.names], schema=schema)


def encode(
    names: Sequence[str], parts: list[list[str]], encoder: TextEncoder, spec: EncoderSpec, batch_size: int
) -> np.ndarray:
    """Returns the vectors `[C, dim]` of classes as they are stored.

    Args:
        names: of the classes.
        parts: the texts of each, whose mean it is.
        encoder: loaded.
        spec: of the encoder.
        batch_size: texts in each encoder call.

    Raises:
        UserError: if the encoder returns values that are not finite, or only zeros.
    """
    vectors = spec.info.stored(_means(encoder, spec.handle, parts, batch_size))
    _check(vectors, names, spec.handle)
    return vectors


def _means(encoder: TextEncoder, handle: str, parts: list[list[str]], batch_size: int) -> np.ndarray:
    """Returns for each class the mean `[C, dim]` of its texts' vectors at unit length, itself at unit length."""
    texts = [text for part in parts for text in part]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    encoded = encoder.encode_all(texts, batch_size)
    _check(encoded, texts, handle)
    total = np.zeros((len(parts), encoded.shape[1]))
    np.add.at(total, owners, encoded / np.maximum(np.linalg.norm(encoded, axis=1, keepdims=True), 1e-12))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _check(vectors: np.ndarray, texts: Sequence[str], handle: str) -> None:
    """Raises a `UserError` that names the first text whose vector has no direction or is not finite."""
    zero, broken = schemas.unusable(vectors)
    for rows, what in ((broken, "values that are not finite"), (zero, "a vector of zeros")):
        if rows:
            raise UserError(f"encoder {handle!r}: returns {what} for the class name {texts[rows[0]]!r}")
