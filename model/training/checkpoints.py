"""The checkpoints of one run: written, named in a file that knows the SHA-256 of each of their files, and restored.

    checkpoints/{step}/..    what Orbax writes
    checkpoints.json         the last whole checkpoint: whose it is, its step, and its files; written after them

A checkpoint that this file does not name was cut short, and is deleted. One that is not as the file says is refused,
before Orbax reads it.
"""

import hashlib
import pathlib
import shutil
import types
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

from model.training import run_files
from model.training.trainer import State
from pipelines import schemas, storage
from pipelines.errors import UserError

_SHAPE = {"step": int, "files": {str: str}, "metrics_sha256": str, "of": dict}


class Checkpoints:
    """The checkpoints of a run; a context manager."""

    def __init__(self, folder: pathlib.Path, of: Mapping[str, Any]) -> None:
        """Opens the folder.

        Args:
            folder: of the run.
            of: what the run is of, as JSON values; checkpoints of another run are refused.
        """
        self._folder, self._of = folder, dict(of)
        self._place, self._file = folder / run_files.CHECKPOINTS, folder / run_files.CHECKPOINT
        self._opened: ocp.CheckpointManager | None = None

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Closes the manager, if it was opened."""
        if self._opened:
            self._opened.close()

    @property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's, which reads all checkpoints as it is opened: only once they are known to be whole."""
        if not self._opened:
            options = ocp.CheckpointManagerOptions(max_to_keep=None)
            self._opened = ocp.CheckpointManager(self._place, options=options)
        return self._opened

    def save(self, step: int, state: State, metrics: pathlib.Path) -> None:
        """Writes the checkpoint of a step, names it, and deletes those before.

        Args:
            step: number of steps done.
            state: after them.
            metrics: the log, which has a line for this step already.
        """
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()
        facts = {"step": step, "files": self._digests(step), "metrics_sha256": storage.sha256(str(metrics))}
        storage.write_json(str(self._file), {**facts, "of": self._of})
        for other in self._manager.all_steps():
            if other != step:
                self._manager.delete(other)

    def restore(self, state: State, must_exist: bool = False) -> State:
        """Returns the state of the last checkpoint, or `state` if there is none.

        Args:
            state: has the shapes of the checkpoint.
            must_exist: whether it is an error if there is none.

        Raises:
            UserError: if the checkpoint is damaged or of another run, or cannot be read.
        """
        again = f"remove {self._folder} and train again"
        if not self._file.exists():
            if must_exist:
                raise UserError(f"{self._file}: no such file; {again}")
            self._keep_only("")
            return state
        known = schemas.read_json(str(self._file), _SHAPE, again)
        step = known["step"]
        if known["of"] != self._of:
            raise UserError(f"{self._file}: is of another run; {again}")
        if not known["files"] or self._digests(step) != known["files"]:
            raise UserError(f"{self._place / str(step)}: is damaged, its files are not those it had; {again}")
        if not must_exist:
            self._check_metrics(known["metrics_sha256"], step, again)
            self._keep_only(str(step))
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(state))
        except Exception as error:
            # Orbax passes on whatever the reader of a file raises.
            reason = str(error).partition("\n")[0][:200]
            raise UserError(f"{self._place}: cannot be read ({reason}); {again}") from error

    def _digests(self, step: int) -> dict[str, str]:
        place = self._place / str(step)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): storage.sha256(str(path)) for path in files}

    def _check_metrics(self, digest: str, step: int, again: str) -> None:
        """Raises a `UserError` if the lines of the log up to a step are not those of the checkpoint."""
        path = self._folder / run_files.METRICS
        lines = run_files.metrics_until(path.read_bytes(), step) if path.is_file() else b""
        if hashlib.sha256(lines).hexdigest() != digest:
            raise UserError(f"{path}: is damaged; {again}")

    def _keep_only(self, name: str) -> None:
        """Deletes what is beside a checkpoint, or all if its name is empty: others were cut short or are older."""
        for other in self._place.iterdir() if self._place.is_dir() else ():
            if other.name != name:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
