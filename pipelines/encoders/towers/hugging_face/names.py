"""The names of arrays in Hugging Face checkpoints, by family, as ours (`tower`)."""

import re
from collections.abc import Iterable

from pipelines.errors import UserError

Rules = tuple[tuple[str, str], ...]
_WEIGHTS = {"weight": "kernel", "bias": "bias"}

_CLIP_BLOCK: Rules = (
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.weight", r"blocks.\1.norm\2.scale"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.bias", r"blocks.\1.norm\2.bias"),
    (r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", r"blocks.\1.attention.query.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.k_proj\.(\w+)", r"blocks.\1.attention.key.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.v_proj\.(\w+)", r"blocks.\1.attention.value.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.out.\2"),
    (r"embeddings\.position_ids", ""),
)
CLIP_IMAGE: Rules = (
    *((rf"vision_model\.{theirs}", ours) for theirs, ours in _CLIP_BLOCK),
    (r"vision_model\.embeddings\.class_embedding", "class"),
    (r"vision_model\.embeddings\.patch_embedding\.(\w+)", r"patch.\1"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "positions"),
    # The name is misspelt in the checkpoints.
    (r"vision_model\.pre_layrnorm\.weight", "first_norm.scale"),
    (r"vision_model\.pre_layrnorm\.bias", "first_norm.bias"),
    (r"vision_model\.post_layernorm\.weight", "last_norm.scale"),
    (r"vision_model\.post_layernorm\.bias", "last_norm.bias"),
    (r"visual_projection\.weight", "projection.weight"),
    # The pooling head of SigLIP.
    (r"vision_model\.head\.probe", "pool.probe"),
    (r"vision_model\.head\.attention\.in_proj_weight", "pool.attention.all.weight"),
    (r"vision_model\.head\.attention\.in_proj_bias", "pool.attention.all.bias"),
    (r"vision_model\.head\.attention\.out_proj\.(\w+)", r"pool.attention.out.\1"),
    (r"vision_model\.head\.layernorm\.weight", "pool.norm.scale"),
    (r"vision_model\.head\.layernorm\.bias", "pool.norm.bias"),
    (r"vision_model\.head\.mlp\.fc1\.(\w+)", r"pool.mlp.in.\1"),
    (r"vision_model\.head\.mlp\.fc2\.(\w+)", r"pool.mlp.out.\1"),
)
CLIP_TEXT: Rules = (
    *((rf"text_model\.{theirs}", ours) for theirs, ours in _CLIP_BLOCK),
    (r"text_model\.embeddings\.token_embedding\.weight", "tokens"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positions"),
    (r"text_model\.final_layer_norm\.weight", "last_norm.scale"),
    (r"text_model\.final_layer_norm\.bias", "last_norm.bias"),
    (r"text_projection\.weight", "layers.0.weight"),
    (r"text_model\.head\.(\w+)", r"layers.0.\1"),
)
# What stands beside the towers in a checkpoint of two.
CLIP_OTHER: Rules = ((r"logit_scale", ""), (r"logit_bias", ""))

_DINO_SCALES: Rules = (
    (r"(?:encoder\.)?layer\.(\d+)\.norm([12])\.weight", r"blocks.\1.norm\2.scale"),
    (r"(?:encoder\.)?layer\.(\d+)\.norm([12])\.bias", r"blocks.\1.norm\2.bias"),
    (r"(?:encoder\.)?layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.scale\2"),
    (r"embeddings\.cls_token", "class"),
    (r"embeddings\.register_tokens", "registers"),
    (r"embeddings\.mask_token", ""),
)
DINO2: Rules = (
    *_DINO_SCALES,
    (r"embeddings\.position_embeddings", "positions"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"blocks.\1.attention.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.out.\2"),
    # The giant model: gate and input in one array, or by themselves.
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(\w+)", r"blocks.\1.mlp.both.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(\w+)", r"blocks.\1.mlp.out.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.gate.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.out.\2"),
    (r"layernorm\.weight", "last_norm.scale"),
    (r"layernorm\.bias", "last_norm.bias"),
)
DINO3: Rules = (
    *_DINO_SCALES,
    (r"embeddings\.patch_embeddings\.(\w+)", r"patch.\1"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.q_proj\.(\w+)", r"blocks.\1.attention.query.\2"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.k_proj\.(\w+)", r"blocks.\1.attention.key.\2"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.v_proj\.(\w+)", r"blocks.\1.attention.value.\2"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.gate.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.out.\2"),
    (r"norm\.weight", "last_norm.scale"),
    (r"norm\.bias", "last_norm.bias"),
)
_BERT_ENDS: Rules = (
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.out.\2"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.weight", r"blocks.\1.norm2.scale"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.bias", r"blocks.\1.norm2.bias"),
    (r"embeddings\.word_embeddings\.weight", "tokens"),
    (r"embeddings\.position_embeddings\.weight", "positions"),
    (r"embeddings\.token_type_embeddings\.weight", "types"),
    (r"embeddings\.LayerNorm\.weight", "first_norm.scale"),
    (r"embeddings\.LayerNorm\.bias", "first_norm.bias"),
    (r"embeddings\.position_ids", ""),
    (r"pooler\.dense\.\w+", ""),
)
BERT: Rules = (
    *_BERT_ENDS,
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(\w+)", r"blocks.\1.attention.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.weight", r"blocks.\1.norm1.scale"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.bias", r"blocks.\1.norm1.bias"),
)
MPNET: Rules = (
    *_BERT_ENDS,
    (r"encoder\.layer\.(\d+)\.attention\.attn\.q\.(\w+)", r"blocks.\1.attention.query.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attn\.k\.(\w+)", r"blocks.\1.attention.key.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attn\.v\.(\w+)", r"blocks.\1.attention.value.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attn\.o\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.LayerNorm\.weight", r"blocks.\1.norm1.scale"),
    (r"encoder\.layer\.(\d+)\.attention\.LayerNorm\.bias", r"blocks.\1.norm1.bias"),
    (r"encoder\.relative_attention_bias\.weight", "relative"),
)
_T5_ATTENTION = r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\."
_T5_MLP = r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\."
T5: Rules = (
    (r"shared\.weight", "tokens"),
    # The same array once more.
    (r"encoder\.embed_tokens\.weight", ""),
    (rf"{_T5_ATTENTION}q\.(\w+)", r"blocks.\1.attention.query.\2"),
    (rf"{_T5_ATTENTION}k\.(\w+)", r"blocks.\1.attention.key.\2"),
    (rf"{_T5_ATTENTION}v\.(\w+)", r"blocks.\1.attention.value.\2"),
    (rf"{_T5_ATTENTION}o\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight", "relative"),
    (r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.weight", r"blocks.\1.norm1.scale"),
    (r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight", r"blocks.\1.norm2.scale"),
    (rf"{_T5_MLP}wi\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (rf"{_T5_MLP}wi_0\.(\w+)", r"blocks.\1.mlp.gate.\2"),
    (rf"{_T5_MLP}wi_1\.(\w+)", r"blocks.\1.mlp.in.\2"),
    (rf"{_T5_MLP}wo\.(\w+)", r"blocks.\1.mlp.out.\2"),
    (r"encoder\.final_layer_norm\.weight", "last_norm.scale"),
    # The decoder of a checkpoint that is not of the encoder alone.
    (r"decoder\..+", ""),
    (r"lm_head\.weight", ""),
)


def ours(theirs: Iterable[str], rules: Rules, others: Rules, prefix: str, where: str) -> dict[str, str]:
    """Returns our names by those of a checkpoint, of the arrays that a tower uses.

    Args:
        theirs: the names in the checkpoint.
        rules: of the tower.
        others: of what is in the checkpoint beside the tower.
        prefix: that names may begin with, such as `bert.`.
        where: the checkpoint.

    Raises:
        UserError: if an array is of no rule, or two are one of ours.
    """
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in (*rules, *((p, "") for p, _ in others))]
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in theirs:
        short = name.removeprefix(prefix) if prefix else name
        matches = ((pattern.fullmatch(short), replacement) for pattern, replacement in patterns)
        match, replacement = next(((match, to) for match, to in matches if match), (None, ""))
        if match is None:
            raise UserError(
                f"{where}: has the array {name}, which is not of the model that its config describes; convert the "
                "model to a SavedModel or ONNX (docs/encoders.md)"
            )
        if replacement:
            place, _, end = match.expand(replacement).rpartition(".")
            name_of_ours = f"{place}.{_WEIGHTS.get(end, end)}" if place else end
            if name_of_ours in taken:
                raise UserError(f"{where}: has {name} twice, with and without {prefix!r}; download the weights again")
            taken.add(name_of_ours)
            found[name] = name_of_ours
    return found
