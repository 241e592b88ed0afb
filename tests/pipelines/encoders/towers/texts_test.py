"""Ids of each kind of tokenizer against those of the models' own libraries (make_goldens.py), and every refusal."""

import base64
import gzip
import json
import pathlib
import struct

import pytest
import tokenizers

from pipelines.encoders.loaded import _cut_and_pad
from pipelines.encoders.towers import spm, texts
from pipelines.encoders.towers.tower import Blocks, TextForm
from pipelines.errors import UserError

GOLDENS = json.loads(gzip.decompress((pathlib.Path(__file__).parent / "goldens.json.gz").read_bytes()))
TEXTS, KINDS = GOLDENS["texts"], GOLDENS["kinds"]
BLOCKS = Blocks(1, 8, 1, 8, "gelu", 1e-5)
SIGLIP = {"pool": "last", "positions": 64, "length": 64}
# What decides the ids, by kind: model_type, vocabulary and the rest of the form.
FORMS = {
    "clip": ("clip", 961, {"pool": "end", "positions": 77}),
    "siglip2": ("siglip", 700, SIGLIP),
    "roberta": ("roberta", 600, {"pool": "mean", "positions": 66, "first_position": 2}),
    "bert": ("bert", 600, {"pool": "mean", "positions": 64}),
    "mpnet": ("mpnet", 600, {"pool": "mean", "positions": 66, "first_position": 2}),
    "t5": ("t5", 832, {"pool": "mean"}),
    "xlm-roberta": ("metaclip_2", 702, {"pool": "end", "end": 2, "positions": 77}),
    "siglip": ("siglip", 700, SIGLIP),
}
# `SiglipTokenizer` takes the names of these tokens in a text for the tokens; sentencepiece and we take them for text.
NAMES = ("</s>", "<unk>")


def form(kind, **changes):
    _, tokens, more = FORMS[kind]
    return TextForm(BLOCKS, **{"tokens": tokens, **more, **changes})


def write(folder, kind):
    golden = KINDS[kind]
    for name, text in golden.get("files", {}).items():
        (folder / name).write_text(text)
    for name, data in golden.get("binary", {}).items():
        (folder / name).write_bytes(base64.b64decode(data))
    return folder


def change(path, **changes):
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**found, **changes}))


def encode(found, length, strings=TEXTS):
    tokenizer = tokenizers.Tokenizer.from_str(found.tokenizer.decode())
    _cut_and_pad(tokenizer, found.max_tokens, length)
    if not length:
        tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch(strings)]


@pytest.mark.parametrize("kind", FORMS)
def test_ids_are_those_of_the_models_own_tokenizer(kind, tmp_path):
    found = texts.prepare(write(tmp_path, kind), FORMS[kind][0], form(kind))
    ids = encode(found, form(kind).length)
    wrong = [text for text, ours, theirs in zip(TEXTS, ids, KINDS[kind]["ids"], strict=True) if ours != theirs]
    assert [text for text in wrong if kind != "siglip" or not any(name in text for name in NAMES)] == []


def test_a_sentencepiece_file_beside_weights_gives_the_ids_of_sentencepiece(tmp_path):
    found = texts.beside_weights(write(tmp_path, "gemma") / "vocab.spm", TextForm(BLOCKS, 700, **SIGLIP))
    # Python lowers a sigma at the end of a word to another letter than `Lowercase`, and transformers, do.
    assert [
        text
        for text, ours, theirs in zip(TEXTS, encode(found, 64), KINDS["gemma"]["ids"], strict=True)
        if ours != theirs and "Σ" not in text
    ] == []


@pytest.mark.parametrize("kind", ["gemma", "siglip"])
def test_a_sentencepiece_file_alone_gives_the_ids_of_sentencepiece(kind, tmp_path):
    (name,) = KINDS[kind]["binary"]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spm.read(write(tmp_path, kind) / name)))
    for text, theirs in zip(TEXTS, KINDS[kind]["plain"], strict=True):
        assert tokenizer.encode(text).ids == theirs, text


def test_the_tokenizer_of_tips_gives_the_ids_of_sentencepiece_on_ascii_letters_lowered(tmp_path):
    tips = TextForm(BLOCKS, 700, pool="mean", positions=64, sinusoids=True)
    found = texts.beside_tips(write(tmp_path, "siglip") / "spiece.model", tips)
    assert encode(found, 0) == KINDS["siglip"]["tips"]
    # Names of tokens within a text are text, and other letters than those of ASCII keep their case.
    assert encode(found, 0, ["A RED dog", "</s>", "<pad>"])[0] == encode(found, 0, ["a red dog"])[0]
    assert not {0, 1} & {number for ids in encode(found, 0, ["</s> <pad>"]) for number in ids}
    assert encode(found, 0, [""]) == [[]] and [len(ids) for ids in encode(found, 0, ["dog " * 99])] == [64]


