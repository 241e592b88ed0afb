"""The built wheel in an environment of its own, from another folder: generic package names must not hide each other."""

import pathlib
import site
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = (
    "pipelines.demo_corpus",
    "pipelines.embed",
    "index.build",
    "index.neighbors",
    "model.train",
    "model.report",
    "model.app",
)


def copy_sources(folder: pathlib.Path) -> pathlib.Path:
    """Copies what a package is built of, so that building leaves nothing beside the sources; returns the folder."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in tracked:
        if name.split("/")[0] in ("configs", "index", "model", "pipelines", "workflow") or "/" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", str(folder), str(sources)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    # A plain path in a .pth file links the dependencies in, but not the editable install among them.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--target", str(packages), str(wheel)], check=True)
    return folder / "venv/bin/python"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help(python, tmp_path, command):
    argv = [str(python), "-m", command, "--config=configs/demo.py", "--help"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--config.index.shards=2" in done.stdout


def test_the_wheel_is_what_runs(python, tmp_path):
    code = "import configs, index, model, pipelines\nfor p in (configs, index, model, pipelines): print(p.__file__)"
    done = subprocess.run([str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(str(python.parents[1]) in path for path in done.stdout.split()), done.stdout


def test_a_mistake_is_one_sentence(python, tmp_path):
    argv = [str(python), "-m", "model.train", "--config=configs/demo.py", "--config.train.head=mam"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: --config.train.head: no field 'head'; did you mean 'heads'?\n"


def test_the_console_script_is_not_hidden_by_the_working_directory(python, tmp_path):
    (tmp_path / "model.py").write_text("")
    (script,) = python.parents[1].glob("lib/python*/site-packages/bin/web-memory")
    argv = [str(python), str(script), "train", "--help=neighbors"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--config.neighbors.k=128" in done.stdout, done.stderr
