"""Options of Beam: views that are made once say what Beam's own say."""

import pickle

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, TypeOptions

from pipelines.beam_fixes import Options

_FLAGS = ["--direct_num_workers=3", "--no_pipeline_type_check", "--streaming"]


@pytest.mark.parametrize("kind", [DirectOptions, StandardOptions, TypeOptions])
def test_a_view_has_the_values_of_beams_and_is_made_once(kind):
    ours, beams = Options(_FLAGS, runner="DirectRunner"), PipelineOptions(_FLAGS, runner="DirectRunner")
    assert ours.view_as(kind) is ours.view_as(kind)
    assert ours.view_as(kind).get_all_options() == beams.view_as(kind).get_all_options()


def test_what_one_view_sets_all_others_have():
    options = Options(_FLAGS)
    view = options.view_as(DirectOptions)
    PipelineOptions.view_as(options, DirectOptions).direct_num_workers = 5
    assert view.direct_num_workers == 5 == options.view_as(DirectOptions).direct_num_workers
    view.direct_num_workers = 7
    assert options.get_all_options()["direct_num_workers"] == 7


def test_pickled_options_have_no_views():
    options = Options(_FLAGS)
    options.view_as(DirectOptions)
    again = pickle.loads(pickle.dumps(options))
    assert again.get_all_options() == options.get_all_options() and "_views" not in vars(again)
