import json

import numpy as np
import pytest

from benchmarks import train_host


@pytest.mark.slow
def test_rates_are_of_the_files_that_were_read(tmp_path, capsys):
    shapes = ["--batch=16", "--k=5", "--dim=32", "--heads=2", "--rows=300", "--classes=7", "--steps=4"]
    assert train_host.main([*shapes, f"--folder={tmp_path}"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    files = train_host.forget(tmp_path)
    assert [file.name for file in files] == ["key.arrow", "value_text.arrow"]
    np.testing.assert_allclose(1e9 * result["table_gb"], sum(file.stat().st_size for file in files), rtol=1e-3)
    assert sum(file.stat().st_size for file in files) >= 2 * 300 * 32 * 4
    np.testing.assert_allclose(result["read_over_disk"], result["mb_per_sec"] / result["disk_mb_per_sec"], rtol=1e-2)
    assert 0 <= result["waited_share"] <= 1
