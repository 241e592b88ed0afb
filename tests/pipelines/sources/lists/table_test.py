"""Tables of paths and of URLs, the latter from a server that does what servers do."""

import contextlib
import csv
import dataclasses
import gzip
import http.server
import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import Reject, Sample, web
from tests.pipelines.sources.listed import EMBED, image, plan, read, write_images

_SOURCE = Source(format="table", path="t.csv", image_root="images")


def _read(root, text, path="t.csv", **changes):
    (root / path).write_text(text)
    return read(root, dataclasses.replace(_SOURCE, path=path, **changes))


def test_a_csv_of_paths(tmp_path):
    images = write_images(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg")
    text = (
        "\ufeffpath,caption,label,url,similarity\r\n"
        '0.jpg,"a ""dog"", that\nsits",3,http://x/0,0.5\r\n'
        "\r\n1.jpg,,,,\r\n2.jpg,Hündin,0,,x\r\n"
    )
    assert _read(tmp_path, text) == [
        Sample("0.jpg", images["0.jpg"], 'a "dog", that\nsits', 3, "http://x/0", {"similarity": "0.5"}),
        Sample("1.jpg", images["1.jpg"]),
        Sample("2.jpg", images["2.jpg"], "Hündin", 0, metadata={"similarity": "x"}),
    ]


def test_columns_are_named_by_fields_or_numbers(tmp_path):
    images = write_images(tmp_path / "images", "0.jpg")
    found = _read(tmp_path, "where,what\n0.jpg,dog\n", fields=("path=where", "caption=what"))
    assert found == [Sample("0.jpg", images["0.jpg"], "dog")]
    # The layout of Conceptual Captions: no header, no quotes.
    found = _read(tmp_path, 'say "hi\t0.jpg\n', path="t.tsv", fields=("path=1", "caption=0"))
    assert found == [Sample("0.jpg", images["0.jpg"], 'say "hi')]
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"path\ttext\n0.jpg\tcat\n"))
    assert read(tmp_path, dataclasses.replace(_SOURCE, path="t.tsv.gz")) == [Sample("0.jpg", images["0.jpg"], "cat")]


def test_a_text_with_columns_in_braces_is_made_of_their_values(tmp_path):
    images = write_images(tmp_path / "images", "a/7.jpg", "b/8.jpg")
    wolf = {"dir": "a", "genus": "Canis", "species": "lupus"}
    fields = ("path={dir}/{id}.jpg", "caption={genus} {species}")
    # Semicolons, which nothing but the columns in braces tells from the commas in the first line.
    found = _read(tmp_path, "id;dir;genus;species\n7;a;Canis;lupus\n8;b;Felis;\n", fields=fields)
    assert found == [
        Sample("a/7.jpg", images["a/7.jpg"], "Canis lupus", metadata={**wolf, "id": "7"}),
        Sample("b/8.jpg", images["b/8.jpg"], metadata={"dir": "b", "genus": "Felis", "id": "8"}),
    ]
    pq.write_table(
        pa.table({"id": [7, 8], "dir": ["a", "b"], "genus": ["Canis", "Felis"], "species": ["lupus", None]}),
        tmp_path / "t.parquet",
    )
    found = read(tmp_path, dataclasses.replace(_SOURCE, path="t.parquet", fields=fields))
    assert [(sample.member, sample.caption) for sample in found] == [("a/7.jpg", "Canis lupus"), ("b/8.jpg", None)]
    found = _read(tmp_path, "7\ta\n8\tb\n", path="t.tsv", fields=("path={1}/{0}.jpg",))
    assert [sample.image for sample in found] == [images["a/7.jpg"], images["b/8.jpg"]]
    (found,) = _read(tmp_path, "id,dir\n7,\n", fields=("path={dir}/{id}.jpg",))
    assert isinstance(found, Reject)


