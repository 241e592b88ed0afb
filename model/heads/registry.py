"""The heads by the name that the config gives."""

import flax.linen as nn

from configs.base import Train
from model.data.batch import Batch
from model.heads import linear, mlp, name_head, rac, retrieval, vl_ltr
from model.heads.base import Head, count_parameters, init
from pipelines.errors import UserError, nearest

__all__ = ["HEADS", "build", "count_parameters", "get", "init"]

HEADS: dict[str, Head] = {
    "linear": linear.HEAD,
    "mlp": mlp.HEAD,
    "mean_knn": retrieval.MEAN_KNN,
    "mam": retrieval.MAM,
    "mam_names": name_head.HEAD,
    "rac": rac.HEAD,
    "vl_ltr": vl_ltr.HEAD,
}


def get(name: str) -> Head:
    """Returns the record of a head; a `UserError` if there is no such head."""
    if name not in HEADS:
        raise UserError(f"--config.train.heads: no head {name!r}; {nearest(name, tuple(HEADS))}")
    return HEADS[name]


def build(name: str, train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the module of a head.

    Args:
        name: one of `HEADS`.
        train: its settings.
        num_classes: C.
        batch: of the shapes to come.

    Raises:
        UserError: if there is no such head.
    """
    return get(name).build(train, num_classes, batch)
