import subprocess
import sys

import pytest

import index
from index.store import filtered, reader
from tests.world import REPOSITORY


def test_public_names_are_those_of_the_reader():
    assert (index.Index, index.Hits, index.Allowed) == (reader.Index, reader.Hits, filtered.Allowed)
    assert set(index.__all__) <= set(dir(index))
    with pytest.raises(AttributeError, match="module 'index' has no attribute 'Nothing'"):
        index.Nothing  # noqa: B018


def test_importing_the_package_loads_no_library():
    code = "import sys, index; print(*{'numpy', 'pyarrow', 'scann', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
