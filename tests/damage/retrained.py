"""Trains one seed again after each of many damages to the files that it starts from; run in a process of its own.

    python -c "from tests.damage import retrained; retrained.main()" ROOT SCRATCH FILE..

prints for each damage the file, the damage and how it ended.
"""

import contextlib
import io
import pathlib
import shutil
import sys

import numpy as np

from model import train

_TRIALS = 200


def _train(root: pathlib.Path) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train.main([f"--config={root}/config.py", "--config.train.heads=mam"])
    return code, err.getvalue()


def _restore(root: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """Copies the workdir, with the last run of mam not finished; returns its folder."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    (run,) = copy.glob("out/runs/*/mam/seed-1")
    (run / "result.json").unlink()
    (run / "predictions.parquet").unlink()
    return run


def _damaged(data: bytes, number: int, rng: np.random.Generator) -> bytes:
    special = (data[: len(data) // 2], b"", b"[]", b"null")
    if number < len(special):
        return special[number]
    bit = int(rng.integers(0, 8 * max(len(data), 1)))
    return data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :] if data else b"x"


def main() -> None:
    """Runs the trials; see the module."""
    root, copy = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]) / "copy"
    files, rng = sys.argv[3:], np.random.default_rng(0)
    (run,) = root.glob("out/runs/*/mam/seed-1")
    right = (run / "predictions.parquet").read_bytes()
    each = -(-_TRIALS // len(files))
    for file in files:
        for number in range(max(each, 5)):
            again = _restore(root, copy)
            path = copy / file
            data = path.read_bytes()
            damaged = _damaged(data, number, rng)
            path.write_bytes(damaged)
            code, text = _train(copy)
            if code == 2 and text.startswith("error: ") and text.count("\n") == 1:
                end = "refused"
            elif code or (again / "predictions.parquet").read_bytes() != right:
                end = f"WRONG {code} {text!r}"
            else:
                end = "harmless" if path.exists() and path.read_bytes() == damaged else "healed"
            print(f"{file}, {number}: {end}", flush=True)
