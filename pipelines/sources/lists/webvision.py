"""WebVision 1.0: `info/train_filelist_{google,flickr}.txt` and `info/val_filelist.txt`, labels from 0.

Training images are named from the top (`google/q0001/x.jpg`), validation images below `val_images_256/`. The source's
`metadata` may be `info/synsets.txt`, whose line for a class, such as `n01440764 tench, Tinca tinca`, gives the caption
and the metadata `synset`.
"""

from collections.abc import Iterator

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.progress import counted
from pipelines.sources.listing import Row
from pipelines.sources.lists.image_list import parse
from pipelines.sources.text import files, read_lines

_VALIDATION = "val_filelist"
_VALIDATION_FOLDER = "val_images_256"


def rows(source: Source) -> Iterator[Row]:
    """Yields the rows of the lists of a source.

    Raises:
        UserError: if a line is wrong, or has a label that the synsets do not name.
    """
    synsets = list(_read_synsets(source.metadata)) if source.metadata else None
    for uri in files(source):
        folder = ""
        if storage.name(uri).startswith(_VALIDATION) and storage.name(source.image_root) != _VALIDATION_FOLDER:
            folder = f"{_VALIDATION_FOLDER}/"
        for number, row in parse(uri, source.image_root):
            label = row.fields["label"]
            if synsets is None:
                yield Row(f"{folder}{row.member}", row.fields)
            elif label < len(synsets):
                synset, name = synsets[label]
                yield Row(f"{folder}{row.member}", {"label": label, "caption": name, "synset": synset})
            else:
                raise UserError(
                    f"{uri}, line {number}: has label {label}, but {source.metadata} names "
                    f"{counted(len(synsets), 'class')}"
                )


def _read_synsets(uri: str) -> Iterator[tuple[str, str]]:
    blank = 0
    for number, line in read_lines(uri):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise UserError(f"{uri}, line {blank}: is blank; each line before the last must be `synset names`")
        synset, _, name = line.strip().partition(" ")
        if not name:
            raise UserError(f"{uri}, line {number}: must be `synset names`, found {line[:80]!r}")
        yield synset, name
