"""What can be said of the worker image without building it: versions, what it copies, and the code it runs."""

import ast
import importlib.metadata
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LINES = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines()
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def _setup() -> dict:
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "setup"]
    values = {}
    for keyword in call.keywords:
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return values


def _copied() -> list[str]:
    return [name for line in LINES if line.startswith("COPY ") for name in line.split()[1:-1]]


def test_beam_is_the_pinned_one():
    (base,) = [line.split()[1] for line in LINES if line.startswith("FROM ")]
    assert base == f"apache/beam_python3.11_sdk:{PINS['apache-beam']}"
    # A worker and its launcher must agree.
    assert importlib.metadata.version("apache-beam") == PINS["apache-beam"]


def test_what_is_copied_is_there_and_is_what_setup_needs():
    assert all((ROOT / name).exists() for name in _copied())
    assert {"configs", "index", "model", "pipelines", "workflow"} | {
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "web_memory.py",
        "web_memory_names.py",
    } == set(_copied())
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored and {line[1:] for line in ignored if line.startswith("!")} == set(_copied())


def test_extras_exist_and_are_pinned():
    (extras,) = [line.partition("=")[2].split(",") for line in LINES if line.startswith("ARG EXTRAS=")]
    setup = _setup()
    assert set(extras) <= set(setup["extras_require"])
    # setuptools has its bound in setup.py.
    known = {re.sub("[-_.]+", "-", name).lower() for name in PINS} | {"setuptools"}
    wanted = [r for extra in extras for r in setup["extras_require"][extra]] + setup["install_requires"]
    names = {re.split(r"[\[<>=]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= known


@pytest.mark.parametrize("names", [[], ["no-such-encoder"]])
def test_the_encoders_are_built_by_their_names(tmp_path, names):
    (line,) = [line for line in LINES if line.startswith("RUN python")]
    argv = shlex.split(line.removeprefix("RUN ").partition("&&")[0])
    assert argv[0] == "python" and argv[-1] == "${ENCODERS}"
    env = {"WEB_MEMORY_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *argv[1:-1], *names], env=env, capture_output=True, text=True)
    assert ("there is no built-in encoder 'no-such-encoder'" in done.stderr) == bool(names), done.stderr
    assert bool(done.returncode) == bool(names)
