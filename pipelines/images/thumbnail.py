"""A small grey thumbnail of a whole picture, by which copies of it are told from look-alikes (`filtering.pixels`)."""

from PIL import Image

from pipelines.images.decode import Picture
from pipelines.schemas import THUMBNAIL_SIDE as SIDE

# The picture is first averaged over whole pixels, to at least this many times the side.
_GAP = 2.0


def make(picture: Picture) -> bytes:
    """Returns the whole picture as grey levels, `SIDE` rows of `SIDE` pixels, whatever its aspect."""
    small = picture.image.resize((SIDE, SIDE), Image.Resampling.BOX, box=picture.box, reducing_gap=_GAP)
    return small.convert("L").tobytes()
