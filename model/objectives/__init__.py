"""The objectives that train heads, by the name that the config gives."""

from configs.base import Train
from model.objectives.base import Facts, Objective, Step
from model.objectives.curriculumnet import CurriculumNet
from model.objectives.heteroscedastic import Heteroscedastic
from model.objectives.mile import Mile
from model.objectives.ncr import Ncr
from model.objectives.paco import Paco
from model.objectives.plain import CrossEntropy, Lace, PostHocLace

__all__ = ["OBJECTIVES", "Facts", "Objective", "Step", "build"]

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "lace": Lace,
    "lace_post_hoc": PostHocLace,
    "ncr": Ncr,
    "heteroscedastic": Heteroscedastic,
    "mile": Mile,
    "curriculumnet": CurriculumNet,
    "paco": Paco,
}


def build(train: Train, facts: Facts) -> Objective:
    """Returns the objective that `train.loss` names."""
    return OBJECTIVES[train.loss](train, facts)
