"""Suffixes of images, from what the installed Pillow can open."""

import functools

from PIL import Image, ImageFile

# They are no pictures of pixels, or need another program. Those that Pillow only recognises are found by their class.
_NO_IMAGES = {"EPS", "MPEG", "PDF"}
# Pillow reads these as another format, and registers the suffix for writing only.
_ALSO = {".mpo"}


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes, in lower case, of files that are taken for images: `.jpg`, `.jfif`, `.avif` and others.

    Whether a file is one, and of a format that may be decoded, is seen when it is decoded.
    """
    registered = Image.registered_extensions()
    wanted = {name: Image.OPEN[name][0] for name in Image.OPEN if name not in _NO_IMAGES}
    opened = {
        name
        for name, factory in wanted.items()
        if not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
    }
    return frozenset(suffix for suffix, name in registered.items() if name in opened) | _ALSO


def is_image(name: str) -> bool:
    """Tells whether a file's suffix is that of an image."""
    dot = name.rfind(".")
    return dot >= 0 and name[dot:].lower() in suffixes()
