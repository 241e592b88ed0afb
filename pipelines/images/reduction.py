"""Removes everything from an encoded image that the pixels of its first frame do not need; `decode` decodes the rest.

Hostile metadata can cost Pillow's readers far more than its size: overlapping tags are copied one by one (180 KB of
JPEG took 2.6 GB), comments are joined in quadratic time, profiles and texts are inflated, and the disposal of a GIF is
painted before its size is known. So Pillow sees no metadata, and only the format that was reduced.
"""

from pipelines.images.formats import animations, avif, bitfields, jpeg, png, portable, tiff
from pipelines.images.formats.bare import Bare

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


def bare(data: bytes) -> Bare:
    """Returns an image with only what its first frame needs; bytes of no known format as they are.

    Raises:
        RefusedError: if the image is damaged, or of a kind that is not decoded.
        IndexError, ValueError, struct.error: if the structure is broken.
    """
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.bare(data)
    if data.startswith(png.SIGNATURE):
        return png.bare(data)
    if data.startswith(animations.GIFS):
        return animations.gif(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return animations.webp(data)
    if data.startswith(b"BM"):
        return Bare(bitfields.plain(data), "BMP")
    if data.startswith(tiff.SIGNATURES):
        return tiff.bare(data)
    if avif.has_brand(data):
        return avif.bare(data)
    if portable.SIGNATURE.match(data):
        return portable.bare(data)
    return Bare(data, None)
