"""Models of sentencepiece (`spiece.model`, `.spm`) as settings of `tokenizers`, without the library sentencepiece.

Such a file is a message of protocol buffers, `ModelProto`; what is needed of it is read here as untrusted data.
"""

import base64
import dataclasses
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from pipelines.errors import UserError

_MAX_BYTES, _MAX_PIECES, _MAX_PIECE_LENGTH = 1 << 26, 1 << 21, 512
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_KINDS = {1: "unigram", 2: "bpe"}
HIDDEN = " "
"""What is put before the names of pieces that no text has, such as `<pad>`: spaces of texts are escaped."""
_SPACE = "▁"
# Normalizations whose results are composed.
_COMPOSING = (b"nmt_nfkc", b"nfkc", b"nmt_nfkc_cf", b"nfkc_cf")
# Numbers of the fields of ModelProto and of the messages within it.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_KIND, _SUFFIX = 3, 24
_NAME, _CHARSMAP, _PREFIX, _COLLAPSES, _ESCAPES = 1, 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    kind: int


def read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of a tokenizer, as in tokenizer.json, that gives the ids of sentencepiece.

    No token is added to the ends of a text. Names of unigram pieces that no text has begin with `HIDDEN`.

    Raises:
        UserError: if the file is missing or no such model, or asks for what `tokenizers` does not do alike.
    """
    if not path.is_file():
        raise UserError(f"{path}: is missing; it is the vocabulary of the model")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: has more than {_MAX_BYTES:,} bytes; it is no model of sentencepiece")
    try:
        pieces, trainer, normalizer = _parsed(path.read_bytes())
    except (ValueError, struct.error) as error:
        raise UserError(f"{path}: is no model of sentencepiece ({error}); download it again") from error
    kind = _KINDS.get(trainer.get(_KIND, 1))
    if kind is None or trainer.get(_SUFFIX) or not normalizer.get(_ESCAPES, 1):
        raise _refuse(path, "is not of the types unigram and BPE with spaces before words")
    return (_unigram if kind == "unigram" else _bpe)(path, pieces, normalizer)


def _refuse(path: pathlib.Path, what: str) -> UserError:
    return UserError(
        f"{path}: {what}; make a tokenizer.json of it, in transformers by AutoTokenizer.from_pretrained(folder)"
        ".save_pretrained(folder)"
    )


def _parsed(data: bytes) -> tuple[list[_Piece], dict[int, Any], dict[int, Any]]:
    """Returns the pieces and the fields of the trainer's and the normalizer's settings."""
    pieces: list[_Piece] = []
    settings: dict[int, dict[int, Any]] = {_TRAINER: {}, _NORMALIZER: {}}
    for number, value in _fields(data):
        if number == _PIECE:
            pieces.append(_piece(dict(_fields(_bytes(value)))))
        elif number in settings:
            settings[number] |= dict(_fields(_bytes(value)))
    if not pieces or len(pieces) > _MAX_PIECES:
        raise ValueError(f"has {len(pieces):,} pieces")
    if len({piece.text for piece in pieces}) < len(pieces):
        raise ValueError("has a piece twice")
    if [piece.kind for piece in pieces].count(_UNKNOWN) != 1:
        raise ValueError("has not one unknown piece")
    return pieces, settings[_TRAINER], settings[_NORMALIZER]


def _piece(fields: dict[int, Any]) -> _Piece:
    text = _bytes(fields.get(_TEXT, b"")).decode()
    (score,) = struct.unpack("<f", _bytes(fields.get(_SCORE, bytes(4))))
    kind = fields.get(_TYPE, _NORMAL)
    if not 0 < len(text) <= _MAX_PIECE_LENGTH or not isinstance(kind, int) or score != score:
        raise ValueError(f"has a wrong piece {text[:20]!r}")
    return _Piece(text, score, kind)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("has a field of a wrong type")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the number and the value of each field of a message: a whole number, or the bytes of it."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("has a field of an unknown type")
        if size > len(data) - place:
            raise ValueError("is cut off")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns the whole number at a place, of at most 10 bytes, and the place behind it."""
    value = 0
    for shift, byte in enumerate(data[place : place + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, place + shift + 1
    raise ValueError("is cut off")


def _settings(model: dict[str, Any], normalizers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
        **more,
    }


def _unigram(path: pathlib.Path, pieces: list[_Piece], normalizer: dict[int, Any]) -> dict[str, Any]:
    if any(piece.kind == _BYTE for piece in pieces):
        raise _refuse(path, "is a unigram model with pieces for bytes")
    steps: list[dict[str, Any]] = []
    if normalizer.get(_NAME) in _COMPOSING:
        # `Precompiled` composes no letter with several accents, nor the parts of a Korean syllable.
        steps.append({"type": "NFC"})
    if charsmap := normalizer.get(_CHARSMAP):
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(_bytes(charsmap)).decode()})
    if normalizer.get(_COLLAPSES, 1):
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A | \z"}, "content": ""})
    scheme = "always" if normalizer.get(_PREFIX, 1) else "never"
    split = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
    model = {
        "type": "Unigram",
        "unk_id": [piece.kind for piece in pieces].index(_UNKNOWN),
        "vocab": [
            [piece.text if piece.kind in (_NORMAL, _USER_DEFINED) else HIDDEN + piece.text, piece.score]
            for piece in pieces
        ],
        "byte_fallback": False,
    }
    return _settings(model, steps, pre_tokenizer=split)


def _bpe(path: pathlib.Path, pieces: list[_Piece], normalizer: dict[int, Any]) -> dict[str, Any]:
    if normalizer.get(_CHARSMAP) or normalizer.get(_PREFIX, 1) or normalizer.get(_COLLAPSES, 1):
        raise _refuse(path, "is a BPE model that changes texts first, unlike that of Gemma")
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": next(piece.text for piece in pieces if piece.kind == _UNKNOWN),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": any(piece.kind == _BYTE for piece in pieces),
        "ignore_merges": False,
        "vocab": {piece.text: number for number, piece in enumerate(pieces)},
        "merges": _merges(pieces),
    }
    whole = [
        {
            "id": number,
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            # Found in the text after its spaces are escaped, as those of sentencepiece are.
            "normalized": True,
            "special": False,
        }
        for number, piece in enumerate(pieces)
        if piece.kind == _USER_DEFINED
    ]
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    return _settings(model, steps, added_tokens=whole)


def _merges(pieces: list[_Piece]) -> list[list[str]]:
    """Returns the pairs that are joined, those first whose piece has the highest score."""
    scores = {piece.text: piece.score for piece in pieces if piece.kind == _NORMAL}
    pairs: list[list[str]] = []
    for text in sorted(scores, key=lambda text: -scores[text]):
        for middle in range(1, len(text)):
            if text[:middle] in scores and text[middle:] in scores:
                pairs.append([text[:middle], text[middle:]])
    return pairs
