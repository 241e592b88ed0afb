"""What heads need of a task before the first step, made once for all of them: no head makes it anew."""

from configs.base import Train
from model import class_bank, heads, name_prior, search, value_start, whitening
from model.datasets import Task


def prepare(task: Task, train: Train) -> Task:
    """Returns the task with what the heads of a configuration read beside lists and memory, and with its similarity.

    Args:
        task: as `datasets` loads it.
        train: which heads there are, and their settings.
    """
    if "vl_ltr" in train.heads:
        task = class_bank.extend(task, train.bank_sentences)
    if "mam_names" in train.heads:
        task = name_prior.extend(task, train.names)
    scales = search.axes(train).get("value_scale", (train.value_scale,))
    if any(scales) and set(heads.RETRIEVAL) & set(train.heads):
        task = value_start.extend(task)
    reads_scores = set(train.heads) - set(heads.WITHOUT_NEIGHBORS)
    return whitening.rescore(task) if train.similarity == "whitened" and reads_scores else task
