import pytest

from configs.base import Config, Filters, Source
from pipelines.embedding.request import Request
from pipelines.errors import UserError

_SOURCE = Source(path="a/*.tar")


def test_the_memory_is_first_and_splits_without_a_source_are_left_out():
    config = Config(data="in", workdir="out", generation="gen-0", memory=_SOURCE, val_set=Source(path="val.txt"))
    request = Request.of(config)
    assert list(request.sources) == ["memory", "val"]
    assert [request.folder(name) for name in request.sources] == ["out/gen-0/memory", "out/gen-0/queries/val"]


@pytest.mark.parametrize(("opt_out", "path"), [("", ""), ("list.txt", "in/list.txt"), ("/list.txt", "/list.txt")])
def test_the_opt_out_list_is_a_whole_path(opt_out, path):
    assert Request.of(Config(data="in", memory=_SOURCE, filters=Filters(opt_out=opt_out))).filters.opt_out == path


def test_a_wrong_condition_is_an_error_before_anything_is_embedded():
    with pytest.raises(UserError, match="--config.filters.metadata=similarity>=high: >= needs a number"):
        Request.of(Config(memory=_SOURCE, filters=Filters(metadata=("similarity>=high",))))
    with pytest.raises(UserError, match="--config.memory.path: is empty"):
        Request.of(Config())
