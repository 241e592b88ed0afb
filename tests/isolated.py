"""A Python of its own for libraries that cannot be installed beside ours."""

import pathlib
import subprocess
import sys
import venv

import pytest


def python_with(folder: pathlib.Path, *requirements: str, alone: str = "") -> str:
    """Returns the path of a Python with some packages, installed below `folder`; skips the test if pip cannot.

    Args:
        folder: of the Python.
        requirements: packages with what they need.
        alone: a package that is installed without what it needs.
    """
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", str(packages)]
    for wanted in (["--no-deps", alone] if alone else [], requirements):
        installed = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False) if wanted else None
        if installed and installed.returncode:
            pytest.skip(f"pip cannot fetch {', '.join(wanted)}: {installed.stderr.strip()[-200:]}")
    return str(folder / "bin/python")
