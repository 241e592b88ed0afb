"""What has run once, for tests that change it."""

import copy
import pathlib
import shutil
from typing import Generic, TypeVar

T = TypeVar("T")


class Finished(Generic[T]):
    """A world that has run, whose folder is put back as it was for each test that changes it.

    It stays at one place, for what is embedded knows where it was read.
    """

    def __init__(self, world: T, folder: pathlib.Path) -> None:
        """Copies the folder to a place beside it."""
        self._world, self._folder, self._kept = world, folder, folder.with_name("kept")
        shutil.copytree(folder, self._kept)

    def restored(self) -> T:
        shutil.rmtree(self._folder)
        shutil.copytree(self._kept, self._folder)
        return copy.deepcopy(self._world)
