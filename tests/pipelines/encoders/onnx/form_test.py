"""What is read of an ONNX file: facts that are known, and bytes that are none."""

import numpy as np
import pytest

from pipelines.encoders.onnx import form
from pipelines.encoders.onnx.form import Tensor
from pipelines.errors import UserError
from tests.pipelines.encoders.onnx import built


def _read(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return form.read(path)


def test_facts_of_a_file(tmp_path):
    found = _read(tmp_path, built.image_model(location="a/weights.bin", more=["negative"]))
    assert found.inputs == {"pixels": Tensor("float32", (0, 3, built.SIZE, built.SIZE))}
    assert found.outputs == {name: Tensor("float32", (0, built.DIM)) for name in ("vectors", "negative")}
    assert (found.external, found.parameters, found.scales_by_batch) == (("a/weights.bin",), built.WEIGHTS.size, False)
    assert str(found.inputs["pixels"]) == "float32 [?, 3, 4, 4]"


def test_weights_are_no_inputs_and_shapes_no_weights(tmp_path):
    data = built.text_model() + built.field(7, built.field(11, built.value("table", "float32", (4, 3))))
    found = _read(tmp_path, data)
    assert list(found.inputs) == ["input_ids", "attention_mask"]
    assert found.parameters == built.TABLE.size + 1


def test_weights_of_inner_graphs_count_and_their_files_are_found(tmp_path):
    inner = built.field(1, built.node("Blur", ["x"], ["y"])) + built.field(
        5, built.tensor("w", np.ones(5, "f"), "w.bin")
    )
    data = built.model([built.node("If", ["x"], ["y"], then_branch=inner)], [], [built.value("y", "float32", ("b", 3))])
    found = _read(tmp_path, data)
    assert (found.external, found.parameters) == (("w.bin",), 5)
    hidden = built.field(1, built.node("Run", ["x"], ["y"], domain="evil"))
    with pytest.raises(UserError, match="has the operator Run of evil"):
        _read(
            tmp_path,
            built.model([built.node("If", ["x"], ["y"], then_branch=hidden)], [], [built.value("y", "float32", (1,))]),
        )


@pytest.mark.parametrize("name", ["EPContext", "PythonOp"])
def test_operators_that_leave_onnxruntime_are_refused(tmp_path, name):
    data = built.model(
        [built.node(name, ["x"], ["y"], domain="com.microsoft")], [], [built.value("y", "float32", (1,))]
    )
    with pytest.raises(UserError, match=f"has the operator {name} of com.microsoft"):
        _read(tmp_path, data)


def test_graphs_without_end_are_refused(tmp_path):
    inner = b""
    for _ in range(2000):
        inner = built.field(1, built.node("If", [], [], then_branch=inner))
    with pytest.raises(UserError, match="is not an ONNX file, or is damaged"):
        _read(tmp_path, built.field(7, inner))


def test_any_bytes_are_a_file_or_one_sentence(tmp_path):
    """Each case changes, cuts or doubles bytes of whole files."""
    rng = np.random.default_rng(0)
    seeds = [built.image_model(), built.text_model(), built.image_model(location="w.bin", more=["b"])]
    refused = 0
    for case in range(600):
        data = bytearray(seeds[case % len(seeds)])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        if case % 5 == 0:
            del data[rng.integers(len(data)) :]
        try:
            _read(tmp_path, bytes(data))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100
