"""The smoke run, as its user starts it."""

import json
import subprocess
import sys

import pytest

from tests.world import REPOSITORY


@pytest.mark.slow
def test_the_smoke_run_writes_results_and_pages(tmp_path):
    argv = ["run", "--config=configs/smoke.py", f"--config.data={tmp_path}/corpus", f"--config.workdir={tmp_path}/out"]
    ran = subprocess.run([sys.executable, "-m", "web_memory", *argv], cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"linear", "mean_knn", "mam"} and all(0.1 < row["all"] for row in rows)
    for page in ("report/index.html", "report/gallery.html", "gallery.png"):
        assert (tmp_path / "out" / page).stat().st_size > 1000
    # The run ends with predictions.
    assert "images that no list has" in ran.stdout
