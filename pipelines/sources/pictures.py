"""Pictures of rows, read again from where they were embedded from: for training, for people, as part of a page.

How a source finds an image again is left to `sources`, what bytes are taken for one to `decode`.
"""

import base64
import io

from PIL import Image

from configs.base import Config, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.images.decode import DecodeError, decode


def read(config: Config, source: Source, container: str, member: str) -> bytes:
    """Returns the encoded image of a row; arguments and errors as those of `load`."""
    return sources.read_image(sources.resolve(source, config.data), container, member, config.embed)


def load(config: Config, source: Source, container: str, member: str) -> Image.Image:
    """Returns the picture of a row, RGB.

    Args:
        config: that it was embedded with.
        source: that it was read from.
        container: its `source_shard`.
        member: its name there.

    Raises:
        UserError: if it is not there any more, or not what was embedded.
    """
    try:
        return decode(read(config, source, container, member), config.embed.max_image_pixels).image
    except DecodeError as error:
        raise UserError(f"{container}, {member}: {error}; it has changed since it was embedded") from error


def data_url(picture: Image.Image, side: int) -> str:
    """Returns a picture of at most `side` pixels a side as a JPEG within a URL."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
