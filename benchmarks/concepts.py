"""Measures `web-memory concepts`: captions per second, and whether regular expressions find the same classes.

    python -m benchmarks.concepts [--captions=10000000] [--names=10000] [--workers=2] [--reference=100000]

The names are of one to three words; their words, and those of the captions, are drawn from one vocabulary by Zipf's
law, and in every second caption a name stands on purpose, in a random case and number. The memory is written into
`--folder`, unless it is there, with keys of one number each; the command runs as its users run it, on worker
processes. The first `--reference` captions are also searched by one regular expression a first word (`Reference`). The
output is in Markdown.
"""

import argparse
import os
import pathlib
import re
import resource
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines import concepts, manifest, mentions, schemas, storage
from pipelines.manifest import Concepts, Embeddings, Marker
from pipelines.schemas import EncoderInfo

_SHARD_ROWS = 50_000
_VOCABULARY, _ZIPF = 50_000, 1.07
_WORDS = (4, 16)
_SYLLABLES = ["ba", "cor", "du", "fen", "gi", "hul", "jo", "kra", "lim", "mo", "nes", "pi", "quo", "ra", "sto", "tu"]
_KEY = EncoderInfo("none", 1, True, "float32")


class Reference:
    """Finds the classes that a text names by regular expressions: what `mentions.Names` must find, and much slower.

    It shares with it only the rule which forms a single word has (`mentions.words`). Borders of words, what stands
    between them, their order and which name is the longest are up to the expression. For scripts with spaces.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Makes an expression of the names of C classes; commas separate synonyms, and brackets do not count."""
        classes: dict[tuple[str, ...], set[int]] = {}
        for label, name in enumerate(names):
            for part in re.sub(r"\([^()]*\)", " ", name).split(","):
                if own := tuple(re.findall(r"[^\W_]+", _plain(part))):
                    classes.setdefault(tuple(mentions.words(word)[0] for word in own), set()).add(label)
        ordered = sorted(classes, key=lambda own: (-len(own), own))
        self._classes = [classes[own] for own in ordered]
        choices = [rf"(?P<n{i}>{'[^a-z0-9]+'.join(map(_forms, own))})" for i, own in enumerate(ordered)]
        by_first: dict[str, list[str]] = {}
        for own, choice in zip(ordered, choices, strict=True):
            by_first.setdefault(own[0], []).append(choice)
        self._by_first = {first: re.compile(rf"(?:{'|'.join(some)})(?![^\W_])") for first, some in by_first.items()}

    def find(self, text: str) -> list[int]:
        """Returns the different classes that a text names, ascending."""
        text, place = _plain(text), 0
        found: set[int] = set()
        for word in re.finditer(r"[^\W_]+", text):
            pattern = self._by_first.get(mentions.words(word[0])[0])
            if pattern and word.start() >= place and (match := pattern.match(text, word.start())):
                found |= self._classes[int(str(match.lastgroup)[1:])]
                place = match.end()
        return sorted(found)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _forms(word: str) -> str:
    """Returns an expression of the forms of a word, given the one that `mentions.words` has for all of them."""
    ends = ("", "s", "e", "es", "ies", "ie", "y", "ses")
    stems = {word, word[:-1], word[:-2]}
    forms = {stem + end for stem in stems for end in ends if stem}
    return f"(?:{'|'.join(sorted((form for form in forms if mentions.words(form) == (word,)), key=len, reverse=True))})"


def _vocabulary(rng: np.random.Generator) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        words["".join(_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=rng.integers(2, 6)))] = None
    return list(words)


def draw_names(rng: np.random.Generator, vocabulary: Sequence[str], count: int) -> list[str]:
    """Returns different names of one to three words."""
    names: dict[str, None] = {}
    while len(names) < count:
        own = rng.integers(len(vocabulary), size=rng.integers(1, 4))
        names[" ".join(vocabulary[i] for i in own)] = None
    return list(names)


