"""The damage matrix: what becomes of a workdir if one of its files is damaged, and the commands run again.

A trial copies a finished workdir, damages one file, runs the commands that read it, and reads everything that they
made. It ends in one of three ways: the damage is `refused` in one sentence, `healed`, or `harmless`, which means that
every figure is as before. Anything else is a `Wrong`.
"""

import contextlib
import dataclasses
import hashlib
import io
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from index import Index
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors

WHOLE = ("truncated", "emptied", "removed", "a directory", "another run's", "a sibling's", "[]", "null")


class Wrong(AssertionError):
    """A damage that changed a figure, or that was not refused in one sentence."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what it is.
        pattern: its files below the workdir.
        commands: that read it, by name.
        without: what is deleted first, below the workdir, so that they do read it.
        remade: figures that may change: an index of several versions is built again as one of one version.
    """

    name: str
    pattern: str
    commands: tuple[str, ...]
    without: tuple[str, ...] = ()
    remade: tuple[str, ...] = ()

    def files(self, workdir: pathlib.Path) -> list[pathlib.Path]:
        """Returns the files of this kind, below a workdir."""
        return sorted(path.relative_to(workdir) for path in workdir.glob(self.pattern) if path.is_file())


@dataclasses.dataclass(frozen=True)
class Made:
    """A finished workdir.

    Attributes:
        root: what is copied; the workdir is in it.
        workdir: its name below the root.
        other: workdir of another run.
        run: runs a command by its name on a copy of the root, and returns its exit code.
    """

    root: pathlib.Path
    workdir: str
    other: pathlib.Path
    run: Callable[[str, pathlib.Path], int]


def figures(workdir: pathlib.Path) -> dict[str, str]:
    """Returns a digest of everything that readers get from a workdir, by what it is."""
    found = {}
    for folder in ("memory", *(f"queries/{split}" for split in ("train", "val", "test"))):
        if (workdir / folder).exists():
            embeddings = Embeddings(str(workdir / folder))
            names = ["id", "content_key", "member", "caption", "label", *embeddings.encoders]
            tables = [embeddings.read(shard, names).to_pydict() for shard in embeddings.shard_rows]
            found[folder] = _digest(repr((embeddings.snapshot, embeddings.shard_rows, tables)))
    if (workdir / "index").exists():
        index = Index.open(str(workdir / "index"))
        queries = np.random.default_rng(0).normal(size=(40, index.key_encoder.dim)).astype(np.float32)
        hits = index.search(queries, 5)
        found["index"] = _digest(repr((hits.ids.tolist(), hits.scores.tolist())))
        found["index version"] = index.fingerprint
    if (workdir / "neighbors").exists():
        lists = Neighbors.open(str(workdir / "neighbors"))
        tables = [lists.split(split).to_pydict() for split in lists.query_snapshots]
        memory = [lists.memory(["id", "label", *lists.encoders]).to_pydict()]
        found["neighbors"] = _digest(repr((lists.fingerprint, tables, memory)))
    if (workdir / "figures.json").exists():
        found["results"] = (workdir / "figures.json").read_text()
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _damage(how: str, path: pathlib.Path, relative: pathlib.Path, kind: Kind, made: Made) -> None:
    data = path.read_bytes()
    path.unlink()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "a directory":
        path.mkdir()
    elif how in ("[]", "null"):
        path.write_text(how)
    elif how.startswith("bit "):
        bit = int(how.removeprefix("bit "))
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :])
    elif how != "removed":
        here = path.parents[len(relative.parts) - 1]
        folder = made.other if how == "another run's" else here
        choices = [folder / name for name in kind.files(folder)]
        shutil.copy(next(choice for choice in choices if choice != path), path)


def trial(made: Made, kind: Kind, relative: pathlib.Path, how: str, right: dict[str, str], copy: pathlib.Path) -> str:
    """Runs one trial in a folder of its own and returns how it ended.

    Raises:
        Wrong: if the damage was not dealt with.
    """
    right = {name: figure for name, figure in right.items() if name not in kind.remade}
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(made.root, copy, symlinks=True)
    workdir = copy / made.workdir
    path = workdir / relative
    original = path.read_bytes()
    for name in kind.without:
        for unwanted in workdir.glob(name):
            unwanted.unlink()
    _damage(how, path, relative, kind, made)
    damaged = path.read_bytes() if path.is_file() else None
    if damaged == original:
        return "harmless"
    what = f"{kind.name} ({relative}), {how}"
    refusal = _refusal(made, kind, copy, what) or _changed(workdir, right, what)
    if refusal and "remove it and run" in refusal:
        _follow(made, kind, copy, refusal, right, what)
    if refusal:
        return "refused"
    is_left = path.is_file() and path.read_bytes() == damaged or damaged is None and not path.is_file()
    return "harmless" if is_left else "healed"


