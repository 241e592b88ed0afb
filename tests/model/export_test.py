"""A bundle predicts what its workdir does, anywhere, and opens only as it was exported."""

import json
import os
import shutil

import pytest

from model import evaluate, export
from model.recognizer import Recognizer
from pipelines import storage
from pipelines.errors import UserError
from tests.model.recognition.line import HEADS, ROWS


@pytest.fixture(scope="module")
def bundle(line, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "exported"
    assert export.main(line.argv(f"--output={folder}", "--seeds=all")) == 0
    return folder


@pytest.fixture
def moved(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "moved")


def test_predicts_the_same_elsewhere_without_the_workdir(line, bundle, tmp_path):
    photographs = line.photographs()
    wanted = {}
    for head in HEADS:
        with Recognizer.open(str(line.workdir), head=head) as recognizer:
            wanted[head] = recognizer.predict(photographs)
    moved = shutil.copytree(bundle, tmp_path / "moved")
    hidden = [line.workdir, line.root / "image", line.root / "words"]
    for path in hidden:
        path.rename(path.with_name(f"{path.name}.hidden"))
    try:
        with Recognizer.open(str(moved)) as recognizer:
            assert recognizer.heads[0] == recognizer.head and set(recognizer.heads) == set(HEADS)
            for head in HEADS:
                assert recognizer.predict(photographs, head=head) == wanted[head]
        with Recognizer.open(str(moved), head="mam_names") as recognizer:
            assert recognizer.with_classes(["cat"]).classes[-1] == "cat"
    finally:
        for path in hidden:
            path.with_name(f"{path.name}.hidden").rename(path)


def test_has_no_pickle_and_says_what_it_is(bundle):
    names = {path.suffix for path in bundle.rglob("*") if path.is_file()}
    assert not names & {".pkl", ".pickle", ".pt", ".bin"}
    card = (bundle / "MODEL_CARD.md").read_text()
    assert f"a memory of {ROWS} image-text pairs" in card and "| licence |" in card and "| mam | 1 |" in card


def test_its_card_has_the_intervals_of_the_evaluation_that_has_most_of_its_heads(line, tmp_path):
    workdir = shutil.copytree(line.workdir, tmp_path / "out")
    argv = line.argv(f"--config.workdir={workdir}")
    for heads in ("linear,mam,mean_knn", "mam"):
        assert evaluate.main([*argv, f"--config.train.heads={heads}"]) == 0
    assert export.main([*argv, f"--output={tmp_path / 'bundle'}", "--head=linear,mam"]) == 0
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert "| mam | linear |" in card and "mean_knn" not in card and "web-memory evaluate" not in card


def test_a_search_of_a_copied_memory_is_filtered_by_what_it_holds(moved, line):
    (photograph,) = line.photographs()[:1]
    with Recognizer.open(str(moved)) as opened:
        near = opened.search(image=photograph, k=3, where="url!=http://host/0002 and caption!=''")
        assert len(near) == 3 and "http://host/0002" not in [row.url for row in near]
        with pytest.raises(UserError, match="where: the bundle has captions and URLs of its memory, and no metadata"):
            opened.search(image=photograph, where="LICENSE=cc0")


def test_every_file_is_checked(bundle, moved):
    files = [path for path in sorted(moved.rglob("*")) if path.is_file()]
    assert len(files) > 25
    for path in files:
        data = path.read_bytes()
        path.write_bytes(bytes([*data[:-1], data[-1] ^ 1]) if data else b"x")
        with pytest.raises(UserError, match=r"damaged|is not|valid|missing"):
            Recognizer.open(str(moved))
        path.unlink()
        with pytest.raises(UserError, match=r"is missing|holds no trained head"):
            Recognizer.open(str(moved))
        path.write_bytes(data)
    Recognizer.open(str(moved)).close()


def test_what_is_not_named_is_refused(moved, tmp_path):
    (moved / "notes.txt").write_text("mine")
    (moved / "encoders/key/more").write_text("x")
    with pytest.raises(UserError, match=r"encoders/key/more: is not named in bundle.json"):
        Recognizer.open(str(moved))
    (moved / "encoders/key/more").unlink()
    target = moved / "heads/mam/recognition.json"
    shutil.move(target, tmp_path / "elsewhere.json")
    os.symlink(tmp_path / "elsewhere.json", target)
    with pytest.raises(UserError, match="is a link"):
        Recognizer.open(str(moved))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "heads/../../outside"])
def test_paths_do_not_leave_the_folder(moved, name):
    path = moved / "bundle.json"
    facts = storage.unseal(json.loads(path.read_text()))
    facts["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    storage.write_json(str(path), facts)
    with pytest.raises(UserError, match="which is not in that folder"):
        Recognizer.open(str(moved))


def test_a_reference_opens_while_its_memory_is_there(line, tmp_path, capsys):
    assert export.main(line.argv(f"--output={tmp_path / 'b'}", "--reference", "--head=mam")) == 0
    assert "referred to" in capsys.readouterr().out and not (tmp_path / "b/memory").exists()
    with Recognizer.open(str(tmp_path / "b")) as bundle, Recognizer.open(str(line.workdir), head="mam") as workdir:
        assert bundle.heads == ("mam",)
        assert bundle.predict(line.photographs()) == workdir.predict(line.photographs())


def test_refusals(line, bundle, tmp_path, capsys):
    for flags, said in (
        (["--output="], "--output is missing"),
        ([f"--output={bundle}"], "exists; name a new folder"),
        ([f"--output={tmp_path / 'x'}", "--head=mamm"], "did you mean 'mam'"),
        ([f"--output={tmp_path / 'x'}", "--seeds=some"], "must be best, all, or the number"),
        ([f"--output={tmp_path / 'x'}", "--run=/no/such"], "holds no trained head"),
    ):
        assert export.main(line.argv(*flags)) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="holds a copy of its memory"):
        Recognizer.open(str(bundle), follow=True)