def draw_captions(rng: np.random.Generator, vocabulary: Sequence[str], names: Sequence[str], rows: int) -> list[str]:
    """Returns captions; every second one has a name in it."""
    shares = (1.0 + np.arange(len(vocabulary))) ** -_ZIPF
    lengths = rng.integers(*_WORDS, size=rows)
    words = rng.choice(len(vocabulary), size=int(lengths.sum()), p=shares / shares.sum())
    chosen = rng.integers(len(names), size=rows)
    captions = []
    for row, own in enumerate(np.split(words, np.cumsum(lengths)[:-1])):
        parts = [vocabulary[i] for i in own]
        if row % 2:
            name = names[chosen[row]]
            parts[len(parts) // 2] = name.title() if row % 4 == 1 else f"{name}s"
        captions.append(" ".join(parts).capitalize() + ".")
    return captions


def _write(folder: str, rows: int, names: Sequence[str], vocabulary: Sequence[str]) -> None:
    """Writes a finished memory of captions."""
    identity = {"encoders": {"key": {"fingerprint": "none", "dim": 1, "normalized": True, "dtype": "float32"}}}
    config_hash, markers = manifest.claim(folder, "pipelines.embed", identity), []
    for number, begin in enumerate(range(0, rows, _SHARD_ROWS)):
        n = min(_SHARD_ROWS, rows - begin)
        table = _table(number, draw_captions(np.random.default_rng([1, number]), vocabulary, names, n))
        path = storage.join(folder, f"{number:05d}.parquet")
        schemas.write(path, table, {"config_hash": config_hash})
        digests = {"output_sha256": storage.sha256(path), "output_footer": schemas.footer_sha256(path)}
        facts = {"uri": "", "size_bytes": 0, "etag": "", "rows_in": n, "rows_out": n, "rows_rejected": 0, "secs": 0.0}
        marker = Marker(number=number, name=f"{number:05d}", config_hash=config_hash, run_id="", **facts, **digests)
        marker.write(folder)
        markers.append(marker)
    manifest.complete(folder, markers, config_hash)


def _table(number: int, captions: Sequence[str]) -> pa.Table:
    n, schema = len(captions), schemas.embeddings({"key": 1})
    constant = {"content_key": bytes(32), "source_shard": "", "member": "", "width": 1, "height": 1}
    arrays = {name: pa.array([value] * n, schema.field(name).type) for name, value in constant.items()}
    arrays |= {"id": pa.array(schemas.make_id(number, np.arange(n)), pa.int64()), "caption": pa.array(captions)}
    arrays["key"] = schemas.fixed_list(np.ones((n, 1), np.float32), schema.field("key"))
    nothing = {field.name: pa.nulls(n, field.type) for field in schema if field.name not in arrays}
    return pa.Table.from_arrays([(arrays | nothing)[name] for name in schema.names], schema=schema)


def _captions(memory: Embeddings, most: int) -> Iterator[tuple[int, str]]:
    """Yields id and text of the first captions."""
    for shard, rows in memory.shard_rows.items():
        table = memory.read(shard, ["id", "caption"]).slice(0, most)
        yield from zip(table["id"].to_pylist(), table["caption"].to_pylist(), strict=True)
        most -= rows
        if most <= 0:
            return


def _compare(memory: Embeddings, found: Concepts, names: Sequence[str], most: int) -> str:
    """Compares the list with regular expressions and says what was seen."""
    reference, begin = Reference(names), time.perf_counter()
    expected = {(label, id_) for id_, text in _captions(memory, most) for label in reference.find(text)}
    secs = time.perf_counter() - begin
    last = max(id_ for id_, _ in _captions(memory, most))
    ours = {
        (int(label), int(id_))
        for chunk in found.chunks()
        for label, id_ in zip(chunk.labels, chunk.ids, strict=True)
        if id_ <= last
    }
    same = "the same" if ours == expected else f"NOT the same, {len(ours ^ expected):,} differ"
    return f"{most:,} captions by regular expressions: {len(expected):,} matches, {same}; {most / secs:,.0f}/s"


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for name, default in {"captions": 10_000_000, "names": 10_000, "workers": 2, "reference": 100_000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="web-memory-") as scratch:
        folder = pathlib.Path(args.folder or scratch)
        rng = np.random.default_rng(0)
        vocabulary = _vocabulary(rng)
        names = draw_names(rng, vocabulary, args.names)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "names.txt").write_text("".join(f"{name}\n" for name in names))
        (folder / "config.py").write_text(
            "from configs.base import Config\n\n\ndef get_config():\n"
            f"    return Config(workdir={str(folder)!r}, class_names={str(folder / 'names.txt')!r})\n"
        )
        if not (folder / "memory/complete.json").exists():
            _write(f"{folder}/memory", args.captions, names, vocabulary)
        storage.remove(f"{folder}/concepts")
        begin = time.perf_counter()
        several = ["--direct_running_mode=multi_processing", f"--direct_num_workers={args.workers}"]
        if concepts.main([f"--config={folder}/config.py", *(several if args.workers > 1 else [])]):
            sys.exit(1)
        secs, found = time.perf_counter() - begin, Concepts.open(f"{folder}/concepts")
        print(f"\n{args.captions:,} captions x {args.names:,} names, {args.workers} workers: {secs:,.0f} s, ")
        most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(
            f"{args.captions / secs:,.0f} captions/s, {found.named:,} name a class; largest process {most >> 10:,} MB; "
        )
        print(f"load of the machine {os.getloadavg()[0]:.1f}")
        begin = time.perf_counter()
        chosen = found.balanced(500, 0)
        print(f"\nbalanced(500): {len(chosen.ids):,} rows in {time.perf_counter() - begin:.1f} s")
        if args.reference:
            print(f"\n{_compare(Embeddings(f'{folder}/memory'), found, names, args.reference)}")


if __name__ == "__main__":
    main()
