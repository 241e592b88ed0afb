import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.filtering import dropped
from pipelines.filtering.dropped import DROPPED, REASONS, RECORD, REMOVED


def _records(rows):
    return np.array([(*row, 0.25) for row in rows], RECORD)


_ROWS = st.tuples(
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from([0.5, 0.75, 1.0]),
)


@given(st.lists(_ROWS, min_size=1), st.randoms())
def test_one_a_row_whatever_the_order_and_the_parts(rows, random):
    best = {}
    for row in rows:
        rank = (row[1], -row[4], row[2], row[3])
        if row[0] not in best or rank < best[row[0]][0]:
            best[row[0]] = (rank, row)
    right = [best[i][1] for i in sorted(best)]
    random.shuffle(rows)
    cut = random.randrange(len(rows) + 1)
    merged = dropped.merge([_records(rows[:cut]).tobytes(), b"", _records(rows[cut:]).tobytes()])
    assert merged.tolist() == [(*row, 0.25) for row in right]
    assert dropped.merge([merged[::-1].tobytes(), merged.tobytes()]).tolist() == merged.tolist()


def test_opt_outs_have_no_twin_in_the_table():
    rows = np.concatenate(
        [
            dropped.records(np.array([4]), "opt_out"),
            dropped.records(
                np.array([7, 9]), "leakage", np.array([1, 2], np.int8), np.array([3, 1 << 40]), 0.5, [0.75, np.nan]
            ),
            dropped.records(np.array([11]), "near_duplicates", 0, np.array([2]), np.array([0.75], np.float32)),
        ]
    )
    table = dropped.to_table(rows, ["val", "test"])
    assert table.schema == DROPPED
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (4, "opt_out", None, None, None, None),
        (7, "leakage", "val", 3, 0.5, 0.75),
        (9, "leakage", "test", 1 << 40, 0.5, None),
        (11, "near_duplicates", "memory", 2, 0.75, None),
    ]
    assert dropped.to_table(rows[:0], []).schema == DROPPED


def test_reasons_are_fields_of_the_filters():
    from configs.base import Filters

    assert all(hasattr(Filters(), reason) for reason in REASONS if reason != REMOVED)
