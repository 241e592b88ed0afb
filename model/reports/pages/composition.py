"""What a memory is made of: where its rows come from, how long their captions are, and how alike they are."""

import dataclasses
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from model.measures import metrics
from model.reports import charts, tables
from model.reports.charts import Chart
from model.reports.grid import Grid
from model.reports.pages.inputs import Inputs
from model.reports.pages.site import plain
from pipelines import manifest, schemas, storage
from pipelines.manifest import Concepts, Embeddings
from pipelines.progress import counted

# Rows whose texts are counted, and whose keys are compared; a larger memory is sampled by whole shards.
_MOST_TEXTS, _MOST_KEYS, _QUERIES = 200_000, 20_000, 1000
_MOST_SOURCES, _PAIRS = 12, 6
# Classes without a caption that are listed, and characters of each.
_MOST_UNNAMED, _MOST_NAME_CHARS = 20, 60
# Rows that were dropped for other reasons, such as a takedown, are not shown.
_COPIES = ("leakage", "exact_duplicates", "near_duplicates")
_ROW = ["id", "source_shard", "member", "caption"]


def gather(inputs: Inputs) -> dict[str, Any]:
    """Returns what the page about data shows of the memory."""
    memory = inputs.memory
    texts = _sample(memory, ["source_shard", "url", "caption"], _MOST_TEXTS)
    lengths = np.array([len(text.split()) for text in texts["caption"].to_pylist() if text], np.int64)
    alike, pairs = _alike(inputs)
    names = concepts(inputs.config.places.concepts, memory.snapshot, inputs.groups)
    return {
        "rows": memory.rows,
        "counted": texts.num_rows,
        "sources": tables.table(origins(texts)),
        "captions": tables.table(_lengths(lengths, texts.num_rows)),
        "lengths": _histogram(lengths) if len(lengths) else None,
        "named": tables.table(names) if names else None,
        "alike": tables.table(alike) if alike else None,
        "pairs": pairs,
    }


