"""What is left of an encoded image without its metadata, and what decoding must know beside it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Bare:
    """An encoded image without its metadata.

    Attributes:
        data: the bytes to decode.
        orientation: of the EXIF standard, 1 (upright) to 8.
        scans: passes over the picture that decoding takes; more than 1 only for a progressive JPEG.
        canvas: width and height of the picture, of which `data` may be a part; None if it is the whole.
        left: of that part, in pixels from the canvas' left side.
        top: likewise, from its upper side.
        hidden: the one grey value or RGB colour that is transparent, at the depth of the file; None for none.
        depth: bits of a sample that `hidden` is compared with.
    """

    data: bytes
    orientation: int = 1
    scans: int = 1
    canvas: tuple[int, int] | None = None
    left: int = 0
    top: int = 0
    hidden: tuple[int, ...] | None = None
    depth: int = 8
