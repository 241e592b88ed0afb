"""Pictures of rows, read again from their source: for training, for people, and for pages.

`sources` finds the bytes of an image again, and bounds them as when it was first read; `decode` makes pixels of them.
"""

import base64
import contextlib
import io
from collections.abc import Collection, Iterator

from PIL import Image

from configs.base import Embed, Source
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.images.decode import DecodeError, ImagePreprocess, decode
from pipelines.images.zips import ZipCache
from pipelines.sources.images import split_zip
from pipelines.sources.sample import read_bounded


class Pictures:
    """The images of one source."""

    def __init__(self, source: Source, data: str, embed: Embed) -> None:
        """Remembers where they are.

        Args:
            source: that rows were embedded from, as the config has it.
            data: folder that its paths are relative to.
            embed: the limits on sizes.
        """
        self._source, self._embed = sources.resolve(source, data), embed

    def read(self, container: str, member: str) -> bytes:
        """Returns the encoded image of a row.

        Args:
            container: the row's `source_shard`.
            member: its name there.

        Raises:
            UserError: if it no longer exists, is too large, or was never an image.
        """
        return sources.read_image(self._source, container, member, self._embed)

    def load(self, container: str, member: str) -> Image.Image:
        """Returns the picture of a row, RGB; arguments and errors as those of `read`, also if it cannot be decoded."""
        try:
            return decode(self.read(container, member), self._embed.max_image_pixels).image
        except DecodeError as error:
            raise UserError(f"{container}, {member}: {error}; it has changed since it was embedded") from error

    @property
    def has_images(self) -> bool:
        """Whether the source has images at all; vectors that others computed have none."""
        return self._source.format != "vectors"

    @property
    def is_list(self) -> bool:
        """Whether each image is a file of its own, or a member of a zip; else a container holds many of them."""
        return self._source.format in sources.LISTS

    def load_small(
        self, container: str, members: Collection[str], side: int
    ) -> Iterator[tuple[str, Image.Image | None]]:
        """Yields names and pictures of rows of one container, each once; None for one that cannot be read now.

        Args:
            container: the rows' `source_shard`; a file of samples is read once.
            members: their names there.
            side: pixels that the longer side has at most.

        Raises:
            UserError: if the container no longer exists.
        """
        # The margin leaves thumbnails as sharp as if the whole picture had been decoded.
        wanted = [ImagePreprocess(side)]
        for member, data in sources.read_images(self._source, container, members, self._embed):
            try:
                small = None if data is None else decode(data, self._embed.max_image_pixels, wanted).image.copy()
            except DecodeError:
                small = None
            if small is not None:
                small.thumbnail((side, side))
            yield member, small


def read_file(path: str, max_bytes: int) -> bytes:
    """Returns the bytes of an image that the user names: a file anywhere, or a member of a zip, `x.zip/y.jpg`.

    Raises:
        UserError: if it does not exist, cannot be read, or is larger than `max_bytes`.
    """
    file, inner = split_zip(path)
    try:
        with contextlib.ExitStack() as stack:
            if inner:
                return ZipCache(stack).read(file, inner, max_bytes)
            return read_bounded(stack.enter_context(storage.open_read(path)), max_bytes)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def data_url(picture: Image.Image, side: int) -> str:
    """Returns a picture of at most `side` pixels a side as a JPEG within a URL."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