def _sample(memory: Embeddings, columns: list[str], most: int) -> pa.Table:
    """Returns columns of all rows or, of more than `most`, of shards that are evenly spread and have about as many."""
    shards = list(memory.shard_rows)
    take = max(1, min(len(shards), len(shards) * most // max(memory.rows, 1)))
    chosen = sorted({shards[place * len(shards) // take] for place in range(take)})
    return pa.concat_tables([memory.read(shard, columns).select(columns) for shard in chosen])


def concepts(folder: str, snapshot: str, groups: np.ndarray) -> Grid | None:
    """Returns how many captions name the classes, by shot group; None if `web-memory concepts` has not counted them.

    Args:
        folder: of the concepts.
        snapshot: of the memory; counts of another one are not shown.
        groups: shot group of each class, `[C]`.
    """
    if not storage.exists(storage.join(folder, manifest.COMPLETE_FILE)):
        return None
    found = Concepts.open(folder)
    table = found.classes().slice(0, len(groups))
    if found.memory != snapshot or len(table) < len(groups):
        return None
    counts, lines = table["captions"].to_numpy(), list[tuple[str, ...]]()
    for name, chosen in [("all", counts), *((name, counts[groups == name]) for name in metrics.GROUPS)]:
        if len(chosen):
            sizes = chosen.min(), np.median(chosen), chosen.max()
            lines.append((name, f"{len(chosen):,}", f"{(chosen == 0).sum():,}", *(f"{size:,.0f}" for size in sizes)))
    unnamed = [plain(table["name"][place].as_py(), _MOST_NAME_CHARS) for place in np.flatnonzero(counts == 0).tolist()]
    shown = ", ".join(unnamed[:_MOST_UNNAMED]) + (", .." if len(unnamed) > _MOST_UNNAMED else "")
    return Grid(
        "How many captions name a class",
        ("classes", "number", "named by none", "fewest captions", "median", "most captions"),
        lines,
        (
            f"{found.named:,} of {found.captions:,} captions name a class by one of its synonyms",
            *([f"no caption names: {shown}"] if unnamed else []),
        ),
    )


def origins(texts: pa.Table) -> Grid:
    """Returns where rows come from, the most frequent first.

    Args:
        texts: `url` and `source_shard` of the rows.
    """
    urls = texts["url"].to_pylist()
    places = texts["source_shard"].to_pylist()
    counts = Counter(_host(url) if url else place for url, place in zip(urls, places, strict=True))
    total, rows = texts.num_rows, counts.most_common(_MOST_SOURCES)
    if (rest := total - sum(count for _, count in rows)) > 0:
        rows.append((counted(len(counts) - len(rows), "other"), rest))
    return Grid(
        "Where its rows come from",
        ("host or file", "rows", "share, %"),
        [(name, f"{count:,}", f"{100 * count / total:.1f}") for name, count in rows],
        ("the host or package of a row's URL; of a row without one, the file or folder that it was read from",),
    )


def _host(url: str) -> str:
    """Returns the host of a URL; of one without, such as `pkg:npm/a@1#b`, all but the fragment."""
    try:
        return urllib.parse.urlsplit(url).hostname or urllib.parse.unquote(urllib.parse.urldefrag(url).url)
    except ValueError:
        return url


def _lengths(lengths: np.ndarray, rows: int) -> Grid:
    figures: list[tuple[str, ...]] = [
        ("rows with a caption", f"{len(lengths):,}"),
        ("rows without one", f"{rows - len(lengths):,}"),
    ]
    if len(lengths):
        low, median, high = np.percentile(lengths, [5, 50, 95])
        figures += [("median, words", f"{median:g}"), ("5 to 95 of 100 have, words", f"{low:g} to {high:g}")]
        figures += [("longest, words", f"{lengths.max():,}")]
    return Grid("How long its captions are", ("captions", "figure"), figures)


def _histogram(lengths: np.ndarray) -> Chart:
    """Returns the share of captions by their words; those longer than 99 of 100 are put together."""
    most = max(int(np.percentile(lengths, 99)), 1)
    width = -(-most // 30)
    shares = 100 * np.bincount(np.minimum(lengths, most) // width) / len(lengths)
    about = "A bar for each length; the last one holds all longer captions, too."
    x = charts.linear("words of a caption", [], 0, width * len(shares))
    chart = Chart("Lengths of captions", about, x, charts.linear("share of captions, %", [0, *shares.tolist()]))
    for place, share in enumerate(shares.tolist()):
        chart.add_bar(
            1, width * place, width * (place + 1), share, f"from {counted(width * place, 'word')}: {share:.1f} %"
        )
    return chart


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row as it is shown: where it is, its caption, and a data URL, empty without a picture."""

    where: str
    caption: str
    picture: str


@dataclasses.dataclass(frozen=True)
class Alike:
    """Two rows that are alike: figures in words, and both rows."""

    figures: str
    rows: tuple[Shown, Shown]


def _alike(inputs: Inputs) -> tuple[Grid | None, list[Alike]]:
    """Returns how near rows of a sample have their nearest one, and the nearest pairs."""
    sample = _sample(inputs.memory, ["key", *_ROW], _MOST_KEYS)
    sample = sample.slice(0, _MOST_KEYS)
    if sample.num_rows < 2:
        return None, []
    keys = schemas.unit_keys(sample["key"], inputs.memory.encoder("key"), inputs.memory.folder)
    places = np.sort(np.random.default_rng(0).permutation(len(keys))[:_QUERIES])
    scores = keys[places] @ keys.T
    scores[np.arange(len(places)), places] = -np.inf
    near = scores.argmax(axis=1)
    nearest = scores.max(axis=1)
    quantiles = np.percentile(nearest, [10, 50, 90, 99])
    rows: list[tuple[str, ...]] = [
        (f"{share} of 100 are below", f"{value:.3f}") for share, value in zip((10, 50, 90, 99), quantiles, strict=True)
    ]
    for level in (0.9, 0.95, 0.99):
        rows.append((f"share at {level:g} or above, %", f"{100 * (nearest >= level).mean():.1f}"))
    grid = Grid(
        "How alike its rows are: cosine of a row and its nearest other",
        ("rows", "cosine or share"),
        rows,
        (f"of {len(places):,} rows drawn at random, among {len(keys):,} rows of the memory",),
    )
    pairs: dict[tuple[int, int], float] = {}
    for place in np.argsort(-nearest, kind="stable").tolist():
        one, other = sorted((int(places[place]), int(near[place])))
        pairs.setdefault((one, other), float(nearest[place]))
        if len(pairs) == _PAIRS:
            break
    shown = show(inputs, "memory", sample.select(_ROW).take(sorted({row for pair in pairs for row in pair})))
    ids = sample["id"].to_pylist()
    return grid, [Alike(f"cosine {cosine:.4f}", (shown[ids[a]], shown[ids[b]])) for (a, b), cosine in pairs.items()]


def show(inputs: Inputs, folder: str, rows: pa.Table) -> dict[int, Shown]:
    """Returns rows as they are shown, by id; `rows` has the columns id, source_shard, member and caption."""
    found = rows.to_pylist()
    album = inputs.album(folder, [(row["source_shard"], row["member"]) for row in found])
    return {
        row["id"]: Shown(
            f"{row['source_shard']}, {row['member']}",
            row["caption"] or "",
            album.get((row["source_shard"], row["member"]), ""),
        )
        for row in found
    }


def by_id(inputs: Inputs, folder: str, embeddings: Embeddings, ids: Iterable[int]) -> dict[int, Shown]:
    """Returns rows of a folder by their ids, dropped ones, too; those that are no longer stored are left out."""
    wanted, parts = np.unique(np.fromiter(ids, np.int64)), []
    for shard in np.unique(schemas.split_ids(wanted)[0]).tolist():
        if shard in embeddings.shard_rows:
            table = embeddings.read(shard, _ROW, _COPIES).select(_ROW)
            parts.append(table.filter(pa.array(np.isin(table["id"].to_numpy(), wanted))))
    return show(inputs, folder, pa.concat_tables(parts)) if parts else {}
