import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from configs.base import Config
from pipelines import fields, options, progress
from pipelines.errors import UserError


def _parse(*argv):
    config, _, rest = options.parse(["--config=configs/demo.py", *argv], "test")
    return config, rest


def test_overrides_reach_nested_fields_with_their_types():
    config, rest = _parse(
        "--config.index.shards=3",
        "--config.train.learning_rates=0.1,0.2",
        "--config.workdir=x",
        "--config.train.seeds=7",
    )
    assert config.index.shards == 3
    assert config.train.learning_rates == (0.1, 0.2)
    assert config.train.seeds == (7,)
    assert config.workdir == "x"
    assert rest == []


def test_other_flags_are_kept_in_order():
    _, rest = _parse("--runner=FnApiRunner", "--config.seed=1", "--direct_num_workers=2")
    assert rest == ["--runner=FnApiRunner", "--direct_num_workers=2"]


def test_an_override_changes_nothing_else():
    config, _ = _parse("--config.index.shards=3")
    default, _ = _parse()
    assert dataclasses.replace(config, index=default.index) == default


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config.index.shard=3", "no field 'shard'; did you mean 'shards'"),
        ("--config.indx.shards=3", "no field 'indx'; did you mean 'index'"),
        ("--config.index.shards=two", "must be of type int"),
        ("--config.index=3", "name a field below 'index'"),
        ("--config.seed.x=3", "'seed' has no fields below it"),
        ("--config.train.tau=nan", "--config.train.tau=nan: must be finite"),
        ("--config.train.learning_rates=0.1,inf", "must be finite"),
        ("--config.seed", "give the value as --config.seed=VALUE"),
        ("--config.train.seeds=0,x", "must be of type int"),
    ],
)
def test_mistakes_are_worded(flag, sentence):
    with pytest.raises(UserError, match=sentence):
        _parse(flag)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "no attribute 'get_config'"),
        ("def get_config(): return 3", "must return a configs.base.Config, not int"),
        ("import nonsense_module", "No module named 'nonsense_module'"),
    ],
)
def test_a_broken_config_file(tmp_path, content, sentence):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(UserError, match=sentence):
        options.load(str(file))


def test_a_missing_config_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean 'configs/demo.py'"):
        options.load("configs/dmo.py")


def test_configs_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(options.load("configs/tiny_imagenet_lt.py"), Config)


def _fails(config):
    raise UserError("the sentence")


def test_main_ends_in_one_sentence_and_exit_code_2(capsys):
    assert options.main(_fails, "test", ["--config=configs/demo.py"]) == 2
    assert capsys.readouterr().err == "error: the sentence\n"


def _raise(error):
    def run(config):
        raise error

    return options.main(run, "test", ["--config=configs/demo.py", "--config.workdir=out/here"])


