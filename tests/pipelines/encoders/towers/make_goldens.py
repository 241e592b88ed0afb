"""Writes `goldens.json.gz`: small tokenizers of each kind, and the ids that the models' own libraries give.

    python make_goldens.py captions.txt odd_strings.json goldens.json.gz

needs transformers 5.24, sentencepiece 0.2.3 and tokenizers 0.23.3, which the tests do not. The captions train the
vocabularies; 200 of them and the odd strings are what is encoded. The committed file was made from captions of web
pairs and from empty, long, right-to-left, decomposed, control and other odd strings.
"""

import base64
import gzip
import json
import pathlib
import sys
import tempfile

import sentencepiece
import tokenizers
import transformers

_GEMMA = {
    "model_type": "bpe",
    "vocab_size": 700,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "user_defined_symbols": ["\n\n", "▁▁", "<table>", "[@BOS@]"],
}
_T5 = {"model_type": "unigram", "vocab_size": 700, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
# Real models have 240 kB of rules; full-width letters, a ligature, a half and spaces stand for them.
_RULES = [("FF21", "41"), ("FF41", "61"), ("FB01", "66 69"), ("BD", "31 2F 32"), ("3000", "20"), ("2581", "20")]


def _spm(captions: str, folder: pathlib.Path, **options: object) -> bytes:
    sentencepiece.SentencePieceTrainer.train(
        input=captions, model_prefix=str(folder / "trained"), minloglevel=2, **options
    )
    return (folder / "trained.model").read_bytes()


def _padded(ids: list[int], end: int, pad: int) -> list[int]:
    ids = [*ids[:63], end]
    return ids + [pad] * (64 - len(ids))


def _siglip(captions: str, folder: pathlib.Path, texts: list[str], rules: str) -> dict:
    model = _spm(captions, folder, normalization_rule_tsv=rules, **_T5)
    (folder / "spiece.model").write_bytes(model)
    own = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    ids = own(texts, truncation=True, max_length=64, padding="max_length")["input_ids"]
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    # What TIPS does: `tf.strings.lower` lowers ASCII only.
    lowered = processor.encode([text.encode().lower().decode() for text in texts])
    return {
        "binary": {"spiece.model": base64.b64encode(model).decode()},
        "ids": ids,
        "plain": processor.encode(texts),
        "tips": [ids[:64] for ids in lowered],
    }


def _gemma(captions: str, folder: pathlib.Path, texts: list[str]) -> dict:
    model = _spm(captions, folder, **_GEMMA)
    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [_padded(found, 1, 0) for found in own.encode([text.lower() for text in texts])]
    return {"binary": {"vocab.spm": base64.b64encode(model).decode()}, "ids": ids, "plain": own.encode(texts)}


def _saved(own: object, folder: pathlib.Path, texts: list[str], length: int) -> dict:
    own.save_pretrained(folder)
    ids = own(texts, truncation=True, max_length=length)["input_ids"]
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return {"files": {name: (folder / name).read_text() for name in names if (folder / name).is_file()}, "ids": ids}


def _siglip2(captions: str, folder: pathlib.Path, texts: list[str]) -> dict:
    trained = tokenizers.SentencePieceBPETokenizer(add_prefix_space=False)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train([captions], vocab_size=700, special_tokens=special, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    own = transformers.Siglip2Tokenizer(model["vocab"], merges, padding_side="right", model_max_length=64)
    found = _saved(own, folder, texts, 64)
    settings = json.loads(found["files"]["tokenizer.json"])
    # Published files do not lower; the class does.
    settings["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    found["files"]["tokenizer.json"] = json.dumps(settings, ensure_ascii=False)
    ids = own(texts, add_special_tokens=False)["input_ids"]
    return {**found, "ids": [_padded(ids, 1, 0) for ids in ids]}


def _bytes_bpe(captions: str, folder: pathlib.Path, texts: list[str]) -> dict:
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train([captions], vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trained.save_model(str(folder))
    return _saved(transformers.RobertaTokenizer.from_pretrained(folder, model_max_length=64), folder, texts, 64)


def _clip(captions: str, folder: pathlib.Path, texts: list[str]) -> dict:
    trained = tokenizers.CharBPETokenizer(suffix="</w>", lowercase=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trained.train([captions], vocab_size=700, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    model = json.loads(trained.to_str())["model"]
    vocab = dict(model["vocab"])
    for token in (*(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"):
        vocab.setdefault(token, len(vocab))
    own = transformers.CLIPTokenizer(vocab, [tuple(pair) for pair in model["merges"]], model_max_length=77)
    return _saved(own, folder, texts, 77)


def _word_pieces(captions: str, folder: pathlib.Path, texts: list[str], kind: str) -> dict:
    trained = tokenizers.BertWordPieceTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if kind == "bert" else ["<s>", "<pad>", "</s>", "<unk>"]
    special += [] if kind == "bert" else ["[UNK]", "<mask>"]
    trained.train([captions], vocab_size=600, special_tokens=special, show_progress=False)
    vocab = trained.get_vocab()
    own = (transformers.BertTokenizer if kind == "bert" else transformers.MPNetTokenizer)(vocab, model_max_length=64)
    return _saved(own, folder, texts, 64)


def _from_spm(captions: str, folder: pathlib.Path, texts: list[str], kind: str) -> dict:
    options = _T5 if kind == "t5" else {**_T5, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    model = _spm(captions, folder, normalization_rule_name="identity", **options)
    name = "spiece.model" if kind == "t5" else "sentencepiece.bpe.model"
    (folder / name).write_bytes(model)
    own = transformers.T5Tokenizer if kind == "t5" else transformers.XLMRobertaTokenizer
    return _saved(own.from_pretrained(folder, model_max_length=77), folder, texts, 77)


def main(captions: str, odd: str, target: str) -> None:
    """Trains, encodes and writes."""
    lines = pathlib.Path(captions).read_text().splitlines()
    texts = lines[:: len(lines) // 200][:200] + json.loads(pathlib.Path(odd).read_text())
    makers = {
        "clip": _clip,
        "siglip2": _siglip2,
        "gemma": _gemma,
        "roberta": _bytes_bpe,
        **dict.fromkeys(("bert", "mpnet"), _word_pieces),
        **dict.fromkeys(("t5", "xlm-roberta"), _from_spm),
    }
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        rules = pathlib.Path(scratch) / "rules.tsv"
        rules.write_text("".join(f"{source}\t{result}\n" for source, result in _RULES))
        for kind, make in {**makers, "siglip": _siglip}.items():
            folder = pathlib.Path(scratch) / kind
            folder.mkdir()
            more = {"siglip": [str(rules)]}.get(kind, [kind] if make in (_word_pieces, _from_spm) else [])
            found[kind] = make(captions, folder, texts, *more)
    data = json.dumps({"texts": texts, "kinds": found}, separators=(",", ":")).encode()
    pathlib.Path(target).write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
