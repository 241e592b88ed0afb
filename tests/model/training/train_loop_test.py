import numpy as np

from configs.base import Train
from model.data import tables
from model.training.trainer import Setting, Trainer
from tests.model.small_task import small_task


def test_attention_learns_what_linear_cannot_see_and_beats_the_mean():
    task = small_task()
    data = tables.load(task)
    train = Train(values=("text",), steps=100, batch_size=100, attention_dim=8, value_dim=16, value_scale=0.0)
    reached = {}
    for head in ("linear", "mean_knn", "mam"):
        trainer = Trainer(head, task, data, train)
        state, _ = trainer.steps(trainer.start(0), 0, train.steps, Setting(0.01, 0.01, 0.0))
        reached[head] = trainer.accuracy(state.params, "test")["all"]
    assert reached["linear"] < 0.35
    assert reached["mam"] > 0.95
    assert reached["linear"] + 0.2 < reached["mean_knn"] < reached["mam"]


def test_a_split_that_fills_no_whole_batch_is_predicted_row_by_row_the_same():
    task = small_task(rows=37)
    data = tables.load(task)
    found = []
    for batch_size in (16, 37, 64):
        train = Train(values=("text",), batch_size=batch_size, attention_dim=8, value_dim=16, value_scale=0.0)
        trainer = Trainer("mam", task, data, train)
        found.append(trainer.predict(trainer.start(0).params, "test"))
        assert found[-1][0].shape == (37, 4) and found[-1][1].shape == (37, 8)
    for scores, weights in found[1:]:
        np.testing.assert_allclose(scores, found[0][0], atol=1e-5)
        np.testing.assert_allclose(weights, found[0][1], atol=1e-5)
