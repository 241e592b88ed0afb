"""Tokenizers of Hugging Face folders, set to what their models do: what is lowered, cut, ended and padded."""

import dataclasses
import json
import pathlib
import string
from typing import Any, TypeGuard

from pipelines import storage
from pipelines.encoders.towers import spm
from pipelines.encoders.towers.hugging_face import sentence, weights
from pipelines.encoders.towers.tower import TextForm
from pipelines.errors import UserError, one_line

TOKENIZER, SENTENCEPIECE = "tokenizer.json", "spiece.model"
_CONFIG, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_SENTENCE_CONFIGS = "sentence_*_config.json"
_PROMPTS = "config_sentence_transformers.json"
_MAX_BYTES = 1 << 27
# Of T5, which has no positions, where nothing says how long texts may be.
_MOST_TOKENS = 512
_LOWER: dict[str, Any] = {"type": "Lowercase"}
# What transformers' SiglipTokenizer.canonicalize_text does; a final sigma is one to Python, not to `Lowercase`.
_CANONICAL: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "Replace", "pattern": {"Regex": r"(?<=\p{L})Σ(?![\p{M}'.:·]*\p{L})"}, "content": "ς"},
    _LOWER,
    {"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": r"[\s\x1c-\x1f]+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]
# TensorFlow lowers ASCII letters only where it is not told of UTF-8, as TIPS does not tell it.
_LOWER_ASCII: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": letter}, "content": letter.lower()} for letter in string.ascii_uppercase
]
_BERT_FLAGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_LOWERED = ("bert", "mpnet")


@dataclasses.dataclass(frozen=True)
class Texts:
    """How texts become the ids that a tower takes.

    Attributes:
        tokenizer: a `tokenizer.json`; its padding is set where the tower takes texts of one length.
        max_tokens: most ids of a text, with those that begin and end it; the rest of it is cut.
    """

    tokenizer: bytes
    max_tokens: int


def prepare(folder: pathlib.Path, model_type: str, form: TextForm) -> Texts:
    """Returns what the folder of a model says of its texts, after it was checked against the tower.

    Args:
        folder: with tokenizer.json, or spiece.model of SigLIP; tokenizer_config.json, special_tokens_map.json and
            sentence_bert_config.json are read if they are there.
        model_type: of its config.json.
        form: of its text tower.

    Raises:
        UserError: if there is no tokenizer, or it is of another model or asks for what is not done here.
    """
    place = sentence.transformer_folder(folder)
    config = _optional(place / _CONFIG)
    is_siglip = model_type == "siglip"
    path = place / (SENTENCEPIECE if is_siglip and (place / SENTENCEPIECE).is_file() else TOKENIZER)
    settings = spm.read(path) if path.name == SENTENCEPIECE else _read(path)
    if is_siglip:
        special = {**_optional(place / _SPECIAL), **config}
        _as_siglip(settings, form, path, _name(special.get("eos_token")), _name(special.get("pad_token")))
    elif model_type in _LOWERED:
        _as_bert(settings, config)
    sentences = _sentence_config(folder, place)
    if sentences.get("do_lower_case") is True and not any(_is_lower(step) for step in _steps(settings)):
        _begin_with(settings, [_LOWER])
    return _checked(settings, _max_tokens(form, sentences, config), form, path)


def beside_weights(path: pathlib.Path, form: TextForm) -> Texts:
    """Returns the same for a tokenizer that stands beside weights of SigLIP or SigLIP 2 of big_vision.

    Args:
        path: of a tokenizer.json or, of any other name, a model of sentencepiece.
        form: of the text tower.

    Raises:
        UserError: if there is no tokenizer, or it is of another model.
    """
    settings = _read(path) if path.suffix == ".json" else spm.read(path)
    _as_siglip(settings, form, path, "", "")
    return _checked(settings, form.length, form, path)


def beside_tips(path: pathlib.Path, form: TextForm) -> Texts:
    """Returns the same for the model of sentencepiece that stands beside the text tower of TIPSv2.

    ASCII letters are lowered, no token is added to the ends of a text, and it is cut to the positions of the tower.
    What is behind its end is masked, whatever other texts are in a batch. The published code masks tokens of id 0, so
    that must not be the unknown one.

    Raises:
        UserError: if it is the tokenizer of another model.
    """
    settings = spm.read(path)
    if settings["model"].get("unk_id", -1) == 0:
        raise UserError(f"{path}: its token 0 is the unknown one, that of TIPSv2 is padding; take TIPSv2's tokenizer")
    _begin_with(settings, _LOWER_ASCII)
    return _checked(settings, form.positions, form, path, has_ends=False)


def _optional(path: pathlib.Path) -> dict[str, Any]:
    return weights.read_object(path) if path.is_file() else {}


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the settings in a tokenizer.json, with no length and no chance in them."""
    if not path.is_file():
        raise UserError(
            f"{path.parent}: has no {path.name}, which says how texts become tokens; download it, or make it in "
            f"transformers by AutoTokenizer.from_pretrained({path.parent.name!r}).save_pretrained"
            f"({path.parent.name!r})"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: has more than {_MAX_BYTES:,} bytes; it is no {path.name} of a model")
    found = storage.read_json(str(path))
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise UserError(f"{path}: is no tokenizer, it has no object 'model'; download it again")
    if found["model"].get("dropout"):
        raise UserError(f"{path}: its 'dropout' is not null, so a text has other tokens each time; set it to null")
    return {**found, "truncation": None, "padding": None}


def _name(token: Any) -> str:
    """Returns the name of a special token, which is a text or an object; empty if there is none."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else ""


