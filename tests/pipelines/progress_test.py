import pytest

from pipelines import progress, storage
from pipelines.progress import Stage


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_rate_and_time_left_count_only_our_own_work(tmp_path, clock, capsys):
    with Stage("embed", "images", str(tmp_path)) as stage:
        stage.update(0.5, 1000)
        clock.now += 10
        stage.update(0.6, 1200)
        printed = capsys.readouterr()
        assert "embed:  60%  1,200 images, 20.0/s, 40.0 s left" in printed.err and not printed.out
        clock.now += 1
        stage.update(0.61, 1220)
        assert capsys.readouterr() == ("", "")
    assert storage.read_json(f"{tmp_path}/stages/embed.json") == {"stage": "embed", "secs": 11.0}


def test_a_failed_stage_notes_no_seconds(tmp_path):
    with pytest.raises(RuntimeError), Stage("embed", "images", str(tmp_path)):
        raise RuntimeError
    assert not (tmp_path / "stages/embed.json").exists()


@pytest.mark.parametrize(("secs", "text"), [(8.21, "8.2 s"), (185, "3m05s"), (7620, "2h07m")])
def test_duration(secs, text):
    assert progress.duration(secs) == text


def test_a_stage_that_was_done_before_keeps_its_seconds(tmp_path, clock):
    for worked, secs in ((True, 7), (False, 1)):
        with Stage("embed", "images", str(tmp_path)) as stage:
            stage.worked = worked
            clock.now += secs
    assert storage.read_json(f"{tmp_path}/stages/embed.json")["secs"] == 7.0