def _refusal(made: Made, kind: Kind, copy: pathlib.Path, what: str) -> str:
    """Runs the commands of a kind; returns the sentence that the first of them to fail ended with, or nothing."""
    for command in kind.commands:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = made.run(command, copy)
        except BaseException as error:
            raise Wrong(f"{what}: {command} raised {type(error).__name__}: {error}") from error
        text = err.getvalue()
        if code == 2 and text.startswith("error: ") and text.count("\n") == 1:
            return text
        if code:
            raise Wrong(f"{what}: {command} ended with {code}: {text!r}")
    return ""


def _changed(workdir: pathlib.Path, right: dict[str, str], what: str) -> str:
    """Reads everything; returns the sentence that a reader refused a file with, or nothing."""
    try:
        after = figures(workdir)
    except UserError as error:
        if "\n" in str(error):
            raise Wrong(f"{what}: {error}") from error
        return f"error: {error}"
    except Exception as error:
        raise Wrong(f"{what}: reading raised {type(error).__name__}: {error}") from error
    if changed := [name for name in right if after.get(name) != right[name]]:
        raise Wrong(f"{what}: {', '.join(changed)} changed without a word")
    return ""


def _follow(made: Made, kind: Kind, copy: pathlib.Path, refusal: str, right: dict[str, str], what: str) -> None:
    """Does what a refusal says; raises `Wrong` if that does not help, where the trial has the command that it names."""
    path, command = refusal.removeprefix("error: ").split(": ")[0], refusal.partition("and run ")[2].split(" again")[0]
    if command != "its stage" and command.removeprefix("web-memory ") not in kind.commands:
        return
    shutil.rmtree(path) if pathlib.Path(path).is_dir() else pathlib.Path(path).unlink()
    again = _refusal(made, kind, copy, f"{what}, then removed") or _changed(
        copy / made.workdir, right, f"{what}, removed"
    )
    if again and "embed" not in command and "embed" not in again:
        raise Wrong(f"{what}: {refusal.strip()!r} does not help: {again.strip()!r}")


def bits(size_bytes: int, count: int, seed: int) -> Iterator[str]:
    """Yields damages of single bits, drawn from all of a file."""
    drawn = np.random.default_rng(seed).integers(0, max(8 * size_bytes, 1), count)
    yield from (f"bit {bit}" for bit in drawn.tolist()) if size_bytes else ()


def run(
    made: Made, kinds: list[Kind], scratch: pathlib.Path, flips: int, whole: tuple[str, ...] = WHOLE
) -> tuple[dict[tuple[str, str], Counter[str]], list[str]]:
    """Runs the trials of some kinds.

    Returns:
        How the trials ended, by kind and damage, and what went wrong.
    """
    right = figures(made.root / made.workdir)
    ends: dict[tuple[str, str], Counter[str]] = {}
    wrong = []
    for kind in kinds:
        files = kind.files(made.root / made.workdir)
        assert files, kind
        size = (made.root / made.workdir / files[0]).stat().st_size
        for how in (*whole, *bits(size, flips, len(kind.name))):
            if how == "a sibling's" and len(files) < 2:
                continue
            if how == "another run's" and not [f for f in kind.files(made.other)]:
                continue
            counts = ends.setdefault((kind.name, how.split(" ")[0] if how.startswith("bit") else how), Counter())
            try:
                counts[trial(made, kind, files[0], how, right, scratch / "copy")] += 1
            except Wrong as error:
                counts["WRONG"] += 1
                wrong.append(str(error))
    return ends, wrong


def table(ends: dict[tuple[str, str], Counter[str]]) -> str:
    """Returns the counts as lines: kind, damage, and how its trials ended."""
    rows = [
        f"{kind:28} {how:14} " + ", ".join(f"{c} {end}" for end, c in counts.items())
        for (kind, how), counts in ends.items()
    ]
    return "\n".join(rows)