def test_a_tokenizer_of_another_model_than_tips_is_refused(tmp_path):
    path = write(tmp_path, "siglip") / "spiece.model"
    for tokens, sentence in ((699, "has the id 699, the model has 699 tokens"), (32000, "has 700 tokens, the model")):
        with pytest.raises(UserError, match=sentence):
            texts.beside_tips(path, TextForm(BLOCKS, tokens, pool="mean", positions=64))
    path.write_bytes(UNKNOWN + piece("a") + piece("b"))
    with pytest.raises(UserError, match="its token 0 is the unknown one, that of TIPSv2 is padding"):
        texts.beside_tips(path, TextForm(BLOCKS, 3, pool="mean", positions=64))


def test_a_long_text_keeps_its_end(tmp_path):
    write(tmp_path, "siglip2")
    found = texts.prepare(tmp_path, "siglip", form("siglip2"))
    (ids,) = encode(found, 64, ["word " * 200])
    assert len(ids) == 64 and ids[-1] == 1 and 1 not in ids[:-1]
    (ids,) = encode(found, 64, [""])
    assert ids == [1] + [0] * 63


def test_a_tokenizer_json_beside_weights_is_taken(tmp_path):
    write(tmp_path, "siglip2")
    ids = encode(texts.beside_weights(tmp_path / "tokenizer.json", form("siglip2")), 64)
    assert ids == KINDS["siglip2"]["ids"]


@pytest.mark.parametrize(
    ("sentences", "config", "changes", "most"),
    [
        ({}, {"model_max_length": 10**30}, {}, 64),
        ({}, {"model_max_length": 32}, {}, 32),
        ({"max_seq_length": 16}, {"model_max_length": 32}, {}, 16),
        ({"max_seq_length": 48}, {"model_max_length": 32}, {}, 48),
        ({"max_seq_length": 512}, {}, {}, 64),
        ({"max_seq_length": None}, {"model_max_length": None}, {"positions": 0}, 512),
    ],
)
def test_texts_are_cut_where_the_folder_says(sentences, config, changes, most, tmp_path):
    write(tmp_path, "bert")
    change(tmp_path / "sentence_bert_config.json", **sentences)
    change(tmp_path / "tokenizer_config.json", **config)
    assert texts.prepare(tmp_path, "bert", form("bert", **changes)).max_tokens == most


def test_lengths_and_padding_of_the_file_are_not_kept(tmp_path):
    write(tmp_path, "bert")
    change(tmp_path / "tokenizer.json", padding={"strategy": {"Fixed": 9}}, truncation={"max_length": 9})
    tokenizer = tokenizers.Tokenizer.from_str(texts.prepare(tmp_path, "bert", form("bert")).tokenizer.decode())
    assert tokenizer.padding is None and tokenizer.truncation is None


def test_sentence_transformers_lower_texts(tmp_path):
    write(tmp_path, "roberta")
    change(tmp_path / "sentence_roberta_config.json", do_lower_case=True)
    upper, lower = encode(texts.prepare(tmp_path, "roberta", form("roberta")), 0, ["A Red CAR", "a red car"])
    assert upper == lower


def test_the_case_of_bert_is_that_of_its_config(tmp_path):
    write(tmp_path, "bert")
    change(tmp_path / "tokenizer_config.json", do_lower_case=False)
    upper, lower = encode(texts.prepare(tmp_path, "bert", form("bert")), 0, ["RED", "red"])
    assert upper != lower


