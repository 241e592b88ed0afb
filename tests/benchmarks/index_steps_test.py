"""Libraries run in processes of their own, and only those that are installed."""

import json

import numpy as np
import pytest

from benchmarks import index_data, index_rivals, index_steps

_ROWS, _DIM = 4000, 64
_LIBRARIES = [name for name in index_rivals.libraries() if name != "scann"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return index_data.keep(index_data.generated(_ROWS, _DIM, 200), tmp_path_factory.mktemp("cache"))


def test_every_build_has_a_name_and_a_file_of_its_own():
    for rows, dim in ((1_000_000, 128), (200_000, 512), (15_000, 1280)):
        names = [rival.name for library in _LIBRARIES for rival in index_rivals.grid(rows, dim, library)]
        assert len(set(names)) == len(names)
        assert all(name.split()[0] in _LIBRARIES for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("library", _LIBRARIES)
def test_a_library_reaches_the_targets_and_is_kept(folder, library, monkeypatch):
    if not index_rivals.is_installed(library):
        pytest.skip(f"{library} is not installed")
    first = index_rivals.grid(_ROWS, _DIM, library)[:1]
    whole_grid = index_rivals.grid
    monkeypatch.setattr(
        index_rivals, "grid", lambda rows, dim, name: first if name == library else whole_grid(rows, dim, name)
    )
    index_steps.measure(folder, "scann", {})
    result = index_steps.measure(folder, library, {})
    (build,) = result["builds"]
    assert "error" not in build
    assert build["core_secs"] > 0 and build["disk_bytes"] > 0
    at = {(point["k"], point["target"]): point for point in result["points"]}
    assert at[100, 0.95]["recall"] > 0.93
    assert at[100, 0.95]["rate"] > 0 and at[100, 0.95]["over_reference"] > 0
    assert index_steps.measure(folder, library, {}) == result


@pytest.mark.slow
def test_a_library_that_ends_its_process_is_kept_as_failed(tmp_path):
    folder = index_data.keep(index_data.generated(500, 16, 10), tmp_path)
    # Rows of another width than the file says.
    np.save(folder / "rows.npy", np.zeros((0, 16), np.float32))
    result = index_steps.measure(folder, "scann", {})
    assert result["builds"][0]["error"].startswith("not built, 1: ")
    assert result["points"] == []
    assert json.loads((folder / "scann.json").read_text())["library"] == "scann"
