"""Where a recogniser comes from: a workdir with a trained run, or a bundle; both open into the same form."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from configs.base import Places
from index import Index
from index.store import indexed_memory
from model.recognition import bundle, memory, trained
from model.recognition.memory import Memory
from model.recognition.trained import Trained
from pipelines import generation, storage
from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec


@dataclasses.dataclass(frozen=True)
class State:
    """One version of an index with its memory.

    Attributes:
        index: opened, with its shards loaded.
        memory: the rows.
        etag: of the manifest that it was read from, before it was read; a later one means another version.
    """

    index: Index
    memory: Memory
    etag: str


class Source:
    """An opened workdir or bundle.

    Attributes:
        runs: folder of the trained heads.
    """

    def __init__(self, path: str, unsafe_models: bool = False) -> None:
        """Finds the folders; loads nothing.

        Args:
            path: a workdir, a folder of its runs, or a bundle.
            unsafe_models: whether encoders of a bundle may reach files, sockets, processes and Python.

        Raises:
            UserError: if there is no trained head, or a bundle is damaged.
        """
        self._bundle = bundle.Bundle(path, unsafe_models) if bundle.is_one(path) else None
        if self._bundle:
            self.runs = self._bundle.runs
            self._index, self._memory = self._bundle.index, self._bundle.memory
            return
        self.runs = trained.find_runs(path)
        # `WORKDIR/runs/HASH` is named where there are several.
        workdir = path if self.runs != path else storage.join(path.rstrip("/"), "..", "..")
        places = Places("", workdir, generation.current(workdir), "", {})
        self._index, self._memory = places.index, places.memory

    def encoder(self, column: str, of: Trained) -> "EncoderSpec":
        """Returns the encoder of a vector column.

        Raises:
            UserError: if there is none, or it is not the one that the memory was embedded with.
        """
        if self._bundle:
            return self._bundle.encoder(column)
        from pipelines.encoders import handles

        wanted, named = of.encoders, handles.columns(of.encoders)
        if column not in named or column not in of.columns:
            raise UserError(f"{self.runs}: its memory has no encoder of {column}")
        handle, kind = named[column]
        if handle.startswith(handles.PRECOMPUTED):
            raise UserError(f"{self.runs}: its {column} are {handle}, which has no encoder for new {kind}s")
        spec = handles.resolve(
            handle, wanted.dtype, wanted.normalize, wanted.crop_fraction, wanted.unsafe_models, wanted.compute
        )
        if spec.info != of.columns[column]:
            raise UserError(
                f"encoder {handle!r}: its fingerprint is {spec.info.fingerprint}, but the head was trained on vectors "
                f"of {of.columns[column].fingerprint}; restore the files of that encoder"
            )
        return spec

    def text_columns(self, of: Trained) -> list[str]:
        """Returns the columns of the text encoders."""
        if self._bundle:
            return self._bundle.text_columns
        from pipelines.encoders import handles

        named = handles.columns(of.encoders)
        texts = {name: handle for name, (handle, kind) in named.items() if kind == "text" and name in of.columns}
        return [name for name, handle in texts.items() if not handle.startswith(handles.PRECOMPUTED)]

    def etag(self) -> str:
        """Returns what changes with each published version of the index."""
        found = storage.found(storage.join(self._index, "manifest.json"))
        return found.etag if found else ""

    def load(self, of: Trained) -> State:
        """Loads the published version of index and memory.

        Args:
            of: the head that will read them.

        Raises:
            UserError: if a file is missing or damaged, or another encoder made the keys.
        """
        etag = self.etag()
        kinds = of.train.values

        def work(index: Index) -> State:
            if index.key_encoder != of.columns[memory.KEY]:
                raise UserError(
                    f"{index.folder}: its keys are of encoder {index.key_encoder.fingerprint}, the head was trained on "
                    f"those of {of.columns[memory.KEY].fingerprint}; train heads on the new keys"
                )
            dims = {column: of.columns[column].dim for column in memory.columns(kinds)[1:-2]}
            loaded = memory.load(self._tables(index, memory.columns(kinds)), kinds, dims)
            for number, shard in enumerate(index.shards):
                if shard.rows:
                    index.lookup(number)
            return State(index, loaded, etag)

        return indexed_memory.in_published(self._index, work)

    def _tables(self, index: Index, columns: Sequence[str]) -> Iterator[pa.Table]:
        if self._bundle and self._bundle.copied:
            yield from self._bundle.tables()
            return
        opened = indexed_memory.open_memory(self._memory, index)
        for shard in opened.shard_rows:
            yield opened.read(shard, list(columns))
