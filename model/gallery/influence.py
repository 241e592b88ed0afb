"""What the predicted class would lose without a neighbour: the head is asked again with that neighbour left out."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from model.gallery import rows
from model.gallery.examples import Shown
from model.recognition import memory, trained
from model.recognition.engine import Engine, Outputs
from model.reports.runs import Run
from pipelines import schemas
from pipelines.manifest import Embeddings, Neighbors

# Images whose neighbours are left out between two reports of progress, and whose rows are in memory at a time.
_AT_A_TIME = 64


def measure(
    folder: str, run: Run, lists: Neighbors, test: Embeddings, shown: Shown, on_done: Callable[[int], None]
) -> np.ndarray:
    """Returns how much less probable the predicted class is without each shown neighbour, float32 `[N, S]`.

    Args:
        folder: of the runs of all heads.
        run: whose head reads the memory.
        lists: that it was trained on.
        test: the embedded test split.
        shown: the images and places.
        on_done: is told the number of images that are done.

    Raises:
        UserError: if the trained head was not kept, or is damaged.
    """
    engine = Engine(trained.load(folder, run.head, run.seed))
    columns = memory.columns(engine.trained.train.values)
    dims = {name: info.dim for name, info in engine.trained.columns.items() if name in columns}
    keys = _keys(test, shown.images)
    table = lists.split("test").take(pa.array(shown.images))
    ids, scores = (schemas.to_matrix(table[name]) for name in ("neighbor_ids", "scores"))
    result = np.zeros(shown.places.shape, np.float32)
    whole = memory.load(rows.chosen(lists, np.unique(ids[ids >= 0]), columns), dims)
    for first in range(0, len(keys), _AT_A_TIME):
        part = slice(first, first + _AT_A_TIME)
        given = engine.lists(whole, keys[part], ids[part], scores[part])
        at, images = shown.places[part], shown.images[part]
        outputs = Outputs(run.classes[images], run.probabilities[images], np.zeros((len(images), 0), np.float32))
        asked = np.zeros(given.mask.shape, bool)
        owner, place = np.nonzero(at >= 0)
        asked[owner, at[owner, place]] = True
        left_out = engine.influence(whole, keys[part], given, outputs, asked)
        result[part][owner, place] = left_out[owner, at[owner, place]]
        on_done(min(first + _AT_A_TIME, len(keys)))
    return result


def _keys(test: Embeddings, images: np.ndarray) -> np.ndarray:
    matrices = [schemas.to_matrix(test.read(shard, ["key"])["key"]) for shard in test.shard_rows]
    return np.concatenate(matrices)[images]