def test_a_parquet_table(tmp_path):
    images = write_images(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg")
    columns = {
        "file_name": ["0.jpg", "1.jpg", "2.jpg"],
        "text": ["a", None, "c"],
        "label": pa.array([1.0, float("nan"), 2.0], pa.float64()),
        "score": [0.5, float("inf"), 1.5],
        "tags": [["x"], [], None],
        "thumbnail": [b"1", b"2", b"3"],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read(tmp_path, dataclasses.replace(_SOURCE, path="t.parquet")) == [
        Sample("0.jpg", images["0.jpg"], "a", 1, metadata={"score": 0.5, "tags": ["x"]}),
        Sample("1.jpg", images["1.jpg"], metadata={"tags": []}),
        Sample("2.jpg", images["2.jpg"], "c", 2, metadata={"score": 1.5}),
    ]


def test_several_tables_may_have_columns_in_another_order(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg")
    (tmp_path / "a.csv").write_text("path,label\n0.jpg,5\n")
    (tmp_path / "b.csv").write_text("label,path\n6,1.jpg\n")
    found = read(tmp_path, dataclasses.replace(_SOURCE, path="{a,b}.csv"))
    assert [(item.member, item.label) for item in found] == [("0.jpg", 5), ("1.jpg", 6)]


def test_rows_without_an_image_or_with_odd_texts_are_rejects(tmp_path):
    (tmp_path / "images").mkdir()
    found = _read(tmp_path, "path,caption\n,x\nhttp://127.0.0.1:1/x.jpg,x\n")
    assert [(item.error_type, item.message) for item in found] == [
        ("PathOutsideRoot", "the row has no path"),
        ("PathOutsideRoot", "the path leaves the image root"),
    ]
    write_images(tmp_path / "images", "0.jpg")
    pq.write_table(pa.table({"path": ["0.jpg"], "caption": [5]}), tmp_path / "t.parquet")
    (found,) = read(tmp_path, dataclasses.replace(_SOURCE, path="t.parquet"))
    assert found.error_type == "BadCaption"


@pytest.mark.parametrize(
    ("text", "fields", "sentence"),
    [
        ("path,label\na.jpg,1\nb.jpg\n", (), "t.csv, line 3: has 1 columns, the lines before have 2"),
        ('path,caption\na.jpg,"x\ny"\nb.jpg,1,2\n', (), "t.csv, line 4: has 3 columns"),
        ('path\n"a\n', (), "t.csv, line 2: cannot be read as a table"),
        ('path\n"a"b\n', (), "t.csv, line 2: cannot be read as a table"),
        ("path\n" + "a" * 200_000, (), "line 2: cannot be read as a table .field larger than field limit"),
        ("path\na\rb\n", (), "line 2: cannot be read as a table"),
        ("path,path\na,b\n", (), "line 1: two columns have the same name; its columns are 'path', 'path'"),
        (
            "a,b\n1,2\n",
            (),
            "no column of paths or URLs, name it by the source's fields=path=x or url=x; its columns are 'a', 'b'",
        ),
        ("path\na\n", ("caption=txt",), "line 2: has no column 'txt'; its columns are 'path'"),
        ("a,b\n1,2\n", ("path={a}/{id}.jpg",), "line 2: has no column 'id'; its columns are 'a', 'b'"),
        ("path\na\n", ("captoin=txt",), "there is no 'captoin'; did you mean 'caption'"),
        ("path\n", (), "is empty, it names no image"),
        ("", (), "is empty, it names no image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        _read(tmp_path, text, fields=fields)


def test_a_wrong_parquet_is_worded(tmp_path):
    source = dataclasses.replace(_SOURCE, path="t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="t.parquet: is not a whole Parquet file"):
        plan(tmp_path, source)
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="t.parquet, row 0: 'path' is '1', not a text"):
        plan(tmp_path, source)


# -- Values as what they are -------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, None, 2], [0.0, 1.0, float("nan"), 2.0], ["0", "1.0", None, "2"]])
def test_labels_are_read_by_the_same_rule_in_every_table(tmp_path, labels):
    write_images(tmp_path / "images", *(f"{i}.jpg" for i in range(4)))
    pq.write_table(pa.table({"path": [f"{i}.jpg" for i in range(4)], "label": labels}), tmp_path / "t.parquet")
    lines = [json.dumps({"path": f"{i}.jpg", "label": label}) for i, label in enumerate(labels)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    cells = ["" if label is None or label != label else label for label in labels]
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells)))
    for path in ("t.parquet", "t.jsonl", "t.csv"):
        found = read(tmp_path, dataclasses.replace(_SOURCE, path=path))
        assert [item.label for item in found] == [0, 1, None, 2], path


def test_a_label_that_is_no_number_is_one_reject(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg")
    found = _read(tmp_path, "path,label\n0.jpg,-1\n1.jpg,2147483648\n2.jpg,5\n")
    assert [item.error_type for item in found[:2]] == ["BadLabel", "BadLabel"] and found[2].label == 5


def test_a_users_own_columns_are_metadata_whatever_their_name(tmp_path):
    images = write_images(tmp_path / "images", "0.jpg")
    found = _read(tmp_path, "path,status,key,width,height\n0.jpg,on display,k,12 cm,\n")
    metadata = {"status": "on display", "key": "k", "width": "12 cm"}
    assert found == [Sample("0.jpg", images["0.jpg"], metadata=metadata)]


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        ('["a dog", "one dog"]', "a dog"),
        ("['a dog', \"one's\"]", "a dog"),
        ("[1, 2]", "[1, 2]"),
        ("['a dog' in brackets]", "['a dog' in brackets]"),
        ("['a', 1]", "['a', 1]"),
    ],
)
def test_a_list_of_captions_in_a_cell(tmp_path, cell, caption):
    write_images(tmp_path / "images", "0.jpg")
    (found,) = _read(tmp_path, f"path\tcaption\n0.jpg\t{cell}\n", path="t.tsv")
    assert found.caption == caption


# -- What people's columns and cells look like -------------------------------------------------


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_what_separates_cells_is_found_out(tmp_path, mark):
    """As open_clip's training tables have it: `filepath` and `title`, usually with tabs."""
    images = write_images(tmp_path / "images", "0.jpg", "1.jpg")
    rows = [["filepath", "title"], ["0.jpg", "a, b; c | d\te"], ["1.jpg", 'say "hi"']]
    with (tmp_path / "t.csv").open("w") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    assert read(tmp_path, _SOURCE) == [
        Sample("0.jpg", images["0.jpg"], rows[1][1]),
        Sample("1.jpg", images["1.jpg"], rows[2][1]),
    ]
    with (tmp_path / "t.csv").open("w") as file:
        csv.writer(file, delimiter=mark).writerows(rows[1:])
    found = read(tmp_path, dataclasses.replace(_SOURCE, fields=("path=0", "caption=1")))
    assert [item.caption for item in found] == [rows[1][1], rows[2][1]]


def test_what_could_be_two_things_is_named(tmp_path):
    write_images(tmp_path / "images", "0.jpg")
    with pytest.raises(UserError, match="separated by commas or by semicolons; add a first line with names"):
        _read(tmp_path, "0.jpg,a;b\n", fields=("path=0", "caption=1"))
    with pytest.raises(UserError, match="line 2: 'caption' and 'title' may each be the caption; say which by .*=cap"):
        _read(tmp_path, "path,title,caption\n0.jpg,a,b\n")
    (found,) = _read(tmp_path, "path,title,caption\n0.jpg,a,b\n", fields=("caption=title",))
    assert found.caption == "a"


# -- JSON Lines --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metadata.jsonl", "t.ndjson", "t.JSONL", "t.jsonl.gz"])
def test_json_lines_are_a_table(tmp_path, name):
    """As HuggingFace's imagefolder has it; a line may lack what others have."""
    images = write_images(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg")
    lines = [
        {"file_name": "0.jpg", "text": "caption, number 0", "label": 3, "nested": {"a": [1, None]}, "id": 2**60 + 1},
        {"label": None, "file_name": "1.jpg", "text": [None, "first", "second"]},
        {"file_name": "2.jpg", "url": "http://x/2", "score": float("nan")},
    ]
    text = "\ufeff" + "".join(f"{json.dumps(line)}\r\n\n" for line in lines)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read(tmp_path, dataclasses.replace(_SOURCE, path=name)) == [
        Sample("0.jpg", images["0.jpg"], "caption, number 0", 3, None, {"nested": {"a": [1, None]}, "id": 2**60 + 1}),
        Sample("1.jpg", images["1.jpg"], "first"),
        Sample("2.jpg", images["2.jpg"], url="http://x/2"),
    ]
    numbered = dataclasses.replace(_SOURCE, path=name, caption_number=2)
    assert [getattr(item, "caption", None) for item in read(tmp_path, numbered)] == [None, "second", None]


def test_rows_of_json_lines_that_cannot_be_used_are_rejects(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg")
    lines = ['{"path": "0.jpg"}', '{"path": 5}', '{"url": "http://127.0.0.1:1/x.jpg"}', '{"path": "\\ud800.jpg"}']
    lines += ['{"path": "1.jpg", "caption": "\\ud800"}', '{"path": "1.jpg", "label": {"a": 1}}', '{"path": "1.jpg"}']
    found = _read(tmp_path, "\n".join(lines), path="t.jsonl")
    assert [getattr(item, "error_type", None) for item in found] == [
        *(None, "BadValue", "PathOutsideRoot", "BadValue", "BadMetadata", "BadLabel", None)
    ]
    assert found[1].message == f"{tmp_path}/t.jsonl, line 2: 'path' is '5', not a text"


@pytest.mark.parametrize(
    ("text", "fields", "sentence"),
    [
        ('{"path": "a"}\n{"path": ', (), "t.jsonl, line 2: is not JSON"),
        ('["a"]\n', (), "t.jsonl, line 1: must be an object such as .*, found"),
        ('{"caption": "a"}\n', (), "line 1: has no column of paths or URLs"),
        (
            '{"path": "a"}\n{"path": "b"}\n',
            ("caption=txt",),
            "no line has a field 'txt', which 'fields' names as caption",
        ),
        ('{"path": "a"}\n', ("path=file",), "line 1: has no column 'file'"),
        ("\n", (), "is empty, it names no image"),
    ],
)
def test_what_is_wrong_with_json_lines_is_named(tmp_path, text, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        _read(tmp_path, text, path="t.jsonl", fields=fields)


def test_a_field_need_not_be_in_every_line(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg")
    found = _read(
        tmp_path, '{"path": "0.jpg"}\n{"path": "1.jpg", "txt": "a"}\n', path="t.jsonl", fields=("caption=txt",)
    )
    assert [item.caption for item in found] == [None, "a"]


def test_a_time_that_python_cannot_hold_is_stored_or_rejects_its_row(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg")
    far = pa.array([0, 1 << 60], pa.timestamp("ms"))
    pq.write_table(pa.table({"path": ["0.jpg", "1.jpg"], "when": far}), tmp_path / "t.parquet")
    found = read(tmp_path, dataclasses.replace(_SOURCE, path="t.parquet"))
    assert [item.metadata["when"] for item in found] == ["1970-01-01 00:00:00", f"{1 << 60} timestamp[ms]"]
    odd = pa.array([0, None], pa.timestamp("us", "Mars/Phobos"))
    pq.write_table(pa.table({"path": ["0.jpg", "1.jpg"], "when": odd}), tmp_path / "t.parquet")
    found = read(tmp_path, dataclasses.replace(_SOURCE, path="t.parquet"))
    assert (found[0].error_type, found[1].metadata) == ("BadValue", {})


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers as the path says."""

    def do_GET(self):
        name = self.path.strip("/")
        body, redirect = image(1), ""
        status = {"gone": 404, "broken": 500, "forbidden": 403}.get(name, 200)
        if name.startswith("to/"):
            status, redirect = 302, name.removeprefix("to/").replace("LOOP", self.path)
        if name == "slow":
            time.sleep(3)
        if name == "large":
            body = b"x" * 2001
        self.send_response(status)
        if redirect:
            self.send_header("Location", redirect)
        if name not in ("drip", "endless"):
            self.send_header("Content-Length", str(len(body) + (50 if name == "cut" else 0)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            while name == "endless" or (name == "drip" and not time.sleep(0.05)):
                self.wfile.write(b"x" * (1000 if name == "endless" else 1))

    def log_message(self, *unused):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def _fetch(root, *urls):
    (root / "t.csv").write_text("url,caption\n" + "".join(f'"{url}",a dog\n' for url in urls))
    return read(root, _SOURCE, dataclasses.replace(EMBED, list_shard_rows=100, private_addresses=True))


def test_images_are_downloaded_in_order(tmp_path, server):
    urls = [f"{server}/{number}" for number in range(40)] + [
        f"{server}/to/{server}/ok",
        f"{server}/to//ok",
        f"{server}/ä b",
    ]
    assert _fetch(tmp_path, *urls) == [Sample(url, image(1), "a dog", url=url) for url in urls]


def test_downloads_that_take_too_long_become_rejects(tmp_path, server, monkeypatch):
    monkeypatch.setattr(web, "WAIT_SECS", 1.5)
    monkeypatch.setattr(web, "DOWNLOAD_SECS", 2.5)
    found = _fetch(tmp_path, f"{server}/slow", f"{server}/drip")
    assert [(item.error_type, item.message, item.retryable) for item in found] == [
        ("DownloadFailed", "TimeoutError: timed out", True),
        ("DownloadFailed", "takes more than 2.5 seconds", True),
    ]


def test_downloads_that_fail_become_rejects(tmp_path, server):
    answers = {
        f"{server}/gone": ("MissingImage", "the server answers 404 Not Found", False),
        f"{server}/forbidden": ("HttpError", "the server answers 403 Forbidden", False),
        f"{server}/broken": ("HttpError", "the server answers 500 Internal Server Error", True),
        f"{server}/large": ("TooLarge", "is larger than 2,000 bytes", False),
        f"{server}/endless": ("TooLarge", "is larger than 2,000 bytes", False),
        f"{server}/cut": ("DownloadFailed", "breaks off 50 bytes before its end", True),
        f"{server}/to/file:///etc/passwd": ("BadUrl", "is redirected to 'file:///etc/passwd'", False),
        f"{server}/to/ftp://127.0.0.1/x": ("BadUrl", "is redirected to 'ftp://127.0.0.1/x'", False),
        f"{server}/to/LOOP": ("BadUrl", f"is redirected in a loop, to '{server}/to/LOOP' again", False),
        "http://127.0.0.1:1/x": ("DownloadFailed", "ConnectionRefusedError: [Errno 111] Connection refused", True),
        "file:///etc/passwd": ("BadUrl", "must begin with one of http://, https://, gs://, s3://", False),
        "/etc/passwd": ("BadUrl", "must begin with one of http://, https://, gs://, s3://", False),
        "": ("BadUrl", "the row has no URL", False),
        "http://[::1": ("BadUrl", "Invalid IPv6 URL", False),
        "http://": ("BadUrl", "has no host", False),
    }
    found = {item.member: (item.error_type, item.message, item.retryable) for item in _fetch(tmp_path, *answers)}
    assert found == answers


def test_urls_of_stores_are_read_by_their_drivers(tmp_path, monkeypatch):
    whole = storage.open_read

    def open_read(uri):
        if not uri.startswith("s3://"):
            return whole(uri)
        if uri == "s3://bucket/gone":
            raise storage.MissingFile(f"{uri}: no such file")
        if uri == "s3://bucket/odd":
            raise RuntimeError("an error of the driver")
        with storage.atomic_write(f"memory://{tmp_path.name}/x") as file:
            file.write(image(2) if uri == "s3://bucket/x" else b"x" * 2001)
        return whole(f"memory://{tmp_path.name}/x")

    monkeypatch.setattr(storage, "open_read", open_read)
    found = _fetch(tmp_path, *(f"s3://bucket/{name}" for name in ("x", "large", "gone", "odd")))
    assert found[0].image == image(2)
    assert found[1:] == [
        Reject("s3://bucket/large", "read", "TooLarge", "is larger than 2,000 bytes"),
        Reject("s3://bucket/gone", "read", "MissingImage", "s3://bucket/gone: no such file"),
        Reject("s3://bucket/odd", "read", "RuntimeError", "an error of the driver", retryable=True),
    ]
