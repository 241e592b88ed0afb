"""The command `web-memory leaks`: which pairs it shows, and a page that loads nothing and trusts nothing."""

import html.parser
import re
import shutil

import pytest

from pipelines import embed, leaks
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines.filtering import drawn

_HOSTILE = '<script src="http://host/x.js"></script> a "dog" & <img src=http://host/y>'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / "image"
    tiny.save_image_encoder(folder)
    return folder


@pytest.fixture
def world(tmp_path, encoder):
    """Rows 0 and 1 of the memory are edited val images, row 2 is a look-alike of one, the others are strangers."""
    vals = [drawn.picture(seed, layout=7) for seed in range(4)]
    (tmp_path / "images").mkdir()
    for i, image in enumerate(vals):
        (tmp_path / f"images/{i}.jpg").write_bytes(drawn.encoded(image))
    (tmp_path / "val.txt").write_text("".join(f"{i}.jpg {i % 2}\n" for i in range(4)))
    memory = [
        drawn.EDITS["cut to 75 %"](vals[0]),
        drawn.EDITS["mirrored"](vals[1]),
        drawn.picture(50, layout=7),
        *(drawn.picture(60 + i) for i in range(3)),
    ]
    pairs = [(f"0000{i}", drawn.encoded(image), _HOSTILE) for i, image in enumerate(memory)]
    tiny.write_tar(tmp_path / "pairs/00000.tar", pairs)
    (tmp_path / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
    flags = {
        "data": tmp_path,
        "workdir": tmp_path / "out",
        "memory.path": "pairs/*.tar",
        "val_set.path": "val.txt",
        "val_set.image_root": "images",
        "encoders.key": encoder,
        "encoders.value_image": "",
        "encoders.value_text": "",
    }
    return tmp_path, [f"--config={tmp_path}/config.py", *(f"--config.{name}={value}" for name, value in flags.items())]


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_dropped_and_kept_pairs_stand_side_by_side(world, capsys):
    root, argv = world
    assert embed.main(argv) == 0
    # With six dimensions every cosine is high.
    printed = " ".join(capsys.readouterr().out.split())
    assert "leakage 2, listed in memory/_dropped/" in printed
    assert "of 6 rows with a cosine of 0.65 or more" in printed
    page = root / "page.html"
    assert leaks.main([*argv, f"--html={page}"]) == 0
    printed = capsys.readouterr().out
    assert "dropped, 2 of 2 rows" in printed and f"wrote {page}" in " ".join(printed.split())
    shown = _Page(page.read_text())
    images = [attrs for tag, attrs in shown.tags if tag == "img"]
    # Two pictures a pair: two dropped pairs and four kept ones.
    assert len(images) == 12 and all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert not [tag for tag, _ in shown.tags if tag in ("script", "a", "link", "iframe")]
    assert not [name for _, attrs in shown.tags for name in attrs if name in ("href", "srcset", "onerror")]
    assert _HOSTILE in shown.text and images[0]["alt"] == _HOSTILE
    scores = [float(score) for score in re.findall(r"cosine \d\.\d{4}, pixels (\d\.\d{4})", shown.text)]
    assert min(scores[:2]) >= 0.6 > max(scores[2:]) and scores[:2] == sorted(scores[:2])
    assert scores[2:] == sorted(scores[2:], reverse=True)
    ids = re.findall(r"memory (\d+)", shown.text)
    assert set(ids[:2]) == {"0", "1"} and set(ids[2:]) == {"2", "3", "4", "5"}


def test_k_bounds_both_lists(world):
    root, argv = world
    assert embed.main(argv) == 0
    assert leaks.main([*argv, "--k=1", f"--html={root}/page.html"]) == 0
    shown = _Page((root / "page.html").read_text())
    assert [tag for tag, _ in shown.tags].count("article") == 2 and "dropped, 1 of 2 rows" in shown.text


def test_a_picture_that_is_gone_is_said_on_the_page(world):
    root, argv = world
    assert embed.main(argv) == 0
    (root / "images/0.jpg").unlink()
    assert leaks.main([*argv, f"--html={root}/page.html"]) == 0
    assert "0.jpg" in _Page((root / "page.html").read_text()).text


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--k=0"], "--k=0: must be at least 1"),
        (["--config.workdir=nowhere"], "nowhere/memory: does not exist yet; run web-memory embed first"),
    ],
)
def test_mistakes_are_one_sentence(world, capsys, more, sentence):
    assert leaks.main([*world[1], *more]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1


def test_a_memory_that_was_compared_with_nothing_or_with_other_splits_is_refused(world, capsys):
    root, argv = world
    assert embed.main([*argv, "--config.filters.leakage=0"]) == 0
    assert leaks.main(argv) == 2
    assert "was not compared with val or test images" in capsys.readouterr().err
    assert embed.main(argv) == 0
    # Another val split, whole in itself.
    (root / "val.txt").write_text("".join(f"{i}.jpg {i % 2}\n" for i in range(3)))
    assert embed.main([*argv, f"--config.workdir={root}/other"]) == 0
    shutil.rmtree(root / "out/queries/val")
    shutil.copytree(root / "other/queries/val", root / "out/queries/val")
    capsys.readouterr()
    assert leaks.main(argv) == 2
    assert "has changed since the memory was compared with it" in capsys.readouterr().err
