"""Answers of the service beside what a batch prediction reaches, both in this run.

    web-memory run --config=configs/smoke.py --config.index.searcher=exact --config.workdir=out/exact
    python -m benchmarks.service --run=out/exact --minutes=2 --photographs=8

Clients send real photographs (crops of those of scikit-image, as JPEGs of 640 x 480) over loopback, one request after
another. Each answer is compared with that of `Recognizer.predict`: with the `exact` searcher to the bit, with `scann`,
which rounds scores by the size of a call, by class and to 1e-5. The last line is one JSON object.
"""

import argparse
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import httpx2
import numpy as np
import psutil
from PIL import Image
from skimage import data

from model.recognizer import Recognizer

_SOURCES = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
_COUNT, _SIDE = 256, 200


def photographs(count: int) -> list[bytes]:
    """Returns JPEGs, each a crop of a photograph at a place of its own."""
    rng, found = np.random.default_rng(0), []
    whole = [Image.fromarray(getattr(data, name)()[..., :3]) for name in _SOURCES]
    for number in range(count):
        image = whole[number % len(whole)]
        side = int(rng.integers(_SIDE, min(image.size)))
        x, y = rng.integers(0, image.width - side), rng.integers(0, image.height - side)
        buffer = io.BytesIO()
        image.crop((x, y, x + side, y + side)).resize((640, 480)).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def batch(path: str, head: str, images: list[bytes]) -> tuple[list[dict], list[float]]:
    """Returns what batch predict says of each image, and its rates in images/s, the first of them warming up."""
    rates = []
    with Recognizer.open(path, head=head) as recognizer:
        for _ in range(4):
            begin = time.perf_counter()
            found = recognizer.predict(images)
            rates.append(len(images) / (time.perf_counter() - begin))
    facts = [{"classes": list(of.classes), "probabilities": list(of.probabilities)} for of in found]
    return facts, rates[1:]


class Clients:
    """Clients that ask one request after another until the time is over."""

    def __init__(self, url: str, images: list[bytes], wanted: list[dict], each: int, until: float) -> None:
        """Starts at zero."""
        self._url, self._images, self._wanted, self._each, self._until = url, images, wanted, each, until
        self.right = self.equal = self.wrong = self.lost = 0
        self.secs: list[float] = []
        self._lock = threading.Lock()

    def run(self, seed: int) -> None:
        """Is one client."""
        rng = np.random.default_rng(seed)
        with httpx2.Client(timeout=60) as client:
            while time.monotonic() < self._until:
                chosen = rng.integers(len(self._images), size=self._each).tolist()
                files = [("image", (f"{n}.jpg", self._images[n], "image/jpeg")) for n in chosen]
                begin = time.perf_counter()
                try:
                    found = client.post(f"{self._url}/predict", files=files).json()["predictions"]
                except (httpx2.HTTPError, ValueError, KeyError):
                    found = []
                self._count(chosen, found, time.perf_counter() - begin)

    def _count(self, chosen: list[int], found: list[dict], secs: float) -> None:
        with self._lock:
            self.secs.append(secs)
            self.lost += len(chosen) - len(found)
            for number, of in zip(chosen, found, strict=False):
                wanted = self._wanted[number]
                same = {name: of.get(name) for name in wanted} == wanted
                near = of.get("classes", [""])[0] == wanted["classes"][0] and np.allclose(
                    of["probabilities"], wanted["probabilities"], atol=1e-5
                )
                self.equal += same
                self.right += same or near
                self.wrong += not (same or near)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="workdir or bundle")
    parser.add_argument("--head", default="mam")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--photographs", type=int, default=8, help="of each request")
    flags = parser.parse_args()
    images = photographs(_COUNT)
    wanted, before = batch(flags.run, flags.head, images)
    argv = [sys.executable, "-m", "model.app", f"--run={flags.run}", f"--head={flags.head}", "--port=0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    root = pathlib.Path(__file__).parents[1]
    with subprocess.Popen(argv, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = next(line for line in process.stdout if ":" in line)
        found = re.search(r":(\d+) ", line)
        assert found, line
        url, watched = f"http://127.0.0.1:{found[1]}", psutil.Process(process.pid)
        warm = Clients(url, images, wanted, flags.photographs, time.monotonic() + 10)
        _all(warm, flags.clients)
        memory = [watched.memory_info().rss]
        measured = Clients(url, images, wanted, flags.photographs, time.monotonic() + 60 * flags.minutes)
        begin, watch = time.perf_counter(), threading.Event()
        watcher = threading.Thread(target=_watch, args=(watched, memory, watch))
        watcher.start()
        _all(measured, flags.clients)
        secs = time.perf_counter() - begin
        watch.set()
        watcher.join()
        batches = httpx2.get(f"{url}/metrics").text
        process.terminate()
        process.communicate()
    _, after = batch(flags.run, flags.head, images)
    rate, reached = measured.right / secs, float(np.median(before + after))
    mean = _metric(batches, "sum") / _metric(batches, "count")
    facts = {
        "photographs_of_a_request": flags.photographs,
        "answers_per_sec": round(rate, 1),
        "batch_predict_per_sec": round(reached, 1),
        "ratio": round(rate / reached, 3),
        "answers": measured.right,
        "equal_to_the_bit": measured.equal,
        "wrong": measured.wrong,
        "lost": measured.lost,
        "median_secs": round(float(np.median(measured.secs)), 3),
        "p99_secs": round(float(np.quantile(measured.secs, 0.99)), 3),
        "images_of_a_call": round(mean, 1),
        # Of the second quarter and the last: caches fill in the first.
        "memory_mib": [round(float(np.median(part)) / 2**20) for part in np.array_split(memory, 4)[1::2]],
    }
    print(json.dumps(facts))


def _all(clients: Clients, count: int) -> None:
    threads = [threading.Thread(target=clients.run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _watch(process: psutil.Process, memory: list[int], stop: threading.Event) -> None:
    while not stop.wait(1):
        memory.append(process.memory_info().rss)


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^webmemory_batch_images_{name} (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


if __name__ == "__main__":
    main()
