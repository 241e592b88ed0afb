import re

import pytest

from index import plan


def say(world, capsys, *flags: str) -> tuple[int, str, str]:
    code = plan.main([f"--config={world.config_file}", *flags])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_says_what_will_be_built(world, capsys):
    code, out, err = say(world, capsys, "--config.index.searcher=scann", "--config.index.leaves=8")
    assert (code, err) == (0, "")
    lines = dict(re.split("  +", line.strip(), maxsplit=1) for line in out.splitlines()[1:])
    assert lines["shards"] == "3, of 134 rows"
    # Regions have at least 16 leaves.
    assert lines["leaves"] == "16, trained on 134 rows"
    assert lines["re-ranked in"] == "bfloat16, from memory"
    assert {"searcher", "codes", "disk", "memory", "build", "search"} <= set(lines)
    assert not world.index.exists()


def test_exact_search_has_no_leaves(world, capsys):
    code, out, err = say(world, capsys, "--config.index.shards=1")
    assert (code, err) == (0, "")
    assert "none, every key is scanned" in out and "1, of 400 rows" in out


def test_refuses_more_memory_than_there_is_and_names_shards_that_fit(world, capsys):
    # 134 rows of 12 float32 numbers take 12.9 kB, 67 rows 6.4 kB.
    code, out, err = say(world, capsys, "--config.index.memory_gb=0.0000065")
    assert (code, out) == (2, "")
    assert "memory_gb=6.5e-06: a shard of 134 rows takes" in err and "--config.index.shards=6 takes" in err
    assert say(world, capsys, "--config.index.memory_gb=0.0000065", "--config.index.shards=6")[0] == 0
    assert "nothing fits" in say(world, capsys, "--config.index.memory_gb=1e-9")[2]


def test_refuses_a_recall_that_the_keys_cannot_give(world, capsys):
    flags = ("--config.index.searcher=scann", "--config.index.leaves=8", "--config.index.reorder=int8")
    code, out, err = say(world, capsys, *flags, "--config.index.target_recall=1")
    assert (code, out) == (2, "")
    assert "target_recall=1.0: int8 keys reach 0.9" in err and "or set --config.index.reorder=float32" in err


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [("shards=401", "index.shards=401: must be at most 400"), ("k=0", "index.k=0: must be at least 1")],
)
def test_wrong_numbers(world, capsys, flag, sentence):
    code, _, err = say(world, capsys, f"--config.index.{flag}")
    assert code == 2 and sentence in err
