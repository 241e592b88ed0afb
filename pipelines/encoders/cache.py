"""The cache of encoders that are built on this machine: SavedModels, each in a folder of its own.

A folder is whole if all files have the digests that were written last, since caches get swept and disks fail. Graphs
are built in a process of their own, so that this one does not import TensorFlow and can still set its threads.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pipelines import storage
from pipelines.errors import UserError

_DESCRIPTION = "encoder.json"
# A file of its own, because the description is the same for every build and can be hashed.
_DIGESTS = "digests.json"
# Size and time of the files of the folders that this process has found to be whole, so that 100 MB are hashed once.
_CHECKED: dict[pathlib.Path, dict[str, tuple[int, int]]] = {}


def ensure(
    description: Mapping[str, Any], cache_dir: pathlib.Path, build: Callable[[pathlib.Path, pathlib.Path], None]
) -> pathlib.Path:
    """Returns the folder of a built encoder; builds it the first time.

    Any number of processes may call this at once: each builds, one wins.

    Args:
        description: the `encoder.json` of the folder, which decides its name and all of its bytes.
        cache_dir: where built encoders are kept.
        build: writes the SavedModel to its second argument, a new folder; the first is for files in between.

    Raises:
        UserError: if the cache cannot be written, and what `build` raises.
    """
    name = description["name"]
    digest = hashlib.sha256(json.dumps({**description, "cache": _DIGESTS}, sort_keys=True).encode()).hexdigest()
    folder = cache_dir / f"{name}-{digest[:12]}"
    if _is_whole(folder):
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # Beside the target: a rename is atomic only within one file system.
        with tempfile.TemporaryDirectory(prefix=".building-", dir=cache_dir) as temporary:
            scratch = pathlib.Path(temporary)
            built = scratch / "built"
            build(scratch, built)
            _seal(built, description)
            _publish(built, folder, scratch / "broken")
    except OSError as error:
        raise UserError(
            f"the encoder {name} cannot be stored in {cache_dir} ({error}); set WEB_MEMORY_CACHE to a "
            "folder that can be written and has 500 MB free."
        ) from error
    return folder


def run_in_new_process(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function of a module in a process of its own; a `UserError` if the process is killed."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise UserError(
                "the process that builds an encoder was killed; free 2 GB of memory, or three times the size of the "
                "weights if that is more, and run the command again."
            ) from error


def use_no_gpu() -> None:
    """Hides GPUs and the log from TensorFlow, in a process that only builds a graph."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def _is_whole(folder: pathlib.Path) -> bool:
    try:
        known = storage.read_json(str(folder / _DIGESTS), sealed=True)["files"]
        places = {path: pathlib.Path(storage.inside(str(folder), path)) for path in known}
        seen = {path: (place.stat().st_size, place.stat().st_mtime_ns) for path, place in places.items()}
        if _CHECKED.get(folder) != seen:
            if any(storage.sha256(str(place)) != known[path] for path, place in places.items()):
                return False
            _CHECKED[folder] = seen
    except (OSError, UserError, KeyError, AttributeError):
        return False
    return True


def _seal(folder: pathlib.Path, description: Mapping[str, Any]) -> None:
    """Writes the description and, last, the digests that make the folder count as whole."""
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    (folder / _DESCRIPTION).write_text(text)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): storage.sha256(str(path)) for path in files}
    storage.write_json(str(folder / _DIGESTS), {"files": digests})


def _publish(built: pathlib.Path, folder: pathlib.Path, broken: pathlib.Path) -> None:
    """Gives a sealed folder its final name, unless another process was first."""
    try:
        built.rename(folder)
    except OSError:
        if _is_whole(folder):
            return
        folder.rename(broken)
        built.rename(folder)


def fetch_folder(uri: str, is_needed: Callable[[str], bool] | None = None) -> pathlib.Path:
    """Returns the copy of a remote folder in the cache; copies it if it has changed or is not there yet.

    Args:
        uri: of the folder.
        is_needed: tells by its name whether a file is copied; then what is further down is not. By default all is.

    Raises:
        UserError: if there is no such folder, or a file of it is named outside it.
    """
    fs, path = storage.filesystem(uri)
    found = sorted(fs.find(path, maxdepth=1 if is_needed else None, detail=True).items())
    if is_needed:
        found = [(file, info) for file, info in found if is_needed(storage.name(file))]
    if not found:
        raise storage.MissingFile(f"{uri}: no such folder")
    digest = hashlib.sha256(repr([(file, storage.Found.of(file, info).etag) for file, info in found]).encode())
    target = storage.cache_dir() / "encoders" / f"{storage.name(uri)}-{digest.hexdigest()[:12]}"
    if not target.exists():
        with storage.atomic_folder(str(target)) as temporary:
            for file, _ in found:
                inside = file.removeprefix(path.rstrip("/") + "/")
                storage.copy(storage.inside(uri, inside), storage.inside(temporary, inside))
    return target


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a large file; it is kept in the cache until the file's size or time changes."""
    seen = path.stat()
    place = str(path.resolve())
    state = [place, seen.st_size, seen.st_mtime_ns]
    note = storage.cache_dir() / "digests" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, UserError, KeyError, TypeError):
        known = storage.read_json(str(note), sealed=True)
        if known["state"] == state:
            return str(known["sha256"])
    digest = storage.sha256(str(path))
    with contextlib.suppress(OSError):
        storage.write_json(str(note), {"state": state, "sha256": digest})
    return digest
