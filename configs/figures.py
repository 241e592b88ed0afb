"""Figures that others published, by the names of protocols (`protocol.name`): top-1 accuracies in percent.

Not a config of its own: `web-memory evaluate --published` prints them beside ours. Each row has its encoder, since
figures on different encoders say little about methods, and the source in which we read it. Where our sources do not
name the encoder, it is empty, and a group that they do not give is None. Methods whose figures we could not read in a
source are left out: RECO and MML; REAL, SWAT and Tip-Adapter on long-tailed and noisy sets, Tip-Adapter on few-shot
sets other than ImageNet.
"""

from typing import NamedTuple

_PAPER = "Iscen et al., CVPR 2023"
_LIFT = "Shi et al., ICML 2024, as listed by paperswithcode2.com"
_VL_LTR = "ChangyaoTian/VL-LTR, README"
_SWAT = "Liu et al., CVPR 2025, the script of its plots"
# The encoder is that of the authors' configuration (gaopengcuhk/Tip-Adapter). Shots are CoOp's, not SWAT's.
_TIP = "antonioo-c/Tip-Adapter, README"
_KEYS, _BOTH = "ViT-B/16", "ViT-B/16; values ViT-G/14, T5"
_OPEN, _TUNED = "OpenCLIP ViT-B/32", "OpenCLIP ViT-B/32, fine-tuned"


class Figure(NamedTuple):
    """One published row.

    Attributes:
        method: its name there.
        encoder: of the images, and of values where there are any; empty if our sources do not say.
        all: accuracy on all test images, in percent.
        groups: on many-, medium- and few-shot classes; empty if not given.
        source: where we read it.
    """

    method: str
    encoder: str
    all: float
    groups: tuple[float, ...]
    source: str


FIGURES = {
    "imagenet_lt": (
        Figure("linear", _KEYS, 73.5, (76.5, 72.6, 66.5), _PAPER),
        Figure("mlp", _KEYS, 75.2, (80.1, 74.1, 66.9), _PAPER),
        Figure("mean k-NN", _BOTH, 75.8, (75.9, 75.8, 75.7), _PAPER),
        Figure("PaCo", "ResNeXt-101", 60.0, (68.2, 58.7, 41.0), _PAPER),
        Figure("VL-LTR", "CLIP ResNet-50, fine-tuned", 70.1, (), _VL_LTR),
        Figure("VL-LTR", "CLIP ViT-B/16, fine-tuned", 77.2, (84.5, 74.6, 59.3), _PAPER),
        Figure("RAC, rerun (1)", "", 76.7, (80.9, 76.0, 67.5), _PAPER),
        Figure("RAC, rerun (2)", "", 80.5, (85.9, 79.3, 69.3), _PAPER),
        Figure("mam", _BOTH, 78.3, (80.6, 77.5, 74.5), _PAPER),
        Figure("mam, fine-tuned", _BOTH, 82.3, (85.4, 81.5, 76.4), _PAPER),
        Figure("LIFT", "CLIP ViT-B/16, AdaptFormer", 78.3, (), _LIFT),
        Figure("LIFT", "CLIP ViT-L/14, AdaptFormer", 82.9, (), _LIFT),
        Figure("RetFormer", "", 81.9, (), "CVPR 2026, as summarised by papernotes.org"),
    ),
    "places_lt": (
        Figure("linear", _KEYS, 44.3, (44.5, 44.4, 44.0), _PAPER),
        Figure("mlp", _KEYS, 46.0, (48.6, 46.1, 41.3), _PAPER),
        Figure("mean k-NN", _BOTH, 44.9, (44.3, 45.2, 45.5), _PAPER),
        Figure("PaCo", "ResNeXt-101", 41.2, (36.1, 47.9, 35.3), _PAPER),
        Figure("VL-LTR", "CLIP ResNet-50, fine-tuned", 48.0, (), _VL_LTR),
        Figure("VL-LTR", "CLIP ViT-B/16, fine-tuned", 50.1, (54.2, 48.5, 42.0), _PAPER),
        Figure("RAC", "ViT", 47.2, (48.7, 48.3, 41.8), _PAPER),
        Figure("RAC, rerun (1)", "", 47.9, (50.3, 48.3, 42.5), _PAPER),
        Figure("RAC, rerun (2)", "", 50.0, (51.9, 49.8, 46.8), _PAPER),
        Figure("mam", _BOTH, 49.9, (50.9, 49.9, 47.5), _PAPER),
        Figure("mam, fine-tuned", _BOTH, 51.4, (52.4, 52.0, 48.5), _PAPER),
        Figure("LIFT", "CLIP ViT-B/16, AdaptFormer", 52.2, (), _LIFT),
        Figure("LIFT", "CLIP ViT-L/14, AdaptFormer", 53.7, (), _LIFT),
    ),
    "inat18": (
        Figure("VL-LTR", "CLIP ResNet-50, fine-tuned", 74.6, (), _VL_LTR),
        Figure("VL-LTR", "CLIP ViT-B/16, fine-tuned", 76.8, (), _VL_LTR),
        Figure("RAC", "ViT", 80.2, (), "Long et al., CVPR 2022, as listed by wizwand.com"),
        Figure("LIFT", "CLIP ViT-L/14, AdaptFormer", 85.2, (), "Shi et al., ICML 2024, as listed by sotaverified.org"),
    ),
    "inat21_mini": (
        Figure("linear", _KEYS, 58.8, (), _PAPER),
        Figure("mlp", _KEYS, 59.6, (), _PAPER),
        Figure("mean k-NN", _BOTH, 58.9, (), _PAPER),
        Figure("mam", _BOTH, 66.2, (), _PAPER),
    ),
    # The paper does not say which training list it used.
    "webvision": (
        Figure("linear", _KEYS, 78.1, (), _PAPER),
        Figure("mlp", _KEYS, 81.0, (), _PAPER),
        Figure("mean k-NN", _BOTH, 78.2, (), _PAPER),
        Figure("MILe", "", 75.2, (), _PAPER),
        Figure("heteroscedastic", "", 76.6, (), _PAPER),
        Figure("NCR", "", 76.8, (), _PAPER),
        Figure("CurriculumNet", "", 79.3, (), _PAPER),
        Figure("mam", _BOTH, 83.6, (), _PAPER),
    ),
}

