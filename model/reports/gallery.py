"""A picture of what attention keeps and filters out: test images with their neighbours, weights and texts."""

import dataclasses
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from configs.base import Places
from model.data.datasets import Task
from model.heads import registry
from model.measures.kept import SHARE, kept
from model.reports.runs import Run
from pipelines import storage
from pipelines.manifest import Embeddings, Neighbors

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
    """One query with the neighbours of the largest and of the smallest weights.

    Attributes:
        image: RGB.
        label: the true class.
        predicted: the predicted class.
        shots: training images of the true class.
        kept: of the neighbours that attention keeps (`model.measures.kept`) those with the largest weights.
        filtered: of the others those with the smallest weights.
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
    share = f"{near.weight * k:.2f}" if near.weight * k >= 0.005 else "< 0.01"
    draw.text((left, bar + 9), f"{share} x even, cos {near.score:.2f}", fill=color, font=_font(11))
    _lines(draw, near.text, left, bar + 26, 22, 3, _INK)


def draw(examples: list[Example], k: int, head: str, title: str) -> Image.Image:
    """Draws a row for each example.

    Args:
        examples: one or more.
        k: neighbours of a list; a weight of 1/k is "even".
        head: name of the head that predicted.
        title: headline.
    """
    ours, theirs = max(len(each.kept) for each in examples), max(len(each.filtered) for each in examples)
    row = _TILE + _TEXT + 2 * _GAP
    width = _LEFT + (ours + theirs) * (_TILE + _GAP) + 3 * _GAP
    canvas = Image.new("RGB", (width, _HEAD + row * len(examples)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, 8), title, fill=_INK, font=_font(16))
    split = _LEFT + ours * (_TILE + _GAP) + _GAP
    pen.text((_LEFT, 32), f"kept, {SHARE:.0%} of the weight: the largest", fill=_KEPT, font=_font(13))
    pen.text((split, 32), "filtered out: the smallest", fill=_FILTERED, font=_font(13))
    for number, example in enumerate(examples):
        top = _HEAD + number * row
        pen.line((0, top - 2, width, top - 2), fill="#e5e7eb")
        _paste(canvas, example.image, _GAP, top + _GAP)
        right = example.label == example.predicted
        _lines(pen, f"true: {example.label} ({example.shots} training images)", _GAP, top + _TILE + 18, 36, 2, _FAINT)
        _lines(pen, f"{head}: {example.predicted}", _GAP, top + _TILE + 48, 36, 2, _KEPT if right else _WRONG)
        for place, near in enumerate(example.kept):
            _draw_neighbor(canvas, near, k, _LEFT + place * (_TILE + _GAP), top + _GAP, _KEPT)
        for place, near in enumerate(example.filtered):
            _draw_neighbor(canvas, near, k, split + place * (_TILE + _GAP), top + _GAP, _FILTERED)
    return canvas


# The picture of a row, by the container and the member that it was read from.
Load = Callable[[str, str], Image.Image]


def choose_head(names: Sequence[str]) -> str | None:
    """Returns the first head whose attention is worth a picture; None if there is none."""
    return next((name for name in names if registry.get(name).attends), None)


def _choose_queries(labels: np.ndarray, seed: int) -> list[int]:
    """Returns random queries of different classes."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    _, first_of_class = np.unique(labels[shuffled], return_index=True)
    return shuffled[np.sort(first_of_class)[:_EXAMPLES]].tolist()


def write(
    path: str, places: Places, seed: int, task: Task, run: Run, query_picture: Load, memory_picture: Load
) -> None:
    """Draws five test images of different classes, with the neighbours that a run kept and filtered out.

    Args:
        path: of the picture.
        places: of the embedded test split and the neighbour lists.
        seed: that chooses the images.
        task: the task of the run.
        run: of a head with attention.
        query_picture: loads a test image.
        memory_picture: loads an image of the memory.
    """
    attention, test = run.attention(), task.splits["test"]
    if attention is None:
        raise ValueError(f"{run.head} has no attention")
    memory = Neighbors.open(places.neighbors).memory(["source_shard", "member", "caption"])
    queries = Embeddings(places.queries("test"))
    columns = ["source_shard", "member"]
    names = [row for shard in queries.shard_rows for row in queries.read(shard, columns).to_pylist()]

    def neighbor(query: int, place: int) -> Neighbor:
        row = memory.slice(int(test.neighbors[query, place]), 1).to_pylist()[0]
        weight, score = float(attention[query, place]), float(test.scores[query, place])
        return Neighbor(memory_picture(row["source_shard"], row["member"]), row["caption"] or "", weight, score)

    # A head may read the first of each list only.
    mask = test.mask[:, : attention.shape[1]]
    examples, keeps = [], kept(np.where(mask, attention, 0))
    for query in _choose_queries(test.labels, seed):
        order = [place for place in np.argsort(-attention[query], kind="stable").tolist() if mask[query, place]]
        parts = [[place for place in order if keeps[query, place] == keep] for keep in (True, False)]
        examples.append(
            Example(
                image=query_picture(names[query]["source_shard"], names[query]["member"]),
                label=task.class_names[test.labels[query]],
                predicted=task.class_names[run.predicted[query]],
                shots=int(task.class_counts[test.labels[query]]),
                kept=[neighbor(query, place) for place in parts[0][:_KEPT_PLACES]],
                filtered=[neighbor(query, place) for place in parts[1][-_FILTERED_PLACES:]],
            )
        )
    title = "What the memory attention module keeps and filters out"
    picture = draw(examples, test.mask.shape[1], run.head, title)
    with storage.atomic_write(path) as file:
        picture.save(file, format="PNG")
