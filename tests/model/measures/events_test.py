"""Events as TensorBoard's own reader sees them."""

import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from model.measures.events import Events, write_picture

_SETTINGS = {"head": "mam", "seed": 3, "learning_rate": 0.01, "values": ("image", "text"), "start_at_names": True}
_LINES = [{"step": 10, "loss": 2.0, "val_all": 0.25}, {"step": 20, "loss": 1.5, "val_all": 0.5}]


def _log(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def read(folder):
    """Returns the curves of a folder, `{name: [(step, value)]}`, and its accumulator."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, events


def _hparams(events, tag):
    content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_hyperparameters_and_curves(tmp_path):
    events = Events(tmp_path, _SETTINGS, b"")
    for line in _LINES:
        events.write(line["step"], {name: value for name, value in line.items() if name != "step"})
    events.finish()
    curves, found = read(tmp_path)
    assert curves == {"loss": [(10, 2.0), (20, 1.5)], "val_all": [(10, 0.25), (20, 0.5)]}
    start = _hparams(found, "session_start_info").session_start_info.hparams
    assert {name: start[name].WhichOneof("kind") for name in start} == {
        "head": "string_value",
        "seed": "number_value",
        "learning_rate": "number_value",
        "values": "string_value",
        "start_at_names": "bool_value",
    }
    assert (start["head"].string_value, start["seed"].number_value) == ("mam", 3)
    assert (start["learning_rate"].number_value, start["values"].string_value) == (0.01, "('image', 'text')")
    metrics = [info.name.tag for info in _hparams(found, "experiment").experiment.metric_infos]
    assert metrics == ["val_all", "loss"] and set(metrics) <= set(curves)
    assert _hparams(found, "session_end_info").session_end_info.status == 1


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_resumed_run_has_each_step_once(tmp_path, kept):
    killed = Events(tmp_path, _SETTINGS, b"")
    for line in _LINES:
        killed.write(line["step"], {"loss": -1.0})
    killed.close()
    resumed = Events(tmp_path, _SETTINGS, _log(_LINES[:kept]))
    for line in _LINES[kept:]:
        resumed.write(line["step"], {"loss": line["loss"], "val_all": line["val_all"]})
    resumed.finish()
    curves, found = read(tmp_path)
    assert curves == {"loss": [(10, 2.0), (20, 1.5)], "val_all": [(10, 0.25), (20, 0.5)]}
    assert found.Tags()["scalars"] == ["loss", "val_all"]


def test_a_picture_replaces_the_one_before(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for picture in (255 - pixels, pixels):
        Image.fromarray(picture).save(tmp_path / "gallery.png")
        write_picture(str(tmp_path / "gallery"), "attention", str(tmp_path / "gallery.png"))
    _, found = read(tmp_path / "gallery")
    (image,) = found.Images("attention")
    (tmp_path / "read.png").write_bytes(image.encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "read.png")), pixels)
