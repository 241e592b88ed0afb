import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions

from pipelines import runner
from pipelines.errors import UserError
from pipelines.progress import Stage


class _Double(beam.DoFn):
    def process(self, number):
        if number == 3:
            raise UserError("shard 3: is odd; take another")
        if number == 4:
            raise ZeroDivisionError("ours to mend")
        yield 2 * number


def _run(tmp_path, numbers, *argv):
    def build(pipeline):
        _ = pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.ParDo(_Double())

    with Stage("test", "numbers", str(tmp_path)) as stage:
        runner.run(build, argv, stage, lambda: (0.5, 1))


@pytest.mark.parametrize("argv", [(), ("--runner=DirectRunner",), ("--runner=FnApiRunner",)])
def test_a_workers_user_error_is_ours_again(tmp_path, argv):
    _run(tmp_path, [1, 2], *argv)
    with pytest.raises(UserError, match=r"^shard 3: is odd; take another$"):
        _run(tmp_path, [1, 3], *argv)


def test_our_own_mistakes_are_not_hidden(tmp_path):
    with pytest.raises(Exception, match="ours to mend") as error:
        _run(tmp_path, [4])
    assert not isinstance(error.value, UserError)


def test_beams_flags_are_beams():
    options = runner.beam_options(["--direct_num_workers=3", "--runner=FnApiRunner"])
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.get_all_options()["runner"] == "FnApiRunner"
    assert options.get_all_options()["save_main_session"] is False


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--runer=x"], "did you mean '--runner'"),
        (["--direct_num_worker=3"], "did you mean '--direct_num_workers'"),
        (["surplus"], "surplus: unknown flag; flags are given as --name=value"),
        (["--direct_num_workers=many"], "invalid int value: 'many'"),
        (["--runner=no.such.Runner"], "cannot be imported"),
    ],
)
def test_wrong_flags_are_worded(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        runner.beam_options(argv)


def test_an_unknown_runner_is_worded(tmp_path):
    with pytest.raises(UserError, match="NoRunner"):
        _run(tmp_path, [1], "--runner=NoRunner")
