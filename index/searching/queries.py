"""What a search asks for: the vector of an image, of a text or of a row of the memory, or one in a file.

Images are embedded as the memory's keys were, texts by an encoder that shares the keys' space, if the config has one.
"""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from configs.base import Embed, Encoders
from index.store.indexed_memory import IndexedMemory
from index.store.keys import COLUMNS
from index.store.reader import Index
from pipelines import schemas, storage
from pipelines.encoders import handles, loaded
from pipelines.encoders.handles import EncoderSpec
from pipelines.errors import UserError
from pipelines.images import decode
from pipelines.manifest import Embeddings
from pipelines.schemas import EncoderInfo, unit_keys
from pipelines.sources import pictures

_MAX_VECTOR_BYTES = 1 << 20
# Returns the picture of a row by its `source_shard` and `member`; a `UserError` if it cannot be read.
Load = Callable[[str, str], Image.Image]


@dataclasses.dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        title: its name for people.
        vector: float32 `[d]`.
        picture: its picture, if it has one.
        own_id: the memory row that it is; -1 for none.
    """

    title: str
    vector: np.ndarray
    picture: Image.Image | None = None
    own_id: int = -1


def key_encoder(encoders: Encoders, index: Index) -> EncoderSpec:
    """Returns the encoder of an index's keys.

    Raises:
        UserError: if the config has another one.
    """
    known = index.key_encoder
    if encoders.key.startswith(handles.PRECOMPUTED):
        spec = handles.precomputed(encoders.key, known.dim, encoders.dtype, encoders.normalize)
    else:
        spec = handles.configured(encoders.key, encoders)
    if (spec.info.fingerprint, spec.info.dim) != (known.fingerprint, known.dim):
        raise UserError(
            f"--config.encoders.key={encoders.key}: its fingerprint is {spec.info.fingerprint}, but the keys of "
            f"{index.folder} are from {known.fingerprint}; name the encoder that the memory was embedded with, and its "
            "--config.encoders.compute"
        )
    return spec


class QueryEncoders:
    """The encoders of what is searched for, each loaded when it is first needed, and kept."""

    def __init__(self, encoders: Encoders, embed: Embed) -> None:
        """Loads nothing yet.

        Args:
            encoders: config of the encoders.
            embed: batch size and limits of an image.
        """
        self._encoders, self._embed = encoders, embed
        self._images: tuple[EncoderInfo, loaded.ImageEncoder] | None = None
        self._texts: tuple[EncoderInfo, loaded.TextEncoder] | None = None

    def of_image(self, path: str, index: Index) -> Query:
        """Embeds an image file for an index.

        Raises:
            UserError: if the file is not an image, or there is no encoder for images.
        """
        if self._images is None or self._images[0] != index.key_encoder:
            spec = key_encoder(self._encoders, index)
            if spec.kind == "precomputed":
                raise UserError(f"--image: the keys are {spec.handle}, which has no encoder for images; use --id")
            self._images = index.key_encoder, loaded.ImageEncoder(spec)
        data, encoder = pictures.read_file(path, self._embed.max_image_bytes), self._images[1]
        try:
            picture = decode.decode(data, self._embed.max_image_pixels, [encoder.preprocess])
        except decode.DecodeError as error:
            raise UserError(f"{path}: {error}") from error
        vectors = encoder.encode([decode.prepare(picture, encoder.preprocess)], self._embed.batch_size)
        return Query(path, vectors[0], picture.image)

    def of_text(self, text: str, index: Index) -> Query:
        """Embeds a text for an index.

        Raises:
            UserError: if no text encoder shares the space of the keys.
        """
        if self._texts is None or self._texts[0] != index.key_encoder:
            spec = _text_encoder(self._encoders, key_encoder(self._encoders, index))
            if spec.info.dim != index.key_encoder.dim:
                raise UserError(
                    f"encoder {spec.handle!r}: gives {spec.info.dim} values, but the keys of its space {spec.space!r} "
                    f"have {index.key_encoder.dim}; correct 'space' in one of the two descriptions"
                )
            self._texts = index.key_encoder, loaded.TextEncoder(spec)
        return Query(f'"{text}"', self._texts[1].encode([text], self._embed.batch_size)[0])


def of_vector(path: str, index: Index) -> Query:
    """Reads a vector of the keys' space, `[d]` or `[1, d]`, from a `.npy` file.

    Args:
        path: of the file.
        index: that is searched.

    Raises:
        UserError: if the file is no such vector, or not of the width of the keys.
    """
    known = index.key_encoder
    try:
        with storage.open_read(path) as file:
            data = file.read(_MAX_VECTOR_BYTES + 1)
        if len(data) > _MAX_VECTOR_BYTES:
            raise ValueError(f"has more than {_MAX_VECTOR_BYTES:,} bytes")
        found = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
            raise ValueError("must be an array of floating-point numbers")
        if found.shape not in ((known.dim,), (1, known.dim)):
            raise ValueError(f"is {list(found.shape)}, the keys are [{known.dim}]")
        vector, _ = schemas.moderate(found.reshape(1, -1))
        if not np.isfinite(vector).all() or not vector.any():
            raise ValueError("is zero or not finite")
    except (ValueError, EOFError) as error:
        raise UserError(f"--vector={path}: {str(error).partition(chr(10))[0]}") from error
    return Query(storage.name(path), (loaded.unit(vector) if known.normalized else vector)[0])


def _text_encoder(encoders: Encoders, key: EncoderSpec) -> EncoderSpec:
    """Returns the text encoder that shares the space of the key encoder."""
    texts = [handle for handle, kind in handles.columns(encoders).values() if kind == "text"]
    for handle in texts if key.space else ():
        spec = handles.resolve(handle, encoders.dtype, unsafe_models=encoders.unsafe_models, compute=encoders.compute)
        if spec.space == key.space:
            return spec
    space = f"space {key.space!r}" if key.space else "which names no space"
    raise UserError(
        f"--text: no text encoder shares the space of the key encoder {key.handle} ({space}); "
        f"--config.encoders.value_text has {', '.join(texts) or 'none'} (docs/encoders.md, 'space')"
    )


def of_row(id_: int, memory: Embeddings | IndexedMemory, load: Load) -> Query:
    """Reads the key of a memory row.

    Args:
        id_: of the row.
        memory: that has it.
        load: reads its picture; without one the row is still searched for.

    Raises:
        UserError: if there is no such row.
    """
    shard = int(schemas.split_ids(np.array([id_]))[0][0])
    has_shard = shard in memory.shard_rows
    row = memory.take(shard, [*COLUMNS, "source_shard", "member"], np.array([id_])) if has_shard else None
    if not row:
        raise UserError(f"--id={id_}: {memory.folder} has no such row; take an id that a search shows")
    vector = unit_keys(row["key"], memory.encoder("key"), f"{memory.folder}, shard {shard}")[0]
    try:
        picture = load(row["source_shard"][0].as_py(), row["member"][0].as_py())
    except UserError:
        picture = None
    return Query(f"row {id_}", vector, picture, id_)
