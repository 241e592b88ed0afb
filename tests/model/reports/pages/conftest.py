"""A report of a line whose data was written by an enemy."""

import pytest

from tests.model.reports.pages.hostile import Story


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Returns the line with its report; tests read it, and write other reports elsewhere."""
    made = Story(tmp_path_factory.mktemp("story"))
    made.run()
    made.report()
    return made
