"""`.npz` files as hostile data: what is read is bounded, is no pickle, and has been checked before it is allocated."""

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from pipelines import storage
from pipelines.encoders.towers.tower import ImageForm, TextForm, Tower, check
from pipelines.errors import UserError

MAX_BYTES = 16 << 30
"""Most bytes of arrays that are read."""
# NumPy's header has no name for bfloat16 and calls it two bytes of anything.
_BFLOAT16 = "|V2"
_DTYPES = {"<f4", "<f2", _BFLOAT16}
# Weights hardly compress, so data that inflates more is a bomb.
_MAX_INFLATION = 10
_MAX_MEMBERS = 8192
Arrays = dict[str, np.ndarray]


@contextlib.contextmanager
def opened(path: str, what: str) -> Iterator[zipfile.ZipFile]:
    """Opens a file, local, `gs://` or `s3://`; what fails within the block is the file's fault.

    Args:
        path: of the file.
        what: it should be, for errors.

    Raises:
        UserError: if it does not exist, or is broken or hostile.
    """
    with storage.open_read(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except UserError:
            raise
        except Exception as error:
            # A hostile archive raises errors of zipfile, zlib or NumPy's header parser.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: was refused as {what} ({reason}); fetch the file again") from error


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the members by the names of their arrays; a `ValueError` if they are too many, or two of one name."""
    infos = archive.infolist()
    found = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(infos) > _MAX_MEMBERS or len(found) < len(infos):
        raise ValueError(f"it has {len(infos)} members where {_MAX_MEMBERS} are allowed, or two of one name")
    return found


def check_size(chosen: Iterable[zipfile.ZipInfo]) -> None:
    """Raises a `ValueError` if these members are too large together, or larger than what was stored can mean."""
    sizes = [(info.file_size, info.compress_size) for info in chosen]
    total, stored = sum(size for size, _ in sizes), sum(size for _, size in sizes)
    if (limit := min(MAX_BYTES, _MAX_INFLATION * stored)) < total:
        raise ValueError(f"its arrays have {total:,} bytes, the limit is {limit:,}")


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type of one array, which agree with the size of its member."""
    name = member.filename
    with archive.open(member) as stream:
        # Version 1.0 is what NumPy writes for plain arrays, and bounds the header to 64 KiB.
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is not in version 1.0 of NumPy's format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.str not in _DTYPES:
            raise ValueError(f"{name} is of type {dtype}, must be float32, float16 or bfloat16")
        if math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError(f"{name} has {member.file_size:,} bytes, which is not what its shape {shape} takes")
    return shape, dtype


def read_shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns zeros of an array's shape, which take no memory."""
    shape, _ = _read_header(archive, member)
    return np.broadcast_to(np.float32(0), shape)


def read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns one array as float32; nothing is allocated before its header has been checked."""
    _, dtype = _read_header(archive, member)
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.str == _BFLOAT16:
        # The upper half of a float32.
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def read(path: str, choose: Callable[[set[str]], Iterable[str]], is_whole: bool) -> Arrays:
    """Returns arrays of a file by name, float32.

    Args:
        path: of the file, local, `gs://` or `s3://`.
        choose: from the names of all arrays to those that are read; it may raise a `UserError`.
        is_whole: whether the values are read; otherwise headers only, and the arrays are zeros without memory.

    Raises:
        UserError: if the file does not exist, or is broken or hostile.
    """
    with opened(path, "a checkpoint") as archive:
        found = members(archive)
        chosen = {name: found[name] for name in choose(set(found))}
        check_size(chosen.values())
        return {name: (read_array if is_whole else read_shape)(archive, info) for name, info in chosen.items()}


def shape(path: str, arrays: Mapping[str, np.ndarray], name: str, axes: str) -> tuple[int, ...]:
    """Returns the shape of an array, whose axes are named, or numbered if they are known: `P P 3 D`.

    Raises:
        UserError: if it is missing, empty, or has other axes.
    """
    if name not in arrays:
        raise UserError(f"{path}: has no array {name}; take a whole checkpoint")
    found, named = arrays[name].shape, axes.split()
    wrong = [axis for axis, length in zip(named, found, strict=False) if axis.isdigit() and int(axis) != length]
    if len(found) != len(named) or 0 in found or wrong:
        raise UserError(f"{path}: {name} is {list(found)}, must be [{axes}]")
    return found


def tower(
    path: str,
    form: ImageForm | TextForm,
    arrays: Mapping[str, np.ndarray],
    name: Callable[[str], str],
    part: Callable[[str, np.ndarray], np.ndarray],
) -> Tower:
    """Returns the tower of a form from arrays of a checkpoint.

    Args:
        path: of the checkpoint.
        form: of the tower.
        arrays: of the checkpoint, all of which belong to the tower.
        name: from our name of an array to the checkpoint's, which several of ours may share.
        part: from our name and the checkpoint's array to our array.

    Raises:
        UserError: if an array is missing, too many, or of another shape.
    """
    theirs = {ours: name(ours) for ours in form.shapes()}
    found = {ours: part(ours, arrays[their]) for ours, their in theirs.items() if their in arrays}
    left = {their: array for their, array in arrays.items() if their not in set(theirs.values())}
    result = Tower(form, found | left)
    check(result, path, theirs, by="the shape of its other arrays")
    return result
