import threading
import time

import pytest

from index.lists.background import Behind, ahead


def test_one_item_is_made_ahead_and_errors_come_in_their_place():
    made, seen = [], []

    def items():
        for number in range(3):
            made.append((number, threading.current_thread() is threading.main_thread()))
            yield number
        raise ValueError("after all")

    with pytest.raises(ValueError, match="after all"):
        for number in ahead(items()):
            seen.append(number)
            deadline = time.monotonic() + 5
            while len(made) < min(number + 2, 3) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(made) == min(number + 2, 3)
    assert seen == [0, 1, 2] and made == [(0, False), (1, False), (2, False)]
    assert list(ahead(iter([]))) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_work_waits_where_too_much_is_under_way(threads):
    gate, begun, done = threading.Event(), [], []

    def work(number):
        begun.append(number)
        gate.wait(5)
        done.append(number)

    def fill():
        with Behind(threads) as behind:
            for number in range(6):
                behind.do(work, number)

    filler = threading.Thread(target=fill)
    filler.start()
    time.sleep(0.05)
    # So many work, one waits, and the next is not taken.
    assert len(begun) == threads and filler.is_alive() and not done
    gate.set()
    filler.join(5)
    assert sorted(done) == list(range(6))


def test_errors_are_raised_at_the_end_or_by_the_next_call():
    def work(number):
        if number == 1:
            raise ValueError("broken")

    behind = Behind()
    behind.do(work, 1)
    with pytest.raises(ValueError, match="broken"):
        behind.finish()
    behind = Behind()
    with pytest.raises(ValueError, match="broken"):
        for number in range(1, 100):
            behind.do(work, number)
    with pytest.raises(KeyError, match="earlier"), Behind() as behind:
        behind.do(work, 1)
        raise KeyError("earlier")
