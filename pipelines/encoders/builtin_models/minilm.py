"""all-MiniLM-L6-v2 as a tower, whose weights `builtin` supplies.

It is BERT (Devlin et al. 2019) with 6 layers, and the mean pooling of Sentence-BERT (Reimers & Gurevych 2019).
"""

import json
from collections.abc import Mapping

import numpy as np

from pipelines.encoders.towers.hugging_face import models
from pipelines.encoders.towers.tower import Blocks, TextForm, Tower

DIM = 384
MAX_TOKENS = 256
"""Word pieces in a sentence, including both special tokens; longer ones are truncated, as in the model card."""

_FORM = TextForm(
    Blocks(depth=6, width=DIM, heads=12, hidden=1536, activation="gelu", epsilon=1e-12, post_norm=True),
    tokens=30522,
    pool="mean",
    positions=512,
    first_norm=True,
    last_norm=False,
    is_unit=True,
)


def configure_tokenizer(tokenizer_json: bytes) -> bytes:
    """Returns a `tokenizer.json` that truncates at `MAX_TOKENS` and pads to the longest sentence of a batch.

    The published file pads every sentence to 128 tokens, ten times the work for captions.
    """
    settings = json.loads(tokenizer_json)
    settings["truncation"]["max_length"] = MAX_TOKENS
    settings["padding"]["strategy"] = "BatchLongest"
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


def tower(tensors: Mapping[str, np.ndarray]) -> Tower:
    """Returns the tower of weights under the names of a Hugging Face `BertModel`."""
    return models.of_arrays(_FORM, "bert", tensors, "the weights of MiniLM")
