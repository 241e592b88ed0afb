"""A Python of its own for libraries that cannot be installed beside ours."""

import pathlib
import subprocess
import sys
import venv

import pytest


def python_with(folder: pathlib.Path, *requirements: str) -> str:
    """Returns the path of a Python with some packages, installed below `folder`; skips the test if pip cannot."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", str(packages)]
    installed = subprocess.run([*pip, *requirements], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot fetch {', '.join(requirements)}: {installed.stderr.strip()[-200:]}")
    return str(folder / "bin/python")