_BUG = """
import sys
from pipelines import options

def run(config):
    raise eval(sys.argv[1])

sys.exit(options.main(run, "test", ["--config=configs/demo.py", "--config.workdir=out/here"]))
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("KeyError('sizes')", "KeyError: 'sizes'"),
        # What Beam raises for a worker's error.
        ("RuntimeError('Traceback (..):\\n  File x\\nKeyError: 1 [while running \\'Embed-3\\']')", "KeyError: 1"),
    ],
)
def test_a_mistake_of_ours_is_one_sentence_with_the_file_of_its_traceback(tmp_path, error, said):
    def run():
        env = os.environ | {"TMPDIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", _BUG, error], capture_output=True, text=True, env=env)

    done = run()
    (file,) = tmp_path.glob("web-memory-*.txt")
    sentence = f"error: out/here: this is a bug of web-memory ({said}); the traceback is in {file}, please report it\n"
    assert (done.returncode, done.stderr) == (1, sentence)
    assert file.read_text().startswith("Traceback") and said in file.read_text()
    # From Python it is the error itself.
    with pytest.raises(KeyError):
        _raise(KeyError("sizes"))


def _caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        _caused(RuntimeError("checkpoint failed"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        UserError("/data/a.tar: [Errno 28] No space left on device; fix that"),
    ],
)
def test_a_full_disk_is_said_with_the_folder_of_the_outputs(error, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert _raise(error) == 2
    assert capsys.readouterr().err == (
        f"error: out/here: no space is left on its disk, or on that of the temporary files ({tmp_path}); make room and "
        "run the same command again, it resumes\n"
    )


def test_other_failures_of_the_system_name_a_place(capsys):
    assert _raise(PermissionError(errno.EACCES, "Permission denied", "/x/y")) == 2
    assert _raise(OSError("odd\nand long")) == 2
    assert _raise(MemoryError("Unable to allocate 9 GiB")) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: /x/y: Permission denied",
        "error: out/here: OSError: odd",
        "error: out/here: there is not enough memory (MemoryError: Unable to allocate 9 GiB); docs/scale.md says what "
        "needs it",
    ]


def test_main_refuses_flags_where_there_is_no_beam(capsys):
    assert options.main(_fails, "test", ["--config=configs/demo.py", "--confg=3"]) == 2
    assert "unknown flag; did you mean '--config'" in capsys.readouterr().err
    assert options.main(_fails, "test", []) == 2
    assert "--config is missing" in capsys.readouterr().err


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        options.main(_fails, "what it does", ["--config=configs/demo.py", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "what it does" in printed
    for leaf in fields.leaves(options.load("configs/demo.py")):
        assert f"--config.{leaf.name}={leaf.shown}" in printed


def test_switches_are_off_unless_they_are_named():
    switches = {"retry_rejects": "reads again what was rejected"}
    argv = ["--config=configs/demo.py", "--other"]
    assert options.parse(argv, "test", switches)[1:] == ({"retry_rejects": False}, ["--other"])
    assert options.parse([*argv, "--retry_rejects"], "test", switches)[1:] == ({"retry_rejects": True}, ["--other"])
    assert options.parse([*argv, "--retry_rejects"], "test")[1:] == ({}, ["--other", "--retry_rejects"])


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--cofig.data=x", "error: --cofig.data: unknown flag; did you mean '--config.data'?\n"),
        ("--conf.train.step=3", "error: --conf.train.step: unknown flag; did you mean '--config.train.steps'?\n"),
        ("--a.b=3", "error: --a.b: unknown flag; fields are set by --config.FIELD=VALUE, see --help\n"),
        ("--retry_reject", "error: --retry_reject: unknown flag; did you mean '--retry_rejects'?\n"),
        ("--log_formt=json", "error: --log_formt=json: unknown flag; did you mean '--log_format'?\n"),
        ("--log_format=xml", "error: --log_format=xml: unknown; known are json, text\n"),
        ("--direct_num_worker=2", "error: --direct_num_worker=2: unknown flag; did you mean '--direct_num_workers'?\n"),
    ],
)
def test_a_misspelt_flag_of_ours_is_never_taken_for_one_of_beam(flag, sentence, capsys):
    argv = ["--config=configs/demo.py", flag]
    assert options.main(_fails, "test", argv, beam=True, switches={"retry_rejects": "again"}) == 2
    assert capsys.readouterr().err == sentence


def test_a_wrong_field_of_any_stage_is_said_before_any_work(capsys):
    argv = ["--config=configs/demo.py", "--config.train.heads=mamm"]
    assert options.main(lambda config: pytest.fail("began"), "embed", argv) == 2
    assert capsys.readouterr().err == "error: --config.train.heads=mamm: unknown; did you mean 'mam'?\n"


def test_every_error_has_the_form_that_was_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(progress, "as_json", False)
    argv = ["--config=configs/demo.py", "--log_format=json", "--config.train.heads=mamm"]
    assert options.main(_fails, "embed", argv) == 2
    event = {"event": "error", "text": "--config.train.heads=mamm: unknown; did you mean 'mam'?"}
    assert json.loads(capsys.readouterr().err) == event


@pytest.mark.parametrize("printed", ["print('x')", "progress.say('x')", "progress.summary('x', {'a': 1})"])
def test_a_command_whose_output_nobody_reads_ends_quietly(printed):
    script = (
        "import sys; from pipelines import options, progress\n"
        f"def run(config):\n    for _ in range(9999): {printed}\n"
        "sys.exit(options.main(run, 'test', ['--config=configs/demo.py']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run([sys.executable, "-c", script], stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_pipe_that_breaks_elsewhere_is_an_error(capsys):
    def run(config):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert options.main(run, "test", ["--config=configs/demo.py", "--config.workdir=out/mine"]) == 2
    assert capsys.readouterr().err == "error: out/mine: Broken pipe\n"


def test_help_of_one_group(capsys):
    with pytest.raises(SystemExit):
        options.main(_fails, "what it does", ["--help=neighbors"])
    printed = capsys.readouterr().out
    assert printed.startswith("neighbors: ") and "--config.neighbors.k=128" in printed and "train" not in printed
    assert options.main(_fails, "what it does", ["--help=neighbor"]) == 2
    assert "did you mean 'neighbors'?" in capsys.readouterr().err


def test_a_config_that_was_just_changed_is_read_again(tmp_path):
    file = tmp_path / "mine.py"
    for name in ("one", "two"):
        file.write_text(f"from configs.base import Config\ndef get_config(): return Config(workdir={name!r})\n")
        assert options.load(str(file)).workdir == name


def test_docs_have_every_field():
    page = pathlib.Path(__file__).parents[2] / "docs/config.md"
    assert page.read_text() == fields.markdown(), "run: python -m pipelines.fields > docs/config.md"
