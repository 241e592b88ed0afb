"""Handles of models that are not read here, each with the way to a model that is."""

import re

from pipelines import storage

_ONNX = "export it by torch.onnx.export or optimum-cli and describe the .onnx in an encoder.json"
_PYTORCH = (
    "is a pickle of PyTorch, which may run any code and is never read; load it where you trust it, save it by "
    "transformers with model.save_pretrained(FOLDER, safe_serialization=True) and name hf:FOLDER#image or "
    f"hf:FOLDER#text, or {_ONNX}"
)
_KERAS = (
    "is a file of Keras, which may run any code and is never read; load it in Keras, call model.export(FOLDER) and "
)
_HUB = "a model of the Hugging Face Hub is named hf:{0}#image or hf:{0}#text"
_SUFFIXES = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _PYTORCH),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), f"{_KERAS}describe that SavedModel in an encoder.json"),
    ".safetensors": "holds weights alone; name the folder that has its config.json, hf:FOLDER#image or hf:FOLDER#text",
}
_LIBRARY = re.compile(
    r"(?:hf[-_]hub:|timm[/:]|open_clip[/:])(?P<name>.*)|"
    r"(?:ViT-|RN\d|EVA\d|ViTamin-|MobileCLIP|coca_|convnext_|roberta-ViT|xlm-roberta-|nllb-clip|vit_|deit\d?_|resnet\d)"
    r"[\w.-]*(?:/[\w.-]+)?"
)
_OF_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def advice(handle: str) -> str:
    """Returns what a handle that names no encoder seems to be and what to do; empty if that is unknown.

    Args:
        handle: a name, or a path.

    Returns:
        The end of a sentence that begins with the handle.
    """
    for suffix, sentence in _SUFFIXES.items():
        if handle.endswith(suffix):
            return sentence
    if storage.exists(storage.join(handle, "config.json")):
        return f"is a folder of transformers; say which tower is meant, hf:{handle}#image or hf:{handle}#text"
    if storage.exists(handle):
        return ""
    if match := _LIBRARY.fullmatch(handle):
        place = match["name"] if match["name"] and "/" in match["name"] else "ORG/NAME"
        return (
            f"is a name of timm or open_clip, which are not loaded here; name hf:{place}#image if its folder is one of "
            f"transformers, else {_ONNX}"
        )
    if _OF_HUB.fullmatch(handle):
        return f"there is no such folder here; {_HUB.format(handle)}"
    return ""
