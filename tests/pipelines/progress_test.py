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


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1200, "class", "1,200 classes"),
        (1, "query", "1 query"),
        (2, "query", "2 queries"),
        (2, "key", "2 keys"),
        (3, "image-text pair", "3 image-text pairs"),
    ],
)
def test_counted(number, noun, text):
    assert progress.counted(number, noun) == text


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
        **{"left_secs": pytest.approx(40), "step": "", "doing": ""},
    }
    assert err[1] == {"event": "error", "text": "wrong"}


def _lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_loading_is_said_and_makes_no_rate(tmp_path, clock, capsys):
    with Stage("embed", "images", str(tmp_path)) as stage:
        stage.doing("loading encoders")
        stage.update(0.0, 0)
        for _ in range(9):
            clock.now += 5
            stage.update(0.0, 0)
        said = _lines(capsys)
        assert said[0] == "embed:   0%  loading encoders, 5.0 s" and len(said) == 9
        assert said[-1] == "embed:   0%  loading encoders, 45.0 s"
        for count in range(1, 4):
            clock.now += 5
            stage.update(count / 36, 100 * count)
        # 36 counts take 3 minutes, of which 10 seconds are over since the first.
        assert _lines(capsys)[1:] == [
            "embed:   6%  200 images, 20.0/s, 2m50s left",
            "embed:   8%  300 images, 20.0/s, 2m45s left",
        ]


def test_the_rate_is_that_of_the_last_minute(tmp_path, clock, capsys):
    with Stage("embed", "images", str(tmp_path)) as stage:
        # Ten slow minutes at 1/s, then 61 seconds at 10/s, of 10,000 images.
        for second in range(601):
            stage.update(second / 10_000, second)
            clock.now += 1
        for second in range(1, 62):
            stage.update((600 + 10 * second) / 10_000, 600 + 10 * second)
            clock.now += 1
        clock.now += 4
        stage.update((600 + 610 + 50) / 10_000, 600 + 610 + 50)
        assert _lines(capsys)[-1] == "embed:  13%  1,260 images, 10.0/s, 14m34s left"


def test_rare_counts_keep_their_rate_and_a_standstill_lowers_it(tmp_path, clock, capsys):
    with Stage("index", "rows", str(tmp_path)) as stage:
        for shard in range(4):
            stage.update(shard / 10, 1000 * shard)
            clock.now += 200
        # 200 seconds a shard: 1,400 for the other seven, of which 200 are over.
        stage.update(0.3, 3000)
        assert _lines(capsys)[-1] == "index:  30%  3,000 rows, 5.0/s, 20m00s left"
        clock.now += 1000
        stage.update(0.3, 3000)
        # The last two took at most 1,200: 4,200 for the other seven, of which 1,200 are over.
        assert _lines(capsys)[-1] == "index:  30%  3,000 rows, 1.7/s, 50m00s left"


def test_the_time_left_trusts_the_last_estimate_of_the_whole(tmp_path, clock, capsys):
    with Stage("embed", "images", str(tmp_path)) as stage:
        # The whole was thought to be 5,000 images, and is 10,000.
        for share, count in ((0.0, 0), (0.1, 500), (0.2, 1000)):
            stage.update(share, count)
            clock.now += 10
        stage.update(0.15, 1500)
        # 1,500 in 30 seconds: 8,500 take 170.
        assert _lines(capsys)[-1] == "embed:  20%  1,500 images, 50.0/s, 2m50s left"


def test_where_only_the_share_grows_it_tells_the_time_left(tmp_path, clock, capsys):
    with Stage("index", "rows", str(tmp_path)) as stage:
        for share in (0.0, 0.1, 0.2):
            stage.update(share, 0)
            clock.now += 10
        assert _lines(capsys)[-1] == "index:  20%  0 rows, 0.0/s, 1m20s left"


def test_a_share_never_goes_back(tmp_path, clock, capsys):
    with Stage("embed", "images", str(tmp_path)) as stage:
        for share, count in ((0.2, 200), (0.5, 600), (0.4, 550), (0.45, 560), (0.6, 700)):
            clock.now += 10
            stage.update(share, count)
        shown = [line[7:11] for line in _lines(capsys)]
        assert shown == [" 20%", " 50%", " 50%", " 50%", " 60%"]


def test_what_was_done_before_an_interruption_makes_no_rate(tmp_path, clock, capsys):
    with Stage("train", "steps", str(tmp_path)) as stage:
        stage.doing("compiling")
        stage.update(0.0, 0)
        clock.now += 10
        stage.update(0.5, 500, ours=False)
        assert _lines(capsys)[-1] == "train:  50%  compiling, 10.0 s"
        clock.now += 10
        stage.update(0.5, 500)
        clock.now += 10
        stage.update(0.6, 600)
        clock.now += 10
        stage.update(0.7, 700)
        assert _lines(capsys)[-1] == "train:  70%  700 steps, 10.0/s, 30.0 s left"


def test_each_part_of_a_stage_has_counts_of_its_own(tmp_path, clock, capsys):
    with Stage("embed", "images", str(tmp_path)) as stage:
        stage.update(0.9, 900)
        clock.now += 10
        stage.update(1.0, 1000)
        stage.step("selection", "comparing the first shards", "rows")
        clock.now += 10
        stage.update(0.1, 50)
        clock.now += 10
        stage.update(0.2, 100)
        clock.now += 10
        stage.update(0.3, 150)
    assert _lines(capsys) == [
        "embed: 100%  1,000 images, 10.0/s, 0.0 s left",
        "embed, selection:  10%  comparing the first shards, 10.0 s",
        "embed, selection:  20%  100 rows, ? left",
        "embed, selection:  30%  150 rows, 5.0/s, 1m10s left",
    ]


def test_json_lines_say_what_is_done_and_in_which_part(tmp_path, clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "as_json", False)
    progress.log_as_json()
    with Stage("embed", "images", str(tmp_path)) as stage:
        clock.now += 5
        stage.step("selection", "comparing", "rows")
    assert [json.loads(line) for line in _lines(capsys)] == [
        {
            **{"event": "progress", "stage": "embed", "step": "selection", "doing": "comparing", "unit": "rows"},
            **{"share": 0.0, "units": 0, "rate": None, "left_secs": None},
        }
    ]
