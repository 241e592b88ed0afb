"""A folder of arrays for other tools: whole files, a marker for each group of them, and a manifest of all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines import manifest, schemas, storage
from pipelines.errors import UserError

_STAGE = "workflow.arrays"
_AGAIN = "remove the folder and run web-memory arrays again"
_PART = {"rows": int, "files": {str: {"size_bytes": int, "sha256": str}}}


class Output:
    """A folder that is written part by part; parts that a killed command finished are not written again.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: str, identity: Mapping[str, Any]) -> None:
        """Claims a folder; a `UserError` if it holds something else.

        Args:
            folder: to write.
            identity: everything that decides its bytes, as JSON values.
        """
        self.folder = folder
        self._config_hash = manifest.claim(folder, _STAGE, identity)
        self._parts: dict[str, dict[str, Any]] = {}
        storage.remove_temporaries(folder)

    def has(self, name: str) -> bool:
        """Tells whether a part is written: its marker is there, and its files have the sizes that it states."""
        path = self._marker(name)
        if not storage.exists(path):
            return False
        part = schemas.read_json(path, _PART, _AGAIN)
        places = {storage.inside(self.folder, file): facts["size_bytes"] for file, facts in part["files"].items()}
        if any((found := storage.found(file)) is None or found.size_bytes != size for file, size in places.items()):
            return False
        self._parts[name] = part
        return True

    def done(self, name: str, rows: int, files: Sequence[str]) -> None:
        """Writes the marker of a part.

        Args:
            name: of the part.
            rows: in each of its files.
            files: their paths below the folder.
        """
        paths = {file: storage.join(self.folder, file) for file in files}
        facts = {
            file: {"size_bytes": storage.size_bytes(path), "sha256": storage.sha256(path)}
            for file, path in paths.items()
        }
        self._parts[name] = {"rows": rows, "files": facts}
        storage.write_json(self._marker(name), self._parts[name])

    def finish(self) -> int:
        """Writes `complete.json`, once all parts are written, and returns their rows."""
        whole = {
            "config_hash": self._config_hash,
            "fingerprint": manifest.fingerprint([self._config_hash, self._parts]),
            "rows": sum(part["rows"] for part in self._parts.values()),
            "parts": self._parts,
        }
        storage.write_json(storage.join(self.folder, manifest.COMPLETE_FILE), whole)
        return int(whole["rows"])

    def write_npy(self, file: str, dtype: str, shape: tuple[int, int], chunks: Iterable[np.ndarray]) -> None:
        """Writes an .npy file, version 1.0 of the format, chunk by chunk.

        Args:
            file: its path below the folder.
            dtype: name of its type; little-endian in the file.
            shape: of the whole array.
            chunks: its rows, in order.

        Raises:
            UserError: if there are not as many rows as `shape` states.
        """
        kind, size = np.dtype(dtype).newbyteorder("<"), 0
        path = storage.join(self.folder, file)
        with storage.atomic_write(path) as out:
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for chunk in chunks:
                out.write(np.ascontiguousarray(chunk, kind).data.cast("B"))
                size += chunk.size
            if size != math.prod(shape):
                raise UserError(f"{path}: has {size:,} numbers instead of {math.prod(shape):,}; its source has changed")

    def _marker(self, name: str) -> str:
        return storage.join(self.folder, manifest.MARKERS, f"{name}.json")
