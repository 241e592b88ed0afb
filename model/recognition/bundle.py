"""The folder of a bundle: a model that is shipped, whole, checked when it is opened, and free of pickles.

    bundle.json          every file with its SHA-256, the encoders, where index and memory are; sealed, written last
    MODEL_CARD.md        what it is, for people
    heads/               trained heads, laid out as below `runs/{hash}/` (`trained`)
    encoders/key/        encoder.json beside the model's files, for each column that is needed
    index/               one version of an index
    memory/00000.parquet the rows that it can find: id, key, values, caption, url

With `--reference` index and memory stay where they are; the bundle knows their places and the index's fingerprint.
`export` writes it.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from model.recognition import memory
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec

FILE, CARD = "bundle.json", "MODEL_CARD.md"
HEADS, ENCODERS, INDEX, MEMORY = "heads", "encoders", "index", "memory"
FORMAT = 1
ENCODER_FILE = "encoder.json"
_AGAIN = "export it again, or copy it again from where it is whole"
_ENCODER = {"handle": str, "kind": str, "compute": str, "unsafe": bool, "info": schemas.shape_of(EncoderInfo)}
_SHAPE = {
    **{"format": int, "files": {str: {"sha256": str, "bytes": int}}, "encoders": {str: _ENCODER}},
    **{"index": str, "memory": str, "index_fingerprint": str, "versions": {str: str}},
}


def is_one(path: str) -> bool:
    """Tells whether a folder is a bundle."""
    return storage.exists(storage.join(path, FILE))


def write_manifest(folder: str, facts: Mapping[str, Any]) -> None:
    """Writes `bundle.json` over all files of a folder; `facts` has the entries that it cannot know."""
    files = {name: {"sha256": storage.sha256(str(path)), "bytes": path.stat().st_size} for name, path in _files(folder)}
    storage.write_json(storage.join(folder, FILE), {"format": FORMAT, **facts, "files": files})


def _files(folder: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields every file but `bundle.json`, by its path below the folder; links are not followed."""
    for place, folders, names in os.walk(folder):
        for name in sorted((*names, *(name for name in folders if os.path.islink(os.path.join(place, name))))):
            path = pathlib.Path(place, name)
            if (inside := path.relative_to(folder).as_posix()) != FILE:
                yield inside, path


class Bundle:
    """An opened bundle, all files of which are as the manifest says.

    Attributes:
        runs: folder of the heads.
        index: folder of the index.
        memory: folder of the memory, embedded or copied.
        copied: whether index and memory are in the bundle.
        facts: contents of `bundle.json`.
    """

    def __init__(self, path: str, unsafe_models: bool = False) -> None:
        """Checks every file.

        Args:
            path: of the folder, on this machine.
            unsafe_models: whether encoders may reach files, sockets, processes and Python.

        Raises:
            UserError: if a file is missing, damaged, or not named in the manifest; if a path leads outside.
        """
        if "://" in path:
            raise UserError(f"{path}: a bundle is opened from this machine's disk; copy it here")
        self._path, self._unsafe = path, unsafe_models
        self.facts = schemas.read_json(storage.join(path, FILE), _SHAPE, _AGAIN)
        if self.facts["format"] != FORMAT:
            raise UserError(f"{path}: is of format {self.facts['format']}, this version opens {FORMAT}; {_AGAIN}")
        self._check()
        self.copied = self.facts["memory"] == MEMORY and self.facts["index"] == INDEX
        self.runs = storage.join(path, HEADS)
        self.index = storage.join(path, INDEX) if self.copied else self.facts["index"]
        self.memory = storage.join(path, MEMORY) if self.copied else self.facts["memory"]

    def _check(self) -> None:
        known, there = self.facts["files"], dict(_files(self._path))
        for name in known:
            storage.inside(self._path, name)
            if name not in there:
                raise UserError(f"{self._path}/{name}: is missing; {_AGAIN}")
        for name, path in there.items():
            if path.is_symlink():
                raise UserError(f"{path}: is a link, which a bundle does not have; {_AGAIN}")
            # Files of the person who keeps it, beside the folders that are read.
            if name not in known and "/" in name:
                raise UserError(f"{path}: is not named in {FILE}; remove it")
        for name, facts in known.items():
            path = there[name]
            if path.stat().st_size != facts["bytes"] or storage.sha256(str(path)) != facts["sha256"]:
                raise UserError(f"{path}: is damaged; {_AGAIN}")

    @property
    def text_columns(self) -> list[str]:
        """Columns of the text encoders."""
        return [column for column, facts in self.facts["encoders"].items() if facts["kind"] == "text"]

    def encoder(self, column: str) -> "EncoderSpec":
        """Returns the encoder of a column.

        Raises:
            UserError: if the bundle has none, or it may not be loaded.
        """
        from pipelines.encoders import handles

        facts = self.facts["encoders"].get(column)
        if facts is None:
            raise UserError(f"{self._path}: has no encoder of {column}")
        if facts["unsafe"] and not self._unsafe:
            raise UserError(
                f"{self._path}: its encoder {facts['handle']!r} reaches files, sockets, processes or Python; open it "
                "with unsafe_models only if you trust whoever made it"
            )
        info = EncoderInfo(**facts["info"])
        path = storage.inside(storage.join(self._path, ENCODERS), storage.join(column, ENCODER_FILE))
        spec = handles.resolve(path, info.dtype, info.normalized, 0.0, facts["unsafe"], facts["compute"])
        if (spec.kind, spec.info.dim) != (facts["kind"], info.dim):
            raise UserError(f"{path}: describes another encoder than {FILE}; {_AGAIN}")
        # Its fingerprint is that of where it came from; its bytes were checked above.
        return dataclasses.replace(spec, info=info)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yields columns of the rows of the copied memory; a `UserError` if it has not all of them."""
        missing = [name for name in columns if name not in memory.columns(()) and not name.startswith("value_")]
        if missing:
            raise UserError(
                f"where: the bundle has captions and URLs of its memory, and no {missing[0]}; export it with "
                "--reference"
            )
        for name in sorted(self.facts["files"]):
            if name.startswith(f"{MEMORY}/"):
                yield schemas.read(storage.join(self._path, name), columns)
