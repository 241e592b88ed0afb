import numpy as np

from index.lists import step
from pipelines import schemas


def test_ids_that_differ():
    ids = np.array([[schemas.make_id(2, 5), -1], [3, schemas.make_id(2, 5)], [schemas.make_id(2, 1), 3]], np.int64)
    np.testing.assert_array_equal(step.distinct(ids), np.unique(ids))
    assert len(step.distinct(np.empty(0, np.int64))) == 0
    lists = [np.unique(part) for part in np.array_split(ids.ravel(), 3)] + [np.empty(0, np.int64)]
    np.testing.assert_array_equal(step.union(lists), np.unique(ids))
    assert len(step.union([np.empty(0, np.int64)])) == 0
    dealt = {shard: np.frombuffer(data, np.int64) for shard, data in step.by_memory_shard(np.unique(ids))}
    assert {shard: found.tolist() for shard, found in dealt.items()} == {0: [3], 2: [(2 << 40) | 1, (2 << 40) | 5]}
    assert list(step.by_memory_shard(np.array([-1]))) == []
