"""Small folders as the Hugging Face Hub has them, with drawn weights and the outputs of transformers for them."""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers

from tests.pipelines.encoders.towers import arrays

_ORACLES = pathlib.Path(__file__).parent / "oracles"
NAMES = tuple(sorted(path.stem for path in _ORACLES.glob("*.json")))


def oracle(name: str) -> dict[str, Any]:
    """Returns the config of a model, its arrays by shape, and inputs with outputs."""
    return json.loads((_ORACLES / f"{name}.json").read_text())


def write(
    name: str, folder: pathlib.Path, modules: tuple[str, ...] = ("Pooling",), pool: str = "mean"
) -> dict[str, Any]:
    """Writes the folder of a model; a transformer of texts with the modules of sentence-transformers behind it."""
    found = oracle(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(found["config"]))
    safetensors.numpy.save_file(arrays.draw(found["shapes"]), folder / "model.safetensors")
    if "size" in found:
        size = {"height": found["size"], "width": found["size"]}
        preprocessor = {"size": size, "image_mean": found["mean"], "image_std": found["std"], "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    if "mean" in found and "ids" in found and "size" not in found:
        listed = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
        listed += [{"type": f"sentence_transformers.models.{m}", "path": f"{i}_{m}"} for i, m in enumerate(modules, 1)]
        (folder / "modules.json").write_text(json.dumps(listed))
        for number, module in enumerate(modules, 1):
            _write_module(folder / f"{number}_{module}", module, pool)
    return found


def _write_module(folder: pathlib.Path, module: str, pool: str) -> None:
    folder.mkdir(exist_ok=True)
    if module == "Pooling":
        modes = {"mean": "mean_tokens", "first": "cls_token"}
        fields: dict[str, Any] = {f"pooling_mode_{mode}": name == pool for name, mode in modes.items()}
        (folder / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **fields}))
    if module == "Dense":
        fields = {"in_features": 16, "out_features": 10, "bias": False, "activation_function": "torch.nn.Identity"}
        (folder / "config.json").write_text(json.dumps(fields))
        safetensors.numpy.save_file({"linear.weight": dense()}, folder / "model.safetensors")


def dense() -> np.ndarray:
    """Returns the weights of the dense layer, float32 `[10, 16]`."""
    return np.random.default_rng(7).normal(size=(10, 16)).astype(np.float32)


def write_tokenizer(folder: pathlib.Path) -> None:
    """Writes a tokenizer of a few words, of 90 ids, that begins texts with 88 and ends them with 89."""
    words = {word: number for number, word in enumerate("<unk> a red blue dog cat on the green photo of".split())}
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {**words, **{f"word{number}": number for number in range(len(words), 88)}, "<s>": 88, "</s>": 89}, "<unk>"
        )
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "</s>"])
    ends = [("<s>", 88), ("</s>", 89)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.save(str(folder / "tokenizer.json"))
