"""`preprocessor_config.json` as transformers writes and wrote it, and every refusal."""

import json

import pytest

from pipelines.encoders.towers.hugging_face import preprocessing
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
FLAGS = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True}
RESCALE = {"rescale_factor": 0.00392156862745098}
SQUARE = {"height": 224, "width": 224}
CENTER = {"size": 224, "crop": "center_rounded", "resize": "bicubic"}
SQUASH = {"size": 224, "crop": "squash", "resize": "bicubic"}
FILES = {
    "CLIP, transformers 5": (
        {**FLAGS, **RESCALE, **CLIP, "do_center_crop": True, "crop_size": SQUARE, "size": {"shortest_edge": 224}},
        {**CENTER, "crop_fraction": 1.0},
        CLIP,
    ),
    "CLIP of 2021": (
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "resample": 3,
            "size": 224,
            **CLIP,
        },
        {**CENTER, "crop_fraction": 1.0},
        CLIP,
    ),
    "OpenCLIP of 2022": (
        {
            "crop_size": SQUARE,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "image_processor_type": "CLIPImageProcessor",
            "resample": 3,
            "size": {"shortest_edge": 224},
            **CLIP,
        },
        {**CENTER, "crop_fraction": 1.0},
        CLIP,
    ),
    "MetaCLIP 2": (
        {
            **FLAGS,
            **RESCALE,
            **CLIP,
            "do_center_crop": True,
            "crop_size": {"height": 378, "width": 378},
            "size": {"shortest_edge": 378},
            "resample": 3,
            "data_format": "channels_first",
            "device": None,
            "disable_grouping": None,
            "do_pad": None,
            "image_processor_type": "CLIPImageProcessorFast",
        },
        {**CENTER, "size": 378, "crop_fraction": 1.0},
        CLIP,
    ),
    "SigLIP of 2024": (
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "size": SQUARE,
            **RESCALE,
            **HALF,
        },
        SQUASH,
        HALF,
    ),
    "SigLIP 2 of fixed resolution": (
        {**FLAGS, **RESCALE, **HALF, "do_convert_rgb": None, "resample": 2, "size": SQUARE},
        {**SQUASH, "resize": "bilinear"},
        HALF,
    ),
    "DINOv2": (
        {
            **FLAGS,
            **RESCALE,
            **IMAGENET,
            "do_center_crop": True,
            "crop_size": SQUARE,
            "image_processor_type": "BitImageProcessor",
            "resample": 3,
            "size": {"shortest_edge": 256},
        },
        {**CENTER, "crop_fraction": 224 / 256},
        IMAGENET,
    ),
    "DINOv3": (
        {
            **FLAGS,
            **RESCALE,
            **IMAGENET,
            "do_center_crop": None,
            "crop_size": None,
            "image_processor_type": "DINOv3ViTImageProcessorFast",
            "resample": 2,
            "size": SQUARE,
        },
        {**SQUASH, "resize": "bilinear"},
        IMAGENET,
    ),
    "one number, not cropped": ({**HALF, "size": 224, "resample": 1}, {**SQUASH, "resize": "lanczos"}, HALF),
    "both sides, cropped to the same": (
        {**HALF, "size": SQUARE, "do_center_crop": True, "crop_size": SQUARE},
        SQUASH,
        HALF,
    ),
}


def read(folder, fields):
    (folder / preprocessing.FILE).write_text(json.dumps(fields))
    return preprocessing.read(folder)


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_as_transformers_reads_them(name, tmp_path):
    fields, preprocess, scales = FILES[name]
    found = read(tmp_path, fields)
    assert found.preprocess == preprocess
    assert [found.mean, found.std] == [tuple(scales["image_mean"]), tuple(scales["image_std"])]
    ImagePreprocess(**found.preprocess).check()


def test_dino2_resizes_to_256_before_it_crops(tmp_path):
    assert ImagePreprocess(**read(tmp_path, FILES["DINOv2"][0]).preprocess).resized_side == 256


def test_pixels_may_stay_from_0_to_1(tmp_path):
    found = read(tmp_path, {"do_normalize": False, "size": SQUARE})
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"do_resize": False}, "'do_resize' is false"),
        ({"resample": 0}, "'resample' is 0, not one of 1, 2, 3, 4"),
        ({"resample": "bicubic"}, "'resample' is 'bicubic'"),
        ({"resample": [3]}, "'resample' is"),
        ({"do_rescale": False}, "'rescale_factor' is not 1/255"),
        ({"rescale_factor": 1 / 127.5}, "'rescale_factor' is not 1/255"),
        ({"rescale_factor": "1/255"}, "'rescale_factor' is not 1/255"),
        ({"image_mean": None}, "must be three numbers each"),
        ({"image_mean": [0.5]}, "must be three numbers each"),
        ({"image_mean": [0.5, 0.5, "0.5"]}, "must be three numbers each"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "must be three numbers each"),
        ({"image_std": [0.5, 0.5, 0]}, "must be three numbers each"),
        ({"size": None}, "give no square image"),
        ({"size": {"height": 224, "width": 448}}, "give no square image"),
        ({"size": {"shortest_edge": 224}}, "give no square image"),
        ({"size": {"max_num_patches": 256}}, "give no square image"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 256}, "give no square image"),
        ({"do_center_crop": True, "crop_size": 128}, "give no square image"),
        ({"size": {"height": [1], "width": [1]}}, "give no square image"),
        ({"size": -1}, "give no square image"),
        ({"do_pad": True}, "'do_pad' is true"),
    ],
)
def test_what_is_not_done_here_is_refused(changes, what, tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, {**HALF, "size": SQUARE, **changes})
    assert what in str(error.value) and preprocessing.FILE in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no preprocessor_config.json"):
        preprocessing.read(tmp_path)
