import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError


def test_mistakes_of_a_source_are_worded(tmp_path):
    def plan(source):
        return sources.plan(source, str(tmp_path), Embed(), str(tmp_path / "listings"))

    with pytest.raises(UserError, match="matches no file"):
        plan(Source(path="*.tar"))
    with pytest.raises(UserError, match="image_list: its fields have no names"):
        plan(Source(format="image_list", path="x.txt", fields=("caption=text",)))
    with pytest.raises(UserError, match="img2dataset: takes no class names"):
        plan(Source(path="*.tar", class_names="names.txt"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").write_bytes(b"")
    with pytest.raises(UserError, match="same name"):
        plan(Source(path="*/*.tar"))
    (tmp_path / "odd").mkdir()
    open(bytes(tmp_path / "odd") + b"/\xff.tar", "wb").close()
    with pytest.raises(UserError, match=r"odd/\\udcff.tar: its name is not UTF-8 text; rename it"):
        plan(Source(path="odd/*.tar"))
