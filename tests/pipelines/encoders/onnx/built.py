"""ONNX files of a few weights, written field by field, and the vectors that NumPy gives for them."""

import json

import numpy as np
import tokenizers

SIZE, DIM = 4, 3
WEIGHTS = np.random.default_rng(3).normal(size=(3, DIM)).astype(np.float32)
WORDS = {"[UNK]": 0, "red": 1, "dog": 2, "cat": 3}
TABLE = np.random.default_rng(4).normal(size=(len(WORDS), DIM)).astype(np.float32)
TYPES = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "string": 8, "float16": 10}
IMAGE = {
    "name": "tiny",
    "kind": "image",
    "dim": DIM,
    "preprocess": {
        "size": SIZE,
        "value_range": [0, 1],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "layout": "channels_first",
    },
}
TEXT = {"name": "tiny", "kind": "text", "dim": DIM, "preprocess": {"tokenizer": "tokenizer.json", "max_tokens": 16}}


def _varint(number):
    number &= (1 << 64) - 1
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number, value):
    """Returns a field: a number, or a text, or the bytes of a message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def tensor(name, array, location=None):
    """Returns a TensorProto; the values are in the file `location`, if there is one."""
    array = np.asarray(array)
    parts = [field(1, size) for size in array.shape] + [field(2, TYPES[array.dtype.name]), field(8, name)]
    if location is None:
        return b"".join(parts) + field(9, array.tobytes())
    entries = {"location": location, "offset": "0", "length": str(array.nbytes)}
    parts += [field(13, field(1, key) + field(2, value)) for key, value in entries.items()]
    return b"".join(parts) + field(14, 1)


def node(kind, inputs, outputs, domain="", **attributes):
    parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs] + [field(4, kind)]
    for name, value in attributes.items():
        if isinstance(value, bytes):
            attribute = field(6, value) + field(20, 5)
        elif isinstance(value, int):
            attribute = field(3, value) + field(20, 2)
        else:
            attribute = b"".join(field(8, number) for number in value) + field(20, 7)
        parts.append(field(5, field(1, name) + attribute))
    return b"".join(parts) + (field(7, domain) if domain else b"")


def value(name, dtype, shape):
    """Returns a ValueInfoProto; a dimension of any size is given by its name."""
    sizes = [field(1, field(2 if isinstance(size, str) else 1, size)) for size in shape]
    return field(1, name) + field(2, field(1, field(1, TYPES[dtype]) + field(2, b"".join(sizes))))


def model(nodes, inputs, outputs, weights=(), domains=(), functions=()):
    graph = b"".join(
        [
            *(field(1, part) for part in nodes),
            field(2, "graph"),
            *(field(5, part) for part in weights),
            *(field(11, part) for part in inputs),
            *(field(12, part) for part in outputs),
        ]
    )
    opsets = field(8, field(1, "") + field(2, 17)) + b"".join(field(8, field(1, d) + field(2, 1)) for d in domains)
    return field(1, 8) + field(7, graph) + opsets + b"".join(field(25, part) for part in functions)


def image_model(batch="batch", shape=(3, SIZE, SIZE), dtype="float32", location=None, more=(), **form):
    """Returns a model of the mean colour; with more outputs, of the same values negated under these names."""
    axes = (2, 3) if shape[0] == 3 else (1, 2)
    nodes = [
        node("Cast", ["pixels"], ["floats"], to=1),
        node("ReduceMean", ["floats"], ["colour"], axes=axes, keepdims=0),
        node("MatMul", ["colour", "weights"], ["vectors"]),
        *(node("Neg", ["vectors"], [name]) for name in more),
    ]
    outputs = [value(name, "float32", ("batch", DIM)) for name in ("vectors", *more)]
    weights = [tensor("weights", WEIGHTS, location)]
    return model(nodes, [value("pixels", dtype, (batch, *shape))], outputs, weights, **form)


def mean_colour(images, preprocess=IMAGE["preprocess"]):
    """Returns the vectors `[n, DIM]` of images uint8, in float64."""
    scaled = (np.asarray(images, np.float64) / 255 - preprocess["mean"]) / preprocess["std"]
    return scaled.mean((1, 2)) @ WEIGHTS.astype(np.float64)


def text_model(names=("input_ids", "attention_mask"), dtype="int64", shape=("batch", "tokens"), pooled=True):
    """Returns a model of the mean of word vectors; if it is not pooled, of the word vectors."""
    ids, *rest = names
    nodes = [node("Gather", ["table", ids], ["words"])]
    if rest:
        nodes += [
            node("Cast", [rest[0]], ["kept"], to=1),
            node("Unsqueeze", ["kept", "two"], ["column"]),
            node("Mul", ["words", "column"], ["masked"]),
            node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
            node("ReduceSum", ["kept", "one"], ["count"], keepdims=1),
            node("Max", ["count", "least"], ["divisor"]),
            node("Div", ["sum", "divisor"], ["vectors"]),
        ]
    else:
        nodes += [node("ReduceSum", ["words", "one"], ["vectors"], keepdims=0)]
    if rest[1:]:
        # It sees the types, too: they must be 0.
        nodes[-1:] = [
            node("Cast", [rest[1]], ["types"], to=1),
            node("ReduceSum", ["types", "one"], ["typed"], keepdims=1),
            node("Div", ["sum", "divisor"], ["untyped"]),
            node("Add", ["untyped", "typed"], ["vectors"]),
        ]
    numbers = {"two": [2], "one": [1]}
    weights = [tensor(name, np.array(n, np.int64)) for name, n in numbers.items()] + [tensor("table", TABLE)]
    weights.append(tensor("least", np.array([[1]], np.float32)))
    output = ("vectors", (shape[0], DIM)) if pooled else ("words", (*shape, DIM))
    return model(
        nodes, [value(name, dtype, shape) for name in names], [value(output[0], "float32", output[1])], weights
    )


def mean_words(texts):
    """Returns the vectors `[n, DIM]` of texts, in float64; 0 for an empty one."""
    rows = [[WORDS.get(word, 0) for word in (text or "").split()] for text in texts]
    table = TABLE.astype(np.float64)
    return np.stack([table[row].mean(0) if row else np.zeros(DIM) for row in rows])


def write(folder, data, description, file="model.onnx"):
    """Writes a model, its description and a tokenizer to a folder; returns the path of the model as a handle."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(data)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "encoder.json").write_text(json.dumps(description))
    return str(folder / file)
