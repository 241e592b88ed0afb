"""The heads by the name that the config gives."""

from model.heads import guarded, guarded_names, lda, linear, mlp
from model.heads.attention import mml, name_head, retrieval
from model.heads.base import Head, count_parameters, init
from model.heads.pairs import real_linear, swat
from model.heads.texts import rac, vl_ltr, zero_shot
from model.heads.votes import knn_vote, tip_adapter
from pipelines.errors import UserError, nearest

__all__ = ["HEADS", "count_parameters", "get", "init"]

_ALL = (
    *(linear.HEAD, mlp.HEAD, lda.HEAD, retrieval.MEAN_KNN, retrieval.MAM),
    *(name_head.HEAD, guarded.HEAD, guarded_names.HEAD),
    *(rac.HEAD, vl_ltr.HEAD, zero_shot.HEAD),
    *(knn_vote.HEAD, tip_adapter.HEAD, tip_adapter.FINE_TUNED, mml.HEAD),
    *(real_linear.HEAD, swat.HEAD),
)
HEADS: dict[str, Head] = {head.name: head for head in _ALL}


def get(name: str) -> Head:
    """Returns the record of a head; a `UserError` if there is no such head."""
    if name not in HEADS:
        raise UserError(f"--config.train.heads: no head {name!r}; {nearest(name, tuple(HEADS))}")
    return HEADS[name]
