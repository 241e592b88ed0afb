"""Decides the use of each emoji: the classes, the split of each image, and the captions.

Nothing here reads or writes a file. Decisions:

- A class is a Unicode subgroup of which the query style draws at least 5 emoji with different drawings. The sizes keep
  their natural long tail.
- The memory holds everything that its styles draw, also of subgroups that are not a class, as a web crawl would.
- Country flags get no special treatment: they are in the memory, and are the largest many-shot class if the query style
  draws them. Noto's package does not, so with the default query style they are only distractors.
- Training takes half of the largest class, and of smaller classes a share that falls with the cube root of their size,
  at least 2 images; validation takes a tenth, at least 1; the test set takes the rest. So the tail of the training set
  is steeper than the natural one, and rare classes, whose accuracies count as much, have enough images to measure them.
- One image of each of the three largest classes is in no list, so that the demo can end with predictions for new ones.
- Captions consist of Unicode's name and keywords, never of the subgroup.
- Every choice is a rank by a hash of the seed and the emoji, so it depends on neither order nor Python version.
"""

import collections
import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping, Sequence

from pipelines.demo.styles import STYLES, Drawing, Emoji
from pipelines.errors import UserError

MIN_CLASS_EMOJI = 5

NEW = "new"
"""In place of a split: an image that no list has, to be predicted at the end."""
_NEW_IMAGES = 3
_EMOJI_PER_CLASS = 10
_MAX_TAGS = 5


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """A labelled image that is to be rendered.

    Attributes:
        path: in the labelled part of the corpus.
        split: one of `configs.schema.data.SPLITS`, or `NEW` for an image of no list.
        label: its class.
        drawing: what to render.
    """

    path: str
    split: str
    label: int
    drawing: Drawing


def rank(seed: int, *parts: str) -> bytes:
    """Returns 32 bytes that look random and depend on the arguments alone; sorting by them shuffles."""
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).digest()


def choose_classes(
    catalogue: Sequence[Emoji], drawings: Mapping[str, Drawing], max_emoji: int, seed: int
) -> dict[str, list[Emoji]]:
    """Chooses the labelled emoji.

    Args:
        catalogue: all emoji.
        drawings: the query style's, by code points.
        max_emoji: the most emoji to take, at least `2 * MIN_CLASS_EMOJI`, or 0 for all. A cut takes about a tenth as
            many classes, evenly spread over the ranks of size, and shrinks them in proportion.
        seed: shuffles each class.

    Returns:
        The shuffled emoji of each class, in the order of labels.

    Raises:
        UserError: if there are not two classes of `MIN_CLASS_EMOJI`.
    """
    classes = collections.defaultdict(list)
    seen = set()
    for emoji in catalogue:
        drawing = drawings.get(emoji.codepoints)
        if drawing and drawing.data not in seen:
            seen.add(drawing.data)
            classes[emoji.subgroup].append(emoji)
    sizes = {name: len(members) for name, members in classes.items() if len(members) >= MIN_CLASS_EMOJI}
    if len(sizes) < 2:
        raise UserError("--config.corpus.query_style: draws too few emoji for two classes; choose another style")
    if max_emoji:
        sizes = _cut(sizes, max_emoji)
    return {
        name: sorted(classes[name], key=lambda emoji: rank(seed, "split", emoji.codepoints))[:size]
        for name, size in sorted(sizes.items())
    }


def _cut(sizes: Mapping[str, int], max_emoji: int) -> dict[str, int]:
    ranked = sorted(sizes, key=lambda name: (-sizes[name], name))
    count = min(len(ranked), max(2, max_emoji // _EMOJI_PER_CLASS))
    spread = [ranked[place * (len(ranked) - 1) // (count - 1)] for place in range(count)]
    share = min(1.0, max_emoji / sum(sizes[name] for name in spread))
    cut = {name: max(MIN_CLASS_EMOJI, math.floor(sizes[name] * share)) for name in spread}
    while sum(cut.values()) > max_emoji:
        cut[max(cut, key=lambda name: (cut[name], name))] -= 1
    return cut


def label_images(
    classes: Mapping[str, Sequence[Emoji]], drawings: Mapping[str, Drawing], seed: int
) -> list[LabelledImage]:
    """Distributes the emoji of each class over the splits, at least one to each, and shuffles the list.

    Of each of the largest classes the last emoji is `NEW`.
    """
    images = []
    largest = max(map(len, classes.values()))
    giving = sorted(classes, key=lambda name: (-len(classes[name]), name))[:_NEW_IMAGES]
    for label, (name, members) in enumerate(classes.items()):
        train = max(2, _round(len(members) / 2 * (len(members) / largest) ** (1 / 3)))
        val = max(1, _round(len(members) / 10))
        splits = ["train"] * train + ["val"] * val + ["test"] * (len(members) - train - val)
        if name in giving and len(members) > MIN_CLASS_EMOJI:
            splits[-1] = NEW
        for emoji, split in zip(members, splits, strict=True):
            words = re.sub(r"[^a-z0-9]+", "-", emoji.name.lower()).strip("-")
            path = f"{NEW}/{words}.jpg" if split == NEW else f"images/{split}/{name}/{emoji.codepoints}.jpg"
            images.append(LabelledImage(path, split, label, drawings[emoji.codepoints]))
    return sorted(images, key=lambda image: rank(seed, "list", image.path.removeprefix("images/")))


def caption(style: str, emoji: Emoji, seed: int) -> str:
    """Returns a text as a page would have it for the picture: the name, mostly with some of the keywords."""
    draw = rank(seed, "caption", style, emoji.codepoints)
    forms = STYLES[style].captions
    form = forms[draw[0] % len(forms)]
    tags = sorted(emoji.tags, key=lambda tag: rank(seed, "tag", style, emoji.codepoints, tag))
    tags = tags[: 2 + draw[1] % (_MAX_TAGS - 1)]
    return form.format(name=emoji.name, tags=", ".join(tags)) if tags or "{tags}" not in form else emoji.name


def _round(value: float) -> int:
    return math.floor(value + 0.5)
