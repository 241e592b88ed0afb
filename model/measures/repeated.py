"""Images that two splits share byte for byte, so that a head has seen them before it is measured on them."""

import pyarrow as pa
import pyarrow.compute as pc

from configs.base import Places
from configs.schema.data import SPLITS
from pipelines import schemas
from pipelines.manifest import Embeddings

# Each split, and those that must have none of its images.
_APART = {"test": ("train", "val"), "val": ("train",)}


def warnings(places: Places) -> list[str]:
    """Returns a sentence for each two splits that share images; of the embedded splits it reads only content keys.

    Raises:
        UserError: if a split is not finished, or damaged.
    """
    keys, found = {split: _content_keys(places.queries(split)) for split in SPLITS}, []
    for split, others in _APART.items():
        for other in others:
            shared, images = pc.sum(pc.is_in(keys[split], value_set=keys[other])).as_py() or 0, len(keys[split])
            if shared:
                are, them = ("is", "it") if shared == 1 else ("are", "them")
                found.append(
                    f"{shared:,} of the {images:,} {split} images ({shared / images:.1%}) {are} also in {other}, byte "
                    f"for byte; remove {them} from {other}"
                )
    return found


def _content_keys(folder: str) -> pa.Array:
    embeddings = Embeddings(folder)
    columns = [embeddings.read(shard, ["content_key"])["content_key"] for shard in embeddings.shard_rows]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], schemas.DIGEST).combine_chunks()
