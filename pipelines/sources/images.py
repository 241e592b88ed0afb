"""The bytes of one image that a list names: a file or member of a zip below a folder, or a URL.

Lists and the files beside their images may be hostile: nothing outside the folder is opened, no pipe, and nothing of
unbounded size. `web` downloads, `decode` decodes.
"""

import contextlib
import os
import stat
from collections.abc import Callable

from configs.base import Embed
from pipelines import storage
from pipelines.errors import UserError
from pipelines.images.zips import ZipCache
from pipelines.sources import web
from pipelines.sources.sample import read_bounded
from pipelines.sources.web import Unreadable

_STORES = ("gs://", "s3://")
_WEB = ("http://", "https://")


def split_zip(member: str) -> tuple[str, str]:
    """Splits a path into a file and a member if the file is a zip: `a.zip/b.jpg` gives `a.zip` and `b.jpg`."""
    head, separator, inner = member.partition(".zip/")
    return (f"{head}.zip", inner) if separator else (member, "")


def leaves_root(member: str) -> bool:
    """Tells whether a path does not stay below the folder that it is joined to."""
    odd = "\0" in member or "://" in member
    return not member or odd or member.startswith("/") or (".." in member and ".." in member.split("/"))


def below(root: str) -> Callable[[str], str]:
    """Returns a function from a path in a list, as people and programs write it, to one below the image root.

    Back slashes separate, `./` at the begin says nothing, and an absolute path below the root, with its links resolved
    or not, is the path from there. Any other path is left as it is, and refused if it `leaves_root`.
    """
    local = storage.local_path(root)
    named = (root, *(() if local is None else (local, os.path.abspath(local), os.path.realpath(local))))
    tops = [f"{top.rstrip('/')}/" for top in dict.fromkeys(named) if top.startswith("/") or storage.is_url(top)]

    def place(path: str) -> str:
        plain = path.replace("\\", "/") if "\\" in path else path
        while plain.startswith("./"):
            plain = plain[2:].lstrip("/")
        if not (plain.startswith("/") or "://" in plain):
            return plain
        return next((plain[len(top) :].lstrip("/") for top in tops if plain.startswith(top)), plain)

    return place


class Images:
    """Reads images below one folder, and URLs."""

    def __init__(self, root: str, embed: Embed, stack: contextlib.ExitStack) -> None:
        """Remembers the folder.

        Args:
            root: folder that paths are below; it may itself be a link.
            embed: the largest image that is read, and whether URLs may lead to private addresses.
            stack: closes the open zips at its end.
        """
        self._root, self._max_bytes = root, embed.max_image_bytes
        self._private_addresses = embed.private_addresses
        self._zips = ZipCache(stack)
        local = storage.local_path(root)
        self._real_root = None if local is None else os.path.realpath(local)

    def read(self, member: str) -> bytes:
        """Returns the bytes of a file or of a member of a zip below the folder.

        Raises:
            Unreadable: if it does not exist, is outside the folder, is too large, or cannot be read.
        """
        file, inner = split_zip(member)
        try:
            path = self._path(member, file)
            if inner:
                return self._zips.read(path, inner, self._max_bytes)
            with storage.open_read(path) as stream:
                return read_bounded(stream, self._max_bytes)
        except (FileNotFoundError, NotADirectoryError, storage.MissingFile) as error:
            raise Unreadable("MissingImage", str(error)) from error
        except UserError as error:
            raise Unreadable("CannotRead", str(error)) from error
        except ValueError as error:
            raise Unreadable("TooLarge", str(error)) from error
        except OSError as error:
            raise Unreadable(type(error).__name__, str(error), retryable=True) from error

    def _path(self, member: str, file: str) -> str:
        """Returns the path of a file with links resolved; in a store, which has no links, the plain path."""
        if leaves_root(member):
            raise Unreadable("PathOutsideRoot", "the path leaves the image root" if member else "the row has no path")
        if self._real_root is None:
            return storage.join(self._root, file)
        path = os.path.realpath(f"{self._real_root}/{file}")
        if not path.startswith(f"{self._real_root.rstrip('/')}/"):
            raise Unreadable("PathOutsideRoot", "the path is a link that leaves the image root")
        if "::" in member and not os.path.exists(path):
            raise Unreadable("PathOutsideRoot", "the path is an address of another kind, and no file has this name")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unreadable("NotAFile", "is a folder, pipe or device")
        return path

    def fetch(self, url: str) -> bytes:
        """Returns the bytes at an `http://`, `https://`, `gs://` or `s3://` URL.

        Raises:
            Unreadable: if the URL is of another kind, or the image does not exist, is too large or cannot be read.
        """
        scheme, mark, rest = url.partition("://")
        url = f"{scheme.lower()}{mark}{rest}"
        if url.startswith(_WEB):
            return web.download(url, self._max_bytes, self._private_addresses)
        if not url.startswith(_STORES):
            kinds = ", ".join(_WEB + _STORES)
            raise Unreadable("BadUrl", f"must begin with one of {kinds}" if url else "the row has no URL")
        try:
            with storage.open_read(url) as stream:
                return read_bounded(stream, self._max_bytes)
        except storage.MissingFile as error:
            raise Unreadable("MissingImage", str(error)) from error
        except UserError as error:
            raise Unreadable("CannotRead", str(error)) from error
        except ValueError as error:
            raise Unreadable("TooLarge", str(error)) from error
        except Exception as error:
            # The drivers of stores have errors of their own, which are not OSErrors.
            raise Unreadable(type(error).__name__, str(error), retryable=True) from error
