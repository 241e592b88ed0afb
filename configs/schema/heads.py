"""Fields of single heads, as records of `train`."""

import dataclasses

from configs.schema.fields import option

VOTES = ("rank", "plurality", "softmax")
PRUNINGS = ("none", "hard", "soft")


@dataclasses.dataclass(frozen=True)
class Lda:
    """Linear discriminant analysis, the head `lda`."""

    shrinkage: float = option(0.1, "Share of the mean variance in the covariance of all classes.", above=0, at_most=1)
    pseudo_count: float = option(
        0.0,
        "Images that the mean of all training images counts for in the mean of each class, so that classes of few "
        "images are drawn towards it; 0 for plain means.",
        at_least=0,
    )
    prior: float = option(0.0, "Weight of the log of a class's share of the training images.", at_least=0)


@dataclasses.dataclass(frozen=True)
class Vote:
    """The vote of the neighbours, the head `knn_vote`."""

    weights: str = option(
        "rank", "Weight of a neighbour: 1 / (rank + 2), the same for all, or exp(score / temperature).", choices=VOTES
    )
    temperature: float = option(0.07, "That temperature.", above=0)
    pruning: str = option(
        "none",
        "How rows that often vote wrong on training images lose their vote: not at all, wholly from `most_wrong` on, "
        "or by a weight of 1.75 / (1 + wrong votes).",
        choices=PRUNINGS,
    )
    most_wrong: int = option(128, "Wrong votes on training images from which `hard` leaves a row out.", at_least=1)
    one_class: bool = option(
        True, "Whether a row votes for the likeliest class of its caption alone, or for each by its probability [I]."
    )


@dataclasses.dataclass(frozen=True)
class Tip:
    """The cache of training images, the heads `tip_adapter` and `tip_adapter_f`."""

    alpha: float = option(1.0, "Weight of the cache beside the names of the classes.", at_least=0)
    beta: float = option(5.5, "How fast the affinity exp(-beta (1 - cosine)) falls.", above=0)
    balance: float = option(
        0.0, "Power of a class's training images that its part of the cache is divided by; 0 as published.", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class Mml:
    """Attention to images and texts, then prototypes, the head `mml`."""

    scale: float = option(16.0, "Factor of the cosines with the prototypes of the classes.", above=0)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Memory rows as further training images, the heads `real_linear` and `swat`."""

    most: int = option(500, "Most memory rows of each class, those with the most similar captions.", at_least=1)
    share: float = option(
        0.0,
        "Share of a class's examples in training that are memory rows; 0 for that of both together.",
        at_least=0,
        at_most=1,
    )
    names: float = option(
        0.5, "Weight of the first classifier in the one that `real_linear` predicts with.", at_least=0, below=1
    )
    first_stage: float = option(
        0.7,
        "Share of the steps of `swat` before its classifier is trained on the training images alone.",
        above=0,
        below=1,
    )
    mix: float = option(0.5, "Share of the steps of the first stage of `swat` that mix images.", at_least=0, at_most=1)
