"""What a recogniser says of a photograph."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A memory row near a photograph or a text.

    Attributes:
        id: of the row.
        caption: its text, empty for none; it comes from the web, so show it as text only.
        url: where its image came from, empty for none.
        score: its similarity; that which the index found, or the whitened one if the head reads that.
        weight: how much it counts in the prediction, 0 to 1; 0 for a search.
        influence: what the probability of the predicted class would lose without it, -1 to 1; None if not asked for.
    """

    id: int
    caption: str
    url: str
    score: float
    weight: float = 0.0
    influence: float | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a photograph shows.

    Attributes:
        classes: names of the most probable classes, the first is the prediction.
        probabilities: of these classes.
        neighbors: memory rows that the head read, the largest weight first; empty for a head without memory.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    neighbors: tuple[Neighbor, ...]
