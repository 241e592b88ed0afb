"""Files of samples as img2dataset's own writers write them."""

import json
import subprocess
import sys

import pytest

# What img2dataset 1.47 asks for, without what only its downloader needs.
WHEELS = ("img2dataset==1.47.0", "webdataset==0.2.111", "braceexpand==0.1.7")

# Its package imports the whole tool; the writers need no more of it than a name, of tensorflow_io not even that.
_PROGRAM = """
import json, sys, types
wheels, folder, writer, rows = sys.argv[1:]
sys.path.insert(0, wheels)
package = types.ModuleType("img2dataset")
package.__path__ = [wheels + "/img2dataset"]
sys.modules |= {"img2dataset": package, "tensorflow_io": types.ModuleType("tensorflow_io")}
import pyarrow as pa
from img2dataset import writer as writers
columns = [("similarity", pa.float64()), ("caption", pa.string()), ("url", pa.string()), ("key", pa.string()),
           ("status", pa.string()), ("error_message", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
           ("exif", pa.string()), ("sha256", pa.string())]
out = getattr(writers, writer)(0, folder, True, 5, pa.schema(columns), "jpg")
for number, row in enumerate(json.loads(rows)):
    key = f"{number:09d}"
    image = bytes.fromhex(row["image"]) if row["image"] else None
    meta = {name: row["meta"].get(name) for name, _ in columns} | {"key": key}
    out.write(image, key, row["meta"]["caption"], meta)
out.close()
"""

# The third was not downloaded.
ROWS = [
    {
        "image": image,
        "meta": {
            "caption": caption,
            "url": f"http://x/{number}",
            "status": "success" if image else "failed_to_download",
            "error_message": None if image else "HTTP Error 404",
            "width": 8 if image else None,
            "height": 6 if image else None,
            "exif": "{}" if image else None,
            "similarity": 0.25 * number,
            "sha256": "00" if image else None,
        },
    }
    for number, (image, caption) in enumerate([("ffd8aa", "a dog"), ("ffd8bb", "ein Hund, süß"), (None, "gone")])
]


@pytest.fixture(scope="session")
def img2dataset(tmp_path_factory):
    """Returns a function (writer, folder) that writes `ROWS` with a writer of the real tool."""
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(wheels), *WHEELS]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot fetch {WHEELS[0]}: {installed.stderr.strip()[-200:]}")

    def write(writer, folder):
        command = [sys.executable, "-c", _PROGRAM, str(wheels), str(folder), writer, json.dumps(ROWS)]
        subprocess.run(command, check=True, capture_output=True)

    return write
