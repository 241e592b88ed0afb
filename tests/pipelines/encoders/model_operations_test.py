"""SavedModels that reach files, sockets, processes or Python are refused before they are loaded; others are not."""

import pathlib
import time

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pipelines.encoders import model_operations
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder
from pipelines.errors import UserError
from tests.pipelines.encoders import made

_IMAGES = tf.TensorSpec([None, made.SIZE, made.SIZE, 3], tf.uint8)


def _save(folder: pathlib.Path, beside) -> pathlib.Path:
    """Saves a model that, beside the mean colour, does something else with the path of a file; returns its file."""

    class Beside(tf.Module):
        def __init__(self):
            super().__init__()
            self.factor = tf.Variable([[1.0, 2.0, 3.0]])

        @tf.function(input_signature=[_IMAGES])
        def __call__(self, images):
            with tf.control_dependencies([beside(tf.constant(str(folder / "target")))]):
                return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) * self.factor

    tf.saved_model.save(Beside(), str(folder / "model"))
    return folder / "model/saved_model.pb"


def _python(path):
    return tf.py_function(lambda p: p, [path], tf.string)


def _numpy(path):
    return tf.numpy_function(lambda p: p, [path], tf.string)


def _checkpoint(path):
    return tf.raw_ops.RestoreV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[0]


def _save_tensor(path):
    return tf.raw_ops.SaveV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros([1])])


def _dataset(path):
    return tf.data.TextLineDataset(path).reduce(0, lambda total, _: total + 1)


def _summary(path):
    return tf.raw_ops.CreateSummaryFileWriter(
        writer=tf.raw_ops.SummaryWriter(), logdir=path, max_queue=1, flush_millis=1, filename_suffix=""
    )


def _in_a_branch(path):
    return tf.cond(tf.equal(path, ""), lambda: tf.io.read_file(path), lambda: path)


def _in_a_nested_function(path):
    @tf.function
    def inner(path):
        return tf.map_fn(tf.io.read_file, path[None])

    return inner(path)


@pytest.mark.parametrize(
    ("beside", "operation"),
    [
        (tf.io.read_file, "ReadFile"),
        (lambda path: tf.io.write_file(path, "x"), "WriteFile"),
        (tf.io.matching_files, "MatchingFiles"),
        (lambda path: tf.print("x", output_stream="file:///tmp/target"), "PrintV2"),
        (_python, "EagerPyFunc"),
        (_numpy, "PyFunc"),
        (_save_tensor, "SaveV2"),
        (lambda path: tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[path], destination_prefix=path), "MergeV2"),
        (_checkpoint, "RestoreV2"),
        (_dataset, "Dataset, which can read data of their own"),
        (_in_a_branch, "ReadFile"),
        (_in_a_nested_function, "ReadFile"),
        (lambda path: tf.raw_ops.DebugIdentityV2(input=path, debug_urls=["file:///tmp/x"]), "DebugIdentityV2"),
        (lambda path: tf.raw_ops.LMDBReader(), "LMDBReader"),
        (_summary, "SummaryWriter"),
        (
            lambda path: tf.raw_ops.FixedUnigramCandidateSampler(
                true_classes=[[1]], num_true=1, num_sampled=1, unique=True, range_max=3, vocab_file="/etc/passwd"
            )[0],
            "FixedUnigram",
        ),
    ],
)
def test_operations_that_reach_beyond_tensors_are_refused(tmp_path, beside, operation):
    file = _save(tmp_path, beside)
    with pytest.raises(UserError) as caught:
        model_operations.check(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and " has the operation " in message and operation in message
    assert "a model that you trust is loaded with --config.encoders.unsafe_models=true" in message
    assert not (tmp_path / "target").exists()


def test_a_model_is_refused_at_launch_and_when_it_is_loaded_unless_allowed(describe, tmp_path):
    handle = describe(made.Plain, made.IMAGE)
    safe = resolve(handle, "float32")
    target = tmp_path / "written"

    class Writing(made.Model):
        @tf.function(input_signature=[_IMAGES])
        def __call__(self, images):
            with tf.control_dependencies([tf.io.write_file(str(target), "x")]):
                return self._mean(images)

    description = (tmp_path / "encoder/encoder.json").read_bytes()
    tf.saved_model.save(Writing(), handle)
    (tmp_path / "encoder/encoder.json").write_bytes(description)
    with pytest.raises(UserError, match="the operation WriteFile, which can read or write files"):
        resolve(handle, "float32")
    # The files have changed since the command was started.
    with pytest.raises(UserError, match="WriteFile"):
        ImageEncoder(safe)
    assert not target.exists()
    allowed = resolve(handle, "float32", unsafe_models=True)
    ImageEncoder(allowed).encode(made.images(), made.BATCH)
    assert target.read_text() == "x"


class _Vocabulary(tf.Module):
    """A table that is filled from a file: the model's own, or one beside it."""

    def __init__(self, file, beside=False):
        super().__init__()
        keys = tf.lookup.TextFileIndex
        self.file = tf.saved_model.Asset(file) if not beside else None
        init = tf.lookup.TextFileInitializer(file, tf.string, keys.WHOLE_LINE, tf.int64, keys.LINE_NUMBER)
        self.table = tf.lookup.StaticHashTable(init, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return tf.cast(self.table.lookup(texts), tf.float32)[:, None]


def test_what_models_are_made_of_is_allowed(models, tmp_path):
    for kind in (made.Plain, made.Signatures, made.Tuple, made.Strings):
        model_operations.check(models(kind) / "saved_model.pb")
    (tmp_path / "vocabulary.txt").write_text("a\nb\n")
    tf.saved_model.save(_Vocabulary(str(tmp_path / "vocabulary.txt")), str(tmp_path / "model"))
    model_operations.check(tmp_path / "model/saved_model.pb")
    # Saved again after loading, its functions are one call deeper.
    tf.saved_model.save(tf.saved_model.load(str(tmp_path / "model")), str(tmp_path / "again"))
    model_operations.check(tmp_path / "again/saved_model.pb")
    printing = _save(tmp_path / "printing", lambda path: tf.print("to standard error", path))
    model_operations.check(printing)


def _changed(file: pathlib.Path, change) -> pathlib.Path:
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "a/../../secret"])
def test_a_vocabulary_of_another_folder_is_refused(tmp_path, path):
    (tmp_path / "vocabulary.txt").write_text("a\nb\n")
    tf.saved_model.save(_Vocabulary(str(tmp_path / "vocabulary.txt")), str(tmp_path / "model"))

    def change(graph):
        graph.asset_file_def[0].filename = path

    file = _changed(tmp_path / "model/saved_model.pb", change)
    with pytest.raises(UserError, match=f"the asset '{path}' has the operation Asset, which can read or write files"):
        model_operations.check(file)