def _steps(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the normalizers, none of which is a sequence."""
    own = settings.get("normalizer")
    found = own.get("normalizers") if isinstance(own, dict) and own.get("type") == "Sequence" else [own]
    return [step for step in found if isinstance(step, dict)] if isinstance(found, list) else []


def _is_lower(step: dict[str, Any]) -> bool:
    return step.get("type") == "Lowercase" or (step.get("type") == "BertNormalizer" and step.get("lowercase") is True)


def _begin_with(settings: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    settings["normalizer"] = {"type": "Sequence", "normalizers": [*steps, *_steps(settings)]}


def _as_siglip(settings: dict[str, Any], form: TextForm, path: pathlib.Path, end: str, pad: str) -> None:
    """Sets a tokenizer to the texts of SigLIP, or of SigLIP 2 if it is of the type BPE, as Gemma's is.

    Texts are lower case, those of SigLIP without punctuation too, end with a token that is kept when they are cut, and
    have `form.length` ids; those behind the end are padding in SigLIP 2, the end again in SigLIP.
    """
    is_second = settings["model"].get("type") == "BPE"
    end = end or ("<eos>" if is_second else "</s>")
    pad = pad or ("<pad>" if is_second else end)
    ids = _ids(settings, (end, pad), path)
    steps = [_LOWER] if is_second else _CANONICAL
    if _steps(settings)[: len(steps)] != steps:
        _begin_with(settings, steps)
    # Pieces that a lowered text does not have; their names would be lowered too, and found.
    settings["added_tokens"] = [
        token
        for token in settings.get("added_tokens") or []
        if token.get("special") or not token.get("normalized") or token["content"].lower() == token["content"]
    ]
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}],
        "pair": [],
        "special_tokens": {end: {"id": end, "ids": [ids[end]], "tokens": [end]}},
    }
    settings["padding"] = {
        "strategy": {"Fixed": form.length},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": ids[pad],
        "pad_type_id": 0,
        "pad_token": pad,
    }


def _ids(settings: dict[str, Any], names: tuple[str, ...], path: pathlib.Path) -> dict[str, int]:
    tokenizer = _loaded(settings, path)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    found = {name: vocabulary.get(name, vocabulary.get(spm.HIDDEN + name)) for name in names}
    if missing := [name for name, number in found.items() if number is None]:
        raise UserError(f"{path}: has no token {missing[0]!r}; it is the tokenizer of another model")
    return found


def _as_bert(settings: dict[str, Any], config: dict[str, Any]) -> None:
    """Sets the flags of BERT's normalizer that tokenizer_config.json states otherwise, as transformers does."""
    for step in _steps(settings):
        if step.get("type") == "BertNormalizer":
            step |= {
                ours: config[theirs] for theirs, ours in _BERT_FLAGS.items() if isinstance(config.get(theirs), bool)
            }


def _sentence_config(folder: pathlib.Path, place: pathlib.Path) -> dict[str, Any]:
    """Returns what sentence-transformers adds to a tokenizer; nothing for other folders."""
    prompts = _optional(folder / _PROMPTS)
    if prompts.get("default_prompt_name") is not None:
        raise UserError(
            f"{folder / _PROMPTS}: 'default_prompt_name' is {prompts['default_prompt_name']!r}, a text that is put "
            "before each, which is not done here; set it to null and write it into the captions"
        )
    found = sorted(place.glob(_SENTENCE_CONFIGS))
    return weights.read_object(found[0]) if found else {}


def _max_tokens(form: TextForm, sentences: dict[str, Any], config: dict[str, Any]) -> int:
    """Returns the most ids of a text: of the tower, or fewer if sentence-transformers or the tokenizer say so."""
    if form.length:
        return form.length
    most = form.positions - form.first_position if form.positions else _MOST_TOKENS
    for found in (sentences.get("max_seq_length"), config.get("model_max_length")):
        if _is_count(found):
            return min(found, most)
    return most


def _is_count(value: Any) -> TypeGuard[int]:
    # Files say 1e30 for no limit.
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20


def _checked(
    settings: dict[str, Any], max_tokens: int, form: TextForm, path: pathlib.Path, has_ends: bool = True
) -> Texts:
    """Returns a tokenizer as it is stored; a `UserError` if it is that of another model."""
    tokenizer = _loaded(settings, path)

    def other(what: str) -> UserError:
        return UserError(
            f"{path}: {what}; it is the tokenizer of another model, take the one that came with the weights"
        )

    tokens = tokenizer.get_vocab(with_added_tokens=True).values()
    last = max(tokens, default=-1)
    if last >= form.tokens:
        raise other(f"has the id {last}, the model has {form.tokens:,} tokens")
    if last < form.tokens // 2:
        raise other(f"has {len(tokens):,} tokens, the model has {form.tokens:,}")
    added = tokenizer.num_special_tokens_to_add(False)
    if has_ends and not added:
        raise other("adds no token to the ends of a text, which the model has seen in every text")
    if max_tokens <= added:
        raise UserError(f"{path.parent}: texts of {max_tokens} tokens leave no room for words; see {_CONFIG}")
    if form.pool == "end":
        end = last if form.end < 0 else form.end
        tokenizer.enable_truncation(max_tokens)
        for text in ("", "a", "a " * max_tokens):
            # Behind the first of these ids the text tower takes nothing.
            ids = tokenizer.encode(text).ids
            if ids[-1:] != [end] or end in ids[:-1]:
                raise other(f"does not end a text with the id {end}, as the model's config says")
        tokenizer.no_truncation()
    return Texts(tokenizer.to_str().encode(), max_tokens)


def _loaded(settings: dict[str, Any], path: pathlib.Path) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(settings))
        tokenizer.encode("a é")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # The library has no exception of its own, and a panic within it is no `Exception`.
        raise UserError(f"{path}: is not a tokenizer ({one_line(error)}); download it again") from error
    return tokenizer