# Of the few-shot sets: method, encoder, shots, and a figure for each set in this order. Where a method sees no labelled
# image, its shots are None.
_FEW_SHOT_SETS = (
    *("semi-aves", "fgvc-aircraft", "eurosat", "dtd", "stanford_cars", "food101", "flowers102", "oxford_pets"),
    "imagenet",
)
_FEW_SHOT = (
    ("zero-shot", _OPEN, None, (8.4, 17.1, 51.1, 53.5, 79.2, 77.2, 68.2, 88.7, 63.0)),
    ("REAL-Prompt", _OPEN, None, (43.4, 18.0, 56.9, 59.2, 80.6, 77.1, 76.0, 88.7, 63.6)),
    ("REAL-Linear", _OPEN, None, (49.2, 27.3, 51.5, 61.0, 81.7, 78.0, 79.4, 89.7, 65.5)),
    ("cross-modal linear probe", _OPEN, 4, (29.1, 25.1, 74.8, 62.2, 80.7, 76.7, 88.9, 88.3, 63.2)),
    ("cross-modal linear probe", _OPEN, 8, (38.8, 27.9, 80.6, 67.2, 82.7, 77.3, 92.5, 88.8, 63.1)),
    ("cross-modal linear probe", _OPEN, 16, (46.8, 32.4, 85.2, 71.9, 84.7, 77.5, 95.5, 89.1, 63.1)),
    ("CLAP", _OPEN, 4, (34.0, 28.0, 74.7, 63.0, 84.9, 76.7, 90.1, 87.0, 64.0)),
    ("CLAP", _OPEN, 8, (42.9, 33.6, 77.4, 66.4, 86.1, 77.5, 92.9, 87.8, 65.6)),
    ("CLAP", _OPEN, 16, (49.2, 39.1, 81.7, 69.9, 87.8, 78.5, 94.8, 88.4, 67.1)),
    ("fine-tuned without memory", _TUNED, 4, (48.0, 28.8, 81.8, 66.7, 82.5, 76.1, 92.2, 89.0, 62.4)),
    ("fine-tuned without memory", _TUNED, 8, (52.3, 35.4, 89.4, 70.6, 85.3, 77.0, 95.2, 89.6, 64.8)),
    ("fine-tuned without memory", _TUNED, 16, (56.5, 42.7, 94.3, 73.4, 87.8, 78.2, 97.1, 89.6, 66.9)),
    ("SWAT", _TUNED, 4, (58.5, 55.7, 83.4, 58.3, 81.1, 77.3, 90.6, 91.3, 65.8)),
    ("SWAT", _TUNED, 8, (61.3, 59.1, 88.7, 62.6, 83.5, 77.6, 94.1, 91.5, 66.6)),
    ("SWAT", _TUNED, 16, (63.1, 62.4, 92.9, 66.3, 85.4, 78.3, 96.4, 91.6, 67.6)),
    ("SWAT+", _TUNED, 4, (59.9, 55.6, 83.4, 61.5, 83.7, 77.9, 94.2, 91.6, 66.6)),
    ("SWAT+", _TUNED, 8, (62.7, 56.8, 89.7, 67.0, 87.0, 78.4, 96.7, 91.9, 68.1)),
    ("SWAT+", _TUNED, 16, (64.7, 60.2, 93.5, 69.8, 89.2, 79.1, 98.3, 92.2, 69.3)),
)
FIGURES |= {
    f"few_shot/{name}/{shots}": tuple(
        Figure(method, encoder, figures[place], (), _SWAT)
        for method, encoder, seen, figures in _FEW_SHOT
        if seen in (None, shots)
    )
    for place, name in enumerate(_FEW_SHOT_SETS)
    for shots in (4, 8, 16)
}
for _shots, _frozen, _trained in ((4, 60.98, 62.52), (8, 61.45, 64.00), (16, 62.01, 65.51)):
    FIGURES[f"few_shot/imagenet/{_shots}"] += (
        Figure("Tip-Adapter", "CLIP ResNet-50", _frozen, (), _TIP),
        Figure("Tip-Adapter-F", "CLIP ResNet-50", _trained, (), _TIP),
    )
