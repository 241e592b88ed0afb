"""Fields of what is read and embedded: sources, protocol, encoders, filters, and the demo's corpus."""

import dataclasses
from collections.abc import Iterator

from configs.schema.fields import option

FORMATS = (
    *("img2dataset", "img2dataset_parquet", "arrow", "tfrecord", "vectors"),
    *("coco", "image_folder", "image_list", "inat2021", "swat", "table", "webvision", "yfcc15m"),
)
SPLITS = ("train", "val", "test")
DTYPES = ("float32", "float16")
COMPUTES = ("float32", "bfloat16")
AVERAGE, FREQUENT = "average", "frequent"
# Images of the demo's corpus that no list has.
NEW_IMAGES = "labelled/new"
# Styles of the demo's drawings.
STYLES = ("noto", "twemoji", "openmoji", "fluent-3d", "fluent-flat", "emojione", "fxemoji")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images, and their texts or labels, are read from."""

    format: str = option("img2dataset", "Format of the source (docs/sources.md).", choices=FORMATS)
    path: str = option(
        "", "File, folder or pattern with `*`, `?`, `[..]` and `{00000..00127}`; separate several by commas."
    )
    image_root: str = option("", "Folder of the images that a list names.")
    metadata: str = option("", "Second file of formats that need one.")
    class_names: str = option("", "File with one class name a line, the caption of rows with a label and no caption.")
    fields: tuple[str, ...] = option((), "Names of fields, ours=theirs: `image=jpg`, `caption=txt`, `label=cls`.")
    class_level: int = option(
        1,
        "For `image_folder`, the level of the folders below `path` that are the classes; 0 takes the folder that an "
        "image is in.",
        at_least=0,
    )
    first_label: int = option(
        0, "The number of the first class where labels are numbers: 1 for labels that count from 1.", at_least=0
    )
    caption_number: int = option(
        0, "Which text of a list of captions is the caption, from 0; 0 takes the first that is not blank.", at_least=0
    )
    where: tuple[str, ...] = option(
        (),
        "For lists, reads only the rows that have these values in their columns: `split=train`, `split=train|val`; "
        "`label` alone stands for any.",
    )
    classes: int = option(0, "For lists with labels, reads only the first so many classes; 0 reads all.", at_least=0)
    part: tuple[float, ...] = option(
        (),
        "Reads only this part of each class of a list with labels, from and to as shares: `0.1,1`; of files of "
        "samples, about so many of the rows.",
        at_least=0,
        at_most=1,
    )
    part_seed: int = option(0, "Seed that shuffles rows before they are cut; sources with disjoint parts share it.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if self.part and (len(self.part) != 2 or self.part[0] >= self.part[1]):
            yield "part", "must be two shares, the second larger, such as 0.1,1"
        for entry in self.where:
            if not entry.partition("=")[0] or entry.endswith("="):
                yield "where", f"must be column=value, such as split=train, or a column, found {entry!r}"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the lists of a published protocol contain (docs/datasets.md); 0 or empty is not checked."""

    train_rows: int = option(0, "Images in the training list.", at_least=0)
    val_rows: int = option(0, "Images in the validation list.", at_least=0)
    test_rows: int = option(0, "Images in the test list.", at_least=0)
    train_val_rows: int = option(
        0, "Images in the training and validation lists together, where both are parts of one list.", at_least=0
    )
    classes: int = option(0, "Classes in the training list.", at_least=0)
    classes_per_group: tuple[int, ...] = option(
        (), "Many-, medium- and few-shot classes, by `train.shots`.", at_least=0
    )
    images_per_class: tuple[int, ...] = option(
        (), "Training images of the smallest and of the largest class, such as `5,1280`.", at_least=1
    )
    name: str = option("", "Name of the protocol, whose figures `web-memory evaluate --published` shows beside ours.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if len(self.classes_per_group) not in (0, 3):
            yield "classes_per_group", "must be three numbers: many-, medium- and few-shot classes"
        if len(self.images_per_class) not in (0, 2):
            yield "images_per_class", "must be two numbers: images of the smallest and of the largest class"


@dataclasses.dataclass(frozen=True)
class Encoders:
    """The encoder of each role: a built-in name, folder, file or URL (docs/encoders.md); empty for none."""

    key: str = option("efficientnet-lite0", "Image encoder of keys and queries.")
    value_image: tuple[str, ...] = option(
        (),
        "Image encoders of values, such as `efficientnet-lite2`; the first writes the column `value_image`, one given "
        "as `name=handle` writes `value_image_name`.",
    )
    value_text: tuple[str, ...] = option(("minilm-l6-v2",), "Text encoders of values, named in the same way.")
    prompts: tuple[str, ...] = option(
        ("{}",),
        "Texts with `{}` in place of a class name, over which names in the space of the keys are averaged.",
        required=True,
        distinct=True,
    )
    synonyms: str = option(
        AVERAGE,
        "Which synonyms of a class name count in the space of the keys: the `average` of all, or the most `frequent` "
        "in the memory's captions.",
        choices=(AVERAGE, FREQUENT),
    )
    dtype: str = option("float32", "Type of the stored vectors.", choices=DTYPES)
    normalize: bool = option(True, "Whether vectors are scaled to unit length.")
    crop_fraction: float = option(
        0.0,
        "Side of the centre crop over the image's shorter side: 1 for thumbnails, 0 for what each encoder's "
        "description says.",
        at_least=0,
        at_most=1,
    )
    compute: str = option(
        "float32",
        "Precision of matrix products while encoders run; `bfloat16` is part of the encoders' fingerprints and needs a "
        "processor with such instructions (docs/encoders.md).",
        choices=COMPUTES,
    )
    unsafe_models: bool = option(
        False,
        "Whether SavedModels whose operations reach files, sockets, processes or Python are loaded; only models that "
        "you trust.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if not self.key:
            yield "key", "is empty; every memory needs keys"
        for prompt in self.prompts:
            if prompt.count("{}") != 1:
                yield "prompts", f"{prompt!r} must have {{}} once, in place of the class name"


@dataclasses.dataclass(frozen=True)
class Embed:
    """How images become vectors."""

    batch_size: int = option(
        32, "Images in each encoder call; part of a folder's identity, since rounding depends on it.", at_least=1
    )
    list_shard_rows: int = option(512, "Rows of a list that make one shard.", at_least=1)
    max_image_bytes: int = option(64 << 20, "Largest encoded image that is read, in bytes.", at_least=1)
    max_image_pixels: int = option(
        100_000_000, "Largest image that is decoded, in pixels; a guard against decompression bombs.", at_least=1
    )
    private_addresses: bool = option(
        False,
        "Whether URLs of images may lead to addresses that are not of the public internet, and proxies be used.",
    )
    max_rejects_share: float = option(0.2, "Share of rejected rows above which the job fails.", at_least=0, at_most=1)
    threads: int = option(
        0, "Batches that a process works on at once; 0 for its share of the machine's cores.", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which rows of the memory are kept; the others are counted under the field's name. Queries are never filtered."""

    min_side: int = option(0, "Smallest shorter side, in pixels.", at_least=0)
    max_aspect: float = option(0.0, "Largest ratio of longer to shorter side; 0 for any.", at_least=0)
    min_caption_chars: int = option(0, "Shortest caption, in characters.", at_least=0)
    max_caption_chars: int = option(0, "Longest caption, in characters; 0 for any.", at_least=0)
    metadata: tuple[str, ...] = option(
        (),
        "Conditions on a row's fields, all of which must hold: `similarity>=0.3`, `NSFW==UNLIKELY|UNSURE`, "
        "`nsfw!=true`; a missing field meets none.",
    )
    concepts: bool = option(
        False, "Whether to keep only rows whose caption names a class or one of its synonyms (docs/concepts.md)."
    )
    concepts_per_class: int = option(
        0,
        "Most rows that each class keeps of those whose captions name it, chosen by `seed`; 0 for any. A row stays if "
        "one of its classes keeps it, or if it names none.",
        at_least=0,
    )
    opt_out: str = option("", "File of URLs or SHA-256 digests of images, one a line, that must not be in the memory.")
    exact_duplicates: bool = option(False, "Whether to drop images whose bytes an earlier row has.")
    near_duplicates: float = option(
        0.0,
        "Drops images whose key has at least this cosine to that of an earlier row; 0 for none.",
        at_least=0,
        at_most=1,
    )
    leakage: float = option(
        0.9,
        "Drops copies of images of `leakage_splits`; 0 drops none. Where there are no pixels to compare, this cosine "
        "of keys decides.",
        at_least=0,
        at_most=1,
    )
    leakage_candidates: float = option(
        0.65,
        "Smallest cosine of keys at which the pixels of two images are compared, for `leakage`.",
        at_least=0,
        at_most=1,
    )
    leakage_pixels: float = option(
        0.6,
        "Smallest correlation of details, once aligned, at which an image is a copy of another; 0 to let the cosine of "
        "`leakage` alone decide.",
        at_least=0,
        at_most=1,
    )
    leakage_splits: tuple[str, ...] = option(
        ("val", "test"), "Splits that must not leak into the memory.", choices=SPLITS
    )


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What the demo's images are made of."""

    memory_styles: tuple[str, ...] = option(
        ("twemoji", "openmoji", "fluent-3d", "fluent-flat"),
        "Vendors whose drawings and texts are the memory.",
        choices=STYLES,
        required=True,
        distinct=True,
    )
    query_style: str = option("noto", "Vendor whose drawings are the labelled dataset.", choices=STYLES)
    image_size: int = option(160, "Side of the JPEGs, in pixels.", at_least=16, at_most=1024)
    pairs_per_shard: int = option(1000, "Image-text pairs in each tar.", at_least=1, at_most=100_000)
    max_emoji: int = option(0, "Most emoji that are used; 0 for all.", at_least=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if self.query_style in self.memory_styles:
            yield "query_style", f"is also in memory_styles={','.join(self.memory_styles)}, so queries find themselves"