def refused(folder, kind="bert", model_type=None, **changes):
    with pytest.raises(UserError) as error:
        texts.prepare(folder, model_type or FORMS[kind][0], form(kind, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_without_tokenizer_says_how_to_make_one(tmp_path):
    assert "has no tokenizer.json" in refused(tmp_path) and "save_pretrained" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[]", "has no object 'model'"),
        ("{", "is not valid JSON"),
        ('{"model": {"type": "None"}}', "is not a tokenizer"),
        ('{"model": {"type": "BPE", "dropout": 0.1}}', "'dropout' is not null"),
    ],
)
def test_what_is_no_tokenizer_is_refused(content, what, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    assert what in refused(tmp_path)


def test_a_tokenizer_of_too_many_bytes_is_refused(tmp_path, monkeypatch):
    write(tmp_path, "bert")
    monkeypatch.setattr(texts, "_MAX_BYTES", 100)
    assert "has more than 100 bytes" in refused(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    write(tmp_path, "bert")
    assert "has the id 599, the model has 599 tokens" in refused(tmp_path, tokens=599)
    assert "has 600 tokens, the model has 30,522" in refused(tmp_path, tokens=30522)
    assert "does not end a text with the id 7" in refused(tmp_path, pool="end", end=7)
    assert "does not end a text with the id 599" in refused(tmp_path, pool="end", end=-1)
    assert "has no token '</s>'" in refused(tmp_path, model_type="siglip", length=64)


def test_a_tokenizer_without_the_ends_of_texts_is_refused(tmp_path):
    write(tmp_path, "bert")
    change(tmp_path / "tokenizer.json", post_processor=None)
    assert "adds no token to the ends of a text" in refused(tmp_path)


def test_texts_without_room_are_refused(tmp_path):
    write(tmp_path, "bert")
    change(tmp_path / "sentence_bert_config.json", max_seq_length=2)
    assert "texts of 2 tokens leave no room" in refused(tmp_path)


def test_a_prompt_before_each_text_is_refused(tmp_path):
    write(tmp_path, "bert")
    change(tmp_path / "config_sentence_transformers.json", default_prompt_name=None)
    texts.prepare(tmp_path, "bert", form("bert"))
    change(tmp_path / "config_sentence_transformers.json", default_prompt_name="query")
    assert "'default_prompt_name' is 'query'" in refused(tmp_path)


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def piece(text, score=0.0, kind=1):
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))


UNKNOWN = piece("<unk>", kind=2)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "has 0 pieces"),
        (b"PK\x03\x04 a zip", "sentencepiece"),
        (b"\xff" * 20, "is cut off"),
        (UNKNOWN[:-3], "is cut off"),
        (b"\x0b", "a field of an unknown type"),
        (b"\x08\x01", "a field of a wrong type"),
        (UNKNOWN + piece("a") * 2, "has a piece twice"),
        (piece("a"), "has not one unknown piece"),
        (UNKNOWN + piece(""), "has a wrong piece ''"),
        (UNKNOWN + piece("a", float("nan")), "has a wrong piece 'a'"),
        (UNKNOWN + field(1, field(1, b"\xff")), "is no model of sentencepiece"),
        (UNKNOWN + piece("a", kind=6), "is a unigram model with pieces for bytes"),
        (UNKNOWN + field(2, b"\x18\x03"), "is not of the types unigram and BPE"),
        (UNKNOWN + field(2, b"\x18\x02"), "is a BPE model that changes texts first"),
    ],
)
def test_what_is_no_model_of_sentencepiece_is_refused(data, what, tmp_path):
    (tmp_path / "vocab.spm").write_bytes(data)
    with pytest.raises(UserError, match=what):
        spm.read(tmp_path / "vocab.spm")


@pytest.mark.parametrize("rules", [b"\x00", b"\x04\0\0\0abcd"])
def test_damaged_rules_of_sentencepiece_are_refused(rules, tmp_path):
    """The library panics on them, on loading or with a text."""
    pieces = UNKNOWN + piece("</s>") + piece("a")
    (tmp_path / "vocab.spm").write_bytes(pieces + field(3, field(2, rules)))
    with pytest.raises(UserError, match="is not a tokenizer"):
        texts.beside_weights(tmp_path / "vocab.spm", TextForm(BLOCKS, 3, **SIGLIP))


def test_a_missing_or_large_model_of_sentencepiece_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is missing"):
        spm.read(tmp_path / "vocab.spm")
    (tmp_path / "vocab.spm").write_bytes(UNKNOWN)
    monkeypatch.setattr(spm, "_MAX_BYTES", 4)
    with pytest.raises(UserError, match="has more than 4 bytes"):
        spm.read(tmp_path / "vocab.spm")


def test_damage_at_any_byte_is_refused_or_harmless(tmp_path):
    data = base64.b64decode(KINDS["gemma"]["binary"]["vocab.spm"])
    path = tmp_path / "vocab.spm"
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            texts.beside_weights(path, TextForm(BLOCKS, 700, **SIGLIP))
        except UserError:
            pass


@pytest.mark.parametrize(("name", "composes"), [(b"nmt_nfkc", True), (b"identity", False)])
def test_accents_and_syllables_are_composed_where_the_model_composes(name, composes, tmp_path):
    (tmp_path / "vocab.spm").write_bytes(UNKNOWN + piece("▁é") + piece("한") + field(3, field(1, name)))
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spm.read(tmp_path / "vocab.spm")))
    assert (tokenizer.encode("e\u0301\u1112\u1161\u11ab").tokens == ["▁é", "한"]) == composes
