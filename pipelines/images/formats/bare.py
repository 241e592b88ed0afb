"""What is left of an encoded image without its metadata, and what decoding must know beside it."""

import dataclasses


class RefusedError(ValueError):
    """An image that is damaged, or of a kind that is not decoded; the message goes on after the image's name."""


@dataclasses.dataclass(frozen=True)
class Bare:
    """An encoded image without its metadata.

    Attributes:
        data: the bytes to decode.
        format: Pillow's name of the one format that they may be decoded as; None if they are of no known format.
        orientation: of the EXIF standard, 1 (upright) to 8.
        scans: passes over the picture that decoding takes; more than 1 only where there is a progressive JPEG.
        canvas: width and height of the picture, of which `data` may be a part or more; None if it is the whole.
        left: of that part, in pixels from the canvas' left side.
        top: likewise, from its upper side.
        coded: width and height that the decoder works on, if they may be more than those of the image: with the
            padding of tiles, or the frames in which an AVIF is stored.
        hidden: the one grey value or RGB colour that is transparent, at the depth of the file; None for none.
        depth: bits of a sample that `hidden` is compared with.
        inverted: whether 16-bit greys are white at 0.
        premultiplied: whether colours are multiplied with their alpha already.
    """

    data: bytes
    format: str | None
    orientation: int = 1
    scans: int = 1
    canvas: tuple[int, int] | None = None
    left: int = 0
    top: int = 0
    coded: tuple[int, int] | None = None
    hidden: tuple[int, ...] | None = None
    depth: int = 8
    inverted: bool = False
    premultiplied: bool = False
