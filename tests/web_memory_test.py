import pathlib
import subprocess
import sys

import pytest

import web_memory

ROOT = pathlib.Path(__file__).parents[1]


def test_help_names_every_stage(capsys):
    assert web_memory.main(["--help"]) == web_memory.main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in web_memory.STAGES)
    assert max(map(len, printed.splitlines())) <= 100


def test_every_stage_is_there():
    for name, (module, _) in web_memory.STAGES.items():
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        assert module.endswith(f".{name}") or name == "encoders", "its own name is that of a folder"


def test_version(capsys):
    assert web_memory.main(["--version"]) == 0
    with pytest.raises(SystemExit):
        web_memory.main(["train", "--version"])
    one, other = capsys.readouterr().out.split("\n")[:2]
    assert one == other == "web-memory 0.1.0"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["trian", "--config=x.py"], "error: trian: no such stage; did you mean 'train'?"),
        (["embed,biuld"], "error: biuld: no such stage; did you mean 'build'?"),
        (["train", "--config=configs/dmo.py"], "did you mean 'configs/demo.py'?"),
        (["run", "--config=configs/demo.py", "--config.train.heads=mamm"], "heads=mamm: unknown; did you mean 'mam'?"),
        (["embed", "--config=configs/demo.py", "--config.index.k=0"], "--config.index.k=0: must be at least 1"),
        (
            ["run", "--config=configs/demo.py", "--config.test_set.path="],
            "test_set.path=: is empty; neighbors and train",
        ),
        (
            ["run", "--config=configs/demo.py", "--config.train.k=999"],
            "train.k=999: is more than --config.neighbors.k=",
        ),
        (
            ["run", "--config=configs/demo.py", "--config.train.values=text,image_large"],
            "image_large: no encoder of --config.encoders.value_image makes these values",
        ),
        (
            ["run", "--config=configs/demo.py", "--config.train.heads=mam_names", "--config.class_names="],
            "mam_names reads the names of the classes; set --config.class_names",
        ),
    ],
)
def test_mistakes_are_one_sentence(argv, sentence, capsys):
    assert web_memory.main(argv) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1


def test_several_stages_stop_at_the_first_that_fails(tmp_path, capsys):
    config = tmp_path / "mine.py"
    config.write_text(f"from configs.base import Config\ndef get_config(): return Config(workdir={str(tmp_path)!r})")
    assert web_memory.main(["plan,train", f"--config={config}"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/memory: does not exist yet; run web-memory embed first\n"


@pytest.mark.parametrize("hidden", ["configs.py", "configs/__init__.py", "model.py"])
def test_a_name_that_the_working_directory_hides_is_said(tmp_path, hidden):
    place = tmp_path / hidden
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    argv = [sys.executable, "-m", "pipelines.embed", "--help"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    name = hidden.split(".")[0].split("/")[0]
    at = place.parent if place.name == "__init__.py" else place
    said = f"error: {at} hides the package {name!r} of web-memory; rename it, or run web-memory STAGE instead\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_other_imports_of_a_hidden_name_fail_with_the_same_sentence(tmp_path):
    (tmp_path / "model.py").write_text("")
    argv = [sys.executable, "-c", "import pipelines"]
    done = subprocess.run(argv, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert "ImportError: " in done.stderr and "hides the package 'model' of web-memory" in done.stderr


def test_a_folder_that_is_no_package_hides_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "configs").mkdir()
    argv = [sys.executable, "-c", "import configs.base, pipelines, index, model, workflow"]
    done = subprocess.run(argv, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
