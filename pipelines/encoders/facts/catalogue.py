"""What can be named as an encoder."""

from pipelines.encoders import builtin
from pipelines.encoders.handles import PUBLISHED

_FORMS = {
    "hf:FOLDER#image, hf:FOLDER#text": "one tower of a folder of transformers, with safetensors",
    "hf:ORG/NAME#image, hf:ORG/NAME#text": "the same, downloaded from the Hugging Face Hub",
    "FOLDER": "a TensorFlow 2 SavedModel with an encoder.json in it",
    "FILE.onnx": "an ONNX file with an encoder.json beside it, run by onnxruntime",
    "FILE.json": "a description whose field 'model' names a folder, file or URL",
    "FILE.npz#image, FILE.npz#text": "one tower of SigLIP, SigLIP 2 or TIPSv2",
    "FILE.npz": "the tower of images, also of Vision Transformers of augreg and big_vision",
    "precomputed:NAME": "vectors that a source provides; no model is loaded",
}


def rows() -> dict[str, str]:
    """Returns what each handle, or form of handles, stands for; those with a name of their own come first."""
    found = {
        name: f"{encoder.kind}, {encoder.dim:,} values, built in from {encoder.package}=={encoder.version}"
        for name, encoder in builtin.ENCODERS.items()
    }
    published = {
        url: f"{form['kind']}, {form['dim']:,} values, downloaded by tensorflow_hub" for url, form in PUBLISHED.items()
    }
    return found | published | _FORMS
