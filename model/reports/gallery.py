"""One picture of what attention keeps and filters out: test images beside their neighbours, weights and texts."""

import dataclasses
import textwrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from configs.base import Config, Source
from model.data import datasets
from model.training import run_files
from pipelines import schemas, storage
from pipelines.manifest import Embeddings, Neighbors
from pipelines.sources import pictures

_EXAMPLES, _KEPT_PLACES, _FILTERED_PLACES = 5, 5, 3

_TILE, _GAP, _TEXT, _LEFT, _HEAD = 128, 14, 74, 230, 54
_INK, _FAINT, _KEPT, _FILTERED, _WRONG = "#1c1f24", "#6b7280", "#15803d", "#b45309", "#b91c1c"


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """One neighbour of a query.

    Attributes:
        image: RGB.
        text: its caption.
        weight: attention, 0 to 1.
        score: cosine to the query.
    """

    image: Image.Image
    text: str
    weight: float
    score: float


@dataclasses.dataclass(frozen=True)
class Example:
    """One query with the neighbours of the largest and of the smallest weight.

    Attributes:
        image: RGB.
        label: the true class.
        predicted: the class that was predicted.
        shots: training images of the true class.
        kept: neighbours of the largest weights.
        filtered: neighbours of the smallest weights.
    """

    image: Image.Image
    label: str
    predicted: str
    shots: int
    kept: list[Neighbor]
    filtered: list[Neighbor]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _paste(canvas: Image.Image, image: Image.Image, left: int, top: int) -> None:
    tile = image.copy()
    tile.thumbnail((_TILE, _TILE))
    tile = tile if max(tile.size) == _TILE else image.resize((_TILE, _TILE))
    canvas.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))


def _lines(draw: ImageDraw.ImageDraw, text: str, left: int, top: int, width: int, rows: int, color: str) -> None:
    wrapped = textwrap.wrap(text, width)
    if len(wrapped) > rows:
        wrapped = [*wrapped[: rows - 1], wrapped[rows - 1][: width - 2] + " .."]
    draw.multiline_text((left, top), "\n".join(wrapped), fill=color, font=_font(11), spacing=3)


def _draw_neighbor(canvas: Image.Image, near: Neighbor, k: int, left: int, top: int, color: str) -> None:
    draw = ImageDraw.Draw(canvas)
    _paste(canvas, near.image, left, top)
    bar = top + _TILE + 5
    full = min(near.weight * k / 4, 1.0)
    draw.rectangle((left, bar, left + _TILE, bar + 6), fill="#e5e7eb")
    draw.rectangle((left, bar, left + round(_TILE * full), bar + 6), fill=color)
    draw.text((left, bar + 9), f"{near.weight * k:.2f} x even, cos {near.score:.2f}", fill=color, font=_font(11))
    _lines(draw, near.text, left, bar + 26, 22, 3, _INK)


def draw(examples: list[Example], k: int, title: str) -> Image.Image:
    """Draws a row for each example.

    Args:
        examples: with as many kept and filtered neighbours each.
        k: neighbours of a list; a weight of 1/k is "even".
        title: headline.
    """
    kept, filtered = len(examples[0].kept), len(examples[0].filtered)
    row = _TILE + _TEXT + 2 * _GAP
    width = _LEFT + (kept + filtered) * (_TILE + _GAP) + 3 * _GAP
    canvas = Image.new("RGB", (width, _HEAD + row * len(examples)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, 8), title, fill=_INK, font=_font(16))
    split = _LEFT + kept * (_TILE + _GAP) + _GAP
    pen.text((_LEFT, 32), "kept: largest attention weights", fill=_KEPT, font=_font(13))
    pen.text((split, 32), "filtered out: smallest", fill=_FILTERED, font=_font(13))
    for number, example in enumerate(examples):
        top = _HEAD + number * row
        pen.line((0, top - 2, width, top - 2), fill="#e5e7eb")
        _paste(canvas, example.image, _GAP, top + _GAP)
        right = example.label == example.predicted
        _lines(pen, f"true: {example.label} ({example.shots} training images)", _GAP, top + _TILE + 18, 36, 2, _FAINT)
        _lines(pen, f"mam: {example.predicted}", _GAP, top + _TILE + 48, 36, 2, _KEPT if right else _WRONG)
        for place, near in enumerate(example.kept):
            _draw_neighbor(canvas, near, k, _LEFT + place * (_TILE + _GAP), top + _GAP, _KEPT)
        for place, near in enumerate(example.filtered):
            _draw_neighbor(canvas, near, k, split + place * (_TILE + _GAP), top + _GAP, _FILTERED)
    return canvas


def write(config: Config, folder: str, path: str) -> None:
    """Draws five test images of different classes, chosen by the seed, with what the first `mam` run made of them."""
    task = datasets.load(config)
    run = storage.join(run_files.of_seed(folder, "mam", config.train.seeds[0]), run_files.PREDICTIONS)
    predictions = schemas.read(run, ["predicted", "attention"])
    attention = schemas.to_matrix(predictions["attention"])
    test = task.splits["test"]
    shuffled = np.random.default_rng(config.seed).permutation(len(test.labels))
    _, first_of_class = np.unique(test.labels[shuffled], return_index=True)
    chosen = shuffled[np.sort(first_of_class)[:_EXAMPLES]]

    lists = Neighbors.open(config.neighbors_dir)
    memory = lists.memory(["source_shard", "member", "caption"])
    queries = Embeddings(config.queries_dir("test"))
    columns = ["source_shard", "member"]
    names = [row for shard in queries.shard_rows for row in queries.read(shard, columns).to_pylist()]

    def image(source: Source, row: dict[str, Any]) -> Image.Image:
        return pictures.load(config, source, row["source_shard"], row["member"])

    def neighbor(query: int, place: int) -> Neighbor:
        row = memory.slice(int(test.neighbors[query, place]), 1).to_pylist()[0]
        weight, score = float(attention[query, place]), float(test.scores[query, place])
        return Neighbor(image(config.memory, row), row["caption"] or "", weight, score)

    examples = []
    for query in chosen.tolist():
        places = [place for place in np.argsort(-attention[query], kind="stable").tolist() if test.mask[query, place]]
        examples.append(
            Example(
                image=image(config.test_set, names[query]),
                label=task.class_names[test.labels[query]],
                predicted=task.class_names[predictions["predicted"][query].as_py()],
                shots=int(task.class_counts[test.labels[query]]),
                kept=[neighbor(query, place) for place in places[:_KEPT_PLACES]],
                filtered=[neighbor(query, place) for place in places[-_FILTERED_PLACES:]],
            )
        )
    picture = draw(examples, test.mask.shape[1], "What the memory attention module keeps and filters out")
    with storage.atomic_write(path) as file:
        picture.save(file, format="PNG")
