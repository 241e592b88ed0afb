"""Where a recogniser comes from: a workdir with a trained run, or a bundle; both open into the same form."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from configs.base import Places
from index import Index
from index.searching.matching import Filters
from index.store import indexed_memory
from model.recognition import bundle, memory, trained
from model.recognition.memory import Memory
from model.recognition.trained import Trained
from pipelines import generation, storage
from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class State:
    """One version of an index with its memory.

    Attributes:
        index: opened, with its shards loaded.
        memory: the rows.
        filters: tell which rows a search may find.
        etag: of the manifest that it was read from, before it was read; a later one means another version.
    """

    index: Index
    memory: Memory
    filters: Filters
    etag: str


class Source:
    """An opened workdir or bundle.

    Attributes:
        runs: folder of the trained heads.
        index: folder of the index.
        memory: folder of the memory.
        follows: whether each version that is published may be read.
    """

    def __init__(self, path: str, follow: bool = False, unsafe_models: bool = False) -> None:
        """Finds the folders; loads nothing.

        Args:
            path: a workdir, a folder of its runs, or a bundle.
            follow: whether versions other than the exported one may be read.
            unsafe_models: whether encoders of a bundle may reach files, sockets, processes and Python.

        Raises:
            UserError: if there is no trained head, or a bundle is damaged.
        """
        self.follows, self._bundle = follow, bundle.Bundle(path, unsafe_models) if bundle.is_one(path) else None
        if self._bundle:
            if follow and self._bundle.copied:
                raise UserError(f"{path}: holds a copy of its memory, which does not change; export with --reference")
            self.runs = self._bundle.runs
            self.index, self.memory = self._bundle.index, self._bundle.memory
            return
        self.runs = trained.find_runs(path)
        # `WORKDIR/runs/HASH` is named where there are several.
        workdir = path if self.runs != path else storage.join(path.rstrip("/"), "..", "..")
        places = Places("", workdir, generation.current(workdir), "", {})
        self.index, self.memory = places.index, places.memory

    def encoder(self, column: str, of: Trained) -> "EncoderSpec":
        """Returns the encoder of a vector column.

        Raises:
            UserError: if there is none, or it is not the one that the memory was embedded with.
        """
        if self._bundle:
            return self._bundle.encoder(column)
        from pipelines.encoders import handles

        named = handles.columns(of.encoders)
        if column not in named or column not in of.columns:
            raise UserError(f"{self.runs}: its memory has no encoder of {column}")
        handle, kind = named[column]
        if handle.startswith(handles.PRECOMPUTED):
            raise UserError(f"{self.runs}: its {column} are {handle}, which has no encoder for new {kind}s")
        spec = handles.configured(handle, of.encoders)
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
        return indexed_memory.etag(self.index)

    def load(self, of: Trained) -> State:
        """Loads the published version of index and memory.

        Args:
            of: the head that will read them.

        Raises:
            UserError: if a file is missing or damaged, or another encoder made the keys.
        """
        etag = self.etag()
        names = memory.columns(of.train.values)
        dims = {column: of.columns[column].dim for column in names if column in of.columns}

        def work(index: Index) -> State:
            loaded = memory.load(self.tables(index, names), dims)
            for number, shard in enumerate(index.shards):
                if shard.rows:
                    index.lookup(number)
            filters = Filters(functools.partial(self.tables, index), "the memory", index.rows, "where")
            return State(index, loaded, filters, etag)

        return self.in_published(of, work)

    def in_published(self, of: Trained, work: Callable[[Index], _T]) -> _T:
        """Returns the result of work on the published version of the index; errors as `load`."""

        def checked(index: Index) -> _T:
            known = of.columns[memory.KEY]
            if index.key_encoder != known:
                raise UserError(
                    f"{index.folder}: its keys are of encoder {index.key_encoder.fingerprint}, the head was trained on "
                    f"those of {known.fingerprint}; train heads on the new keys"
                )
            if self._bundle and not self.follows and index.fingerprint != self._bundle.facts["index_fingerprint"]:
                raise UserError(
                    f"{index.folder}: is of another version than the bundle was exported with; export again, or open "
                    "it with follow"
                )
            return work(index)

        return indexed_memory.in_published(self.index, checked)

    def tables(self, index: Index, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yields columns of the rows that an index can find."""
        if self._bundle and self._bundle.copied:
            yield from self._bundle.tables(columns)
            return
        opened = indexed_memory.open_memory(self.memory, index)
        for shard in opened.shard_rows:
            yield opened.read(shard, list(columns))
