"""Figures that others published, by the names of protocols (`protocol.name`): top-1 accuracies in percent.

Not a config of its own: `web-memory evaluate --published` prints them beside ours. Each row has its encoder, since
figures on different encoders say little about methods, and the source in which we read it. Where our sources do not
name the encoder, it is empty, and a group that they do not give is None. Methods whose figures we could not read in a
source are left out: RECO, MML, REAL, SWAT and Tip-Adapter on these sets.
"""

from typing import NamedTuple

_PAPER = "Iscen et al., CVPR 2023"
_LIFT = "Shi et al., ICML 2024, as listed by paperswithcode2.com"
_VL_LTR = "ChangyaoTian/VL-LTR, README"
_KEYS, _BOTH = "ViT-B/16", "ViT-B/16; values ViT-G/14, T5"


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