def test_a_table_of_a_path_in_the_graph_is_refused(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("a\nb\n")
    tf.saved_model.save(_Vocabulary(str(tmp_path / "vocabulary.txt")), str(tmp_path / "model"))

    def change(graph):
        node = graph.graph_def.node.add(name="path", op="Const")
        node.attr["value"].tensor.string_val.append(b"/etc/passwd")

    with pytest.raises(UserError, match="beside the path '/etc/passwd' it has the operation InitializeTableFromText"):
        model_operations.check(_changed(tmp_path / "model/saved_model.pb", change))


def _saved_by_tensorflow_1(folder: pathlib.Path, beside) -> pathlib.Path:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.uint8, _IMAGES.shape)
        factor = v1.get_variable("factor", initializer=[[1.0, 2.0, 3.0]])
        with tf.control_dependencies(beside()):
            mean = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) * factor
        session.run(v1.global_variables_initializer())
        # One of these is that of a checkpoint while training.
        v1.train.Saver()
        v1.saved_model.simple_save(session, str(folder / "model"), {"images": images}, {"mean": mean})
    return folder / "model/saved_model.pb"


def test_models_of_tensorflow_1(tmp_path):
    model_operations.check(_saved_by_tensorflow_1(tmp_path / "plain", list))

    def saving():
        return [tf.raw_ops.SaveV2(prefix="x", tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros([1])])]

    file = _saved_by_tensorflow_1(tmp_path / "saving", saving)
    with pytest.raises(UserError, match="what it computes has the operation SaveV2"):
        model_operations.check(file)

    def write_when_restored(graph):
        node = next(node for node in graph.graph_def.node if node.op == "SaveV2")
        restore = next(node for node in graph.graph_def.node if node.name == graph.saver_def.restore_op_name)
        restore.input.append(f"^{node.name}")

    file = _changed(_saved_by_tensorflow_1(tmp_path / "restoring", list), write_when_restored)
    with pytest.raises(UserError, match="its restoring has the operation SaveV2"):
        model_operations.check(file)


@pytest.mark.parametrize(
    ("module", "refused"), [(b"..stablehlo.add..", False), (b"..custom_call_v1..xla_python_cpu_callback", True)]
)
def test_compiled_modules_may_not_call_what_is_outside(tmp_path, models, module, refused):
    model = saved_model_pb2.SavedModel.FromString((models(made.Plain) / "saved_model.pb").read_bytes())
    model.meta_graphs[0].graph_def.node.add(op="XlaCallModule", name="m").attr["module"].s = module
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    if refused:
        with pytest.raises(UserError, match="XlaCallModule, which can run code of their own"):
            model_operations.check(tmp_path / "saved_model.pb")
    else:
        model_operations.check(tmp_path / "saved_model.pb")


def test_a_broken_file_is_worded(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xfe nothing")
    with pytest.raises(UserError, match="saved_model.pb: TensorFlow cannot load this SavedModel"):
        model_operations.check(tmp_path / "saved_model.pb")


def test_a_large_graph_takes_no_time(tmp_path, models):
    model = saved_model_pb2.SavedModel.FromString((models(made.Plain) / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    for number in range(20_000):
        graph.node.add(name=f"n{number}", op="Identity", input=[f"n{number - 1}"])
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    begin = time.process_time()
    model_operations.check(tmp_path / "saved_model.pb")
    assert time.process_time() - begin < 2
