"""The texts of a shard to vectors: each distinct text once, in calls of one length that span several batches.

Texts of a batch differ in length, and padding them all to the longest would be more work than the texts themselves. So
the embedded batches of a shard wait in windows until their texts are embedded, too. How texts are grouped is up to the
encoder; which texts share a window depends on the shard alone, never on threads.
"""

import collections
import concurrent.futures
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.embedding import bisection
from pipelines.embedding.bisection import Failure
from pipelines.embedding.inference import EmbeddedBatch
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import TextEncoder

WINDOW_BATCHES = 16
# Of texts and their vectors that later rows of a shard may share.
_MAX_KNOWN_BYTES = 32 << 20

_Encoded = tuple[np.ndarray, dict[int, Failure]]
_Call = tuple[list[int], "concurrent.futures.Future[_Encoded]"]


class Window:
    """Batches that are written once their texts are embedded.

    Attributes:
        batches: in the order of the source, each with the window and the place of the text of each row.
        texts: those that no window before has.
    """

    def __init__(self) -> None:
        """Has no batches yet."""
        self.batches: list[tuple[EmbeddedBatch, list[tuple[Window, int]]]] = []
        self.texts: list[str] = []
        self._calls: dict[TextEncoder, concurrent.futures.Future[list[_Call]]] = {}
        self._encoded: dict[TextEncoder, _Encoded] = {}

    def begin(
        self, encoders: Sequence[TextEncoder], batch_size: int, pool: concurrent.futures.ThreadPoolExecutor
    ) -> None:
        """Begins to embed the texts; `encoded` waits for them."""

        def split(encoder: TextEncoder) -> list[_Call]:
            calls = encoder.calls(self.texts, batch_size)
            inputs = ([self.texts[place] for place in places] for places in calls)
            # A task of its own for each call keeps all threads busy, also where images need no encoder.
            tasks = [pool.submit(bisection.encode, encoder, part, batch_size) for part in inputs]
            return list(zip(calls, tasks, strict=True))

        if self.texts:
            self._calls = {encoder: pool.submit(split, encoder) for encoder in encoders}

    def encoded(self, encoder: TextEncoder) -> _Encoded:
        """Returns vectors `[n, dim]` float32 of the texts, and by place the failures, whose vectors are zero.

        Raises:
            UserError: if the encoder fails on every one of several texts.
        """
        if encoder not in self._encoded:
            matrix, failed = np.zeros((len(self.texts), encoder.dim), np.float32), dict[int, Failure]()
            for places, task in self._calls.pop(encoder).result():
                part, failures = task.result()
                failed |= {places[i]: failure for i, failure in failures.items()}
                good = [i for i in range(len(places)) if i not in failures]
                if good:
                    matrix[[places[i] for i in good]] = part[good]
            bisection.check(failed, len(self.texts))
            self._encoded[encoder] = matrix, failed
        return self._encoded[encoder]


class ShardTexts:
    """Collects the embedded batches of a shard in windows, and finds texts that an earlier row has."""

    def __init__(
        self,
        columns: Mapping[TextEncoder, list[str]],
        specs: Mapping[str, EncoderSpec],
        batch_size: int,
        most_places: int,
    ) -> None:
        """Holds no batches yet.

        Args:
            columns: that each text encoder fills.
            specs: of all columns.
            batch_size: of the encoders.
            most_places: rows of the source, used or not, after which a window ends; those that are not used wait.
        """
        self._columns, self._specs, self._batch_size, self._most_places = columns, specs, batch_size, most_places
        self._window = Window()
        self._first_place = 0
        self._row_bytes = 4 * sum(encoder.dim for encoder in columns)
        self._known: dict[str, tuple[Window, int]] = {}
        self._known_bytes = 0
        self._windows: collections.deque[tuple[Window, int]] = collections.deque()

    def add(self, batch: EmbeddedBatch, place: int) -> bool:
        """Takes the next batch, whose first row is at a place of the source; tells whether the window is full."""
        window = self._window
        if not window.batches:
            self._first_place = place
        lacks_texts = batch.rows and self._lacking(batch)
        rows = [self._find(row.sample.caption or "") for row in batch.rows] if lacks_texts else []
        window.batches.append((batch, rows))
        is_full = len(window.batches) == WINDOW_BATCHES or place - self._first_place >= self._most_places
        return is_full or not self._columns

    def end_window(self, pool: concurrent.futures.ThreadPoolExecutor) -> Window:
        """Begins to embed the texts of the window and returns it; later batches are in another one."""
        window, self._window = self._window, Window()
        lacking = {encoder: None for batch, _ in window.batches if batch.rows for encoder in self._lacking(batch)}
        window.begin(list(lacking), self._batch_size, pool)
        size = sum(sys.getsizeof(text) + self._row_bytes for text in window.texts)
        self._windows.append((window, size))
        self._known_bytes += size
        while self._known_bytes > _MAX_KNOWN_BYTES:
            oldest, size = self._windows.popleft()
            self._known_bytes -= size
            for text in oldest.texts:
                del self._known[text]
        return window

    def whole(self, window: Window) -> Iterator[EmbeddedBatch]:
        """Yields the batches of a window with the vectors of their texts; waits for those, errors as `encoded`."""
        for batch, rows in window.batches:
            vectors: dict[str, np.ndarray] = {}
            failed: dict[int, Failure] = {}
            for encoder, columns in self._lacking(batch).items() if rows else ():
                found = [(other.encoded(encoder), place) for other, place in rows]
                vectors |= dict.fromkeys(columns, np.stack([matrix[place] for (matrix, _), place in found]))
                failed |= {i: bad[place] for i, ((_, bad), place) in enumerate(found) if place in bad}
            yield batch.extended(vectors, failed, self._specs)
        # Its texts stay known for long, its rows are written.
        window.batches.clear()

    def _lacking(self, batch: EmbeddedBatch) -> dict[TextEncoder, list[str]]:
        """Returns the columns that the source does not provide, by encoder."""
        lacking = {e: [column for column in names if column not in batch.vectors] for e, names in self._columns.items()}
        return {encoder: names for encoder, names in lacking.items() if names}

    def _find(self, text: str) -> tuple[Window, int]:
        """Returns where a text is embedded: in the window at hand, if in none before."""
        if text not in self._known:
            self._known[text] = (self._window, len(self._window.texts))
            self._window.texts.append(text)
        return self._known[text]
