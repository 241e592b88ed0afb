"""What heads need of a task before the first step, made once for all of them: no head makes it anew."""

from configs.base import Train
from model.data.datasets import Task
from model.heads import registry
from model.prepare import class_bank, name_prior, value_start, whitening
from model.training import hyperparameters


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
    scales = hyperparameters.axes(train).get("value_scale", (train.value_scale,))
    if any(scales) and set(registry.RETRIEVAL) & set(train.heads):
        task = value_start.extend(task)
    reads_scores = set(train.heads) - set(registry.WITHOUT_NEIGHBORS)
    return whitening.rescore(task) if train.similarity == "whitened" and reads_scores else task
