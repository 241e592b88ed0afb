import datetime
import json

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
    note = progress.read_note(f"{tmp_path}/stages/embed.json")
    assert (note["stage"], note["secs"]) == ("embed", 11.0)
    ended = datetime.datetime.fromisoformat(note["ended"])
    assert datetime.timedelta(0) <= datetime.datetime.now(datetime.UTC) - ended < datetime.timedelta(minutes=1)


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


def test_lines_of_a_pipe_are_narrow_plain_and_whole(capsys):
    path = "/data/out/[bold]x/" + "y" * 90
    progress.summary("embed: 3 rows", {"output": path, "encoders": " ".join(["key efficientnet-lite0"] * 9)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "embed: 3 rows" and any(line.strip() == path or line.endswith(path) for line in lines)
    assert all(len(line) <= 100 for line in lines if path not in line)
    assert lines[-1].startswith(" " * len("  encoders  "))


def test_markup_and_control_characters_are_text(capsys):
    progress.say("wrote out/[bold]x[/bold] \x1b[31mred\x07")
    assert capsys.readouterr().out == "wrote out/[bold]x[/bold]  [31mred \n"


def test_a_table_is_aligned(capsys):
    progress.table("What it is", ("head", "all", "few"), [("linear", "48.7", "34.0"), ("mam", "56.7", "-")])
    assert capsys.readouterr().out == "What it is\n  head     all   few\n  linear  48.7  34.0\n  mam     56.7     -\n"


def test_a_wide_table_is_a_paragraph_for_each_row(capsys):
    progress.table("rows", ("rank", "caption", "score"), [("1", "word " * 40, "0.5"), ("2", "b", "0.4")], ("caption",))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[:2] == ["rows", "  rank 1"] and "    score: 0.5" in lines and lines[-1] == "    score: 0.4"


def test_no_box_is_drawn(capsys):
    progress.table("t", ("a", "b"), [("1", "2")])
    progress.summary("s", {"x": 1})
    assert capsys.readouterr().out.isascii()


def test_json_lines(tmp_path, clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "as_json", False)
    progress.log_as_json()
    with Stage("embed", "images", str(tmp_path)) as stage:
        stage.update(0.5, 1000)
        clock.now += 10
        stage.update(0.6, 1200)
        progress.summary("embed: 3 rows", {"output": "out/[bold]x"})
    progress.table("t", ("a", "b"), [("1", "2")])
    progress.say("done")
    progress.error("wrong")
    printed = capsys.readouterr()
    out, err = ([json.loads(line) for line in text.splitlines()] for text in printed)
    assert out == [
        {"event": "summary", "title": "embed: 3 rows", "rows": {"output": "out/[bold]x"}},
        {"event": "table", "title": "t", "columns": ["a", "b"], "rows": [["1", "2"]]},
        {"event": "message", "text": "done"},
    ]
    assert err[0] | {"rate": 0} == {
        **{"event": "progress", "stage": "embed", "share": 0.6, "units": 1200, "unit": "images", "rate": 0},
        "left_secs": pytest.approx(40),
    }
    assert err[1] == {"event": "error", "text": "wrong"}
