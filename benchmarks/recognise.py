"""How near `predict` comes to a bare loop, and one photograph to the sum of its parts.

    python -m benchmarks.recognise --model=bundle --images='photos/*/*.jpg'

The bare loop decodes on all cores, then encodes, searches and runs the head in the same batches, without files, Beam,
resuming or rejects. Both are measured in turns, since other work on the machine slows both; the median counts.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from configs.base import Embed
from model.recognition import predict_job
from model.recognition.session import Session
from model.recognizer import Recognizer
from pipelines import storage
from pipelines.images import decode
from pipelines.runner import Runner
from pipelines.sources import patterns

_ROUNDS = 3


def _bare(session: Session, head: str, paths: list[str]) -> float:
    """Returns the seconds that a loop over the parts takes."""
    encoder, engine, state, size = (
        session.load_encoder(),
        session.engine(head),
        session.state(),
        session.embed.batch_size,
    )

    def pixels(path: str) -> tuple:
        with open(path, "rb") as file:
            data = file.read()
        picture = decode.decode(data, session.embed.max_image_pixels, [encoder.preprocess])
        return decode.prepare(picture, encoder.preprocess), hashlib.sha256(data).digest()

    begin = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        batches = [paths[first : first + size] for first in range(0, len(paths), size)]
        ahead = [pool.submit(lambda batch: list(map(pixels, batch)), batch) for batch in batches]
        for coming in ahead:
            read = coming.result()
            keys = session.key_spec.info.stored(encoder.encode([image for image, _ in read], size))
            lists = engine.look_up(state.index, state.memory, keys, [digest for _, digest in read])
            engine.predict(state.memory, keys, lists)
    return time.perf_counter() - begin


def _job(wanted: predict_job.Wanted, images: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = storage.join(folder, "x.parquet")
        begin = time.perf_counter()
        runner = Runner()
        with runner.stage("predict", "photographs", folder):
            source = predict_job.source_of(images, storage.join(folder, "parts"))
            predict_job.run(wanted, source, "", output, storage.join(folder, "parts"), Embed(), runner)
        return time.perf_counter() - begin


def _one(recognizer: Recognizer, session: Session, head: str, path: str) -> tuple[float, float]:
    """Returns the seconds of one photograph through a recogniser, and those of bare decoding, encoder, search and head.

    The encoder's graph gets one image, as a program for single images would give it.
    """
    encoder, engine, state = session.load_encoder(), session.engine(head), session.state()
    now = time.perf_counter()
    with open(path, "rb") as file:
        data = file.read()
    picture = decode.decode(data, session.embed.max_image_pixels, [encoder.preprocess])
    keys = encoder.encode([decode.prepare(picture, encoder.preprocess)], 1)
    lists = engine.look_up(state.index, state.memory, session.key_spec.info.stored(keys))
    engine.predict(state.memory, keys, lists)
    parts = time.perf_counter() - now
    begin = time.perf_counter()
    recognizer.predict([path])
    return time.perf_counter() - begin, parts


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", required=True, help="workdir or bundle")
    parser.add_argument("--images", required=True, help="pattern of files")
    parser.add_argument("--head", default="", help="that predicts (the best on val)")
    args = parser.parse_args()
    paths = [file.uri for file in patterns.files(args.images)]
    begin = time.perf_counter()
    recognizer = Recognizer.open(args.model, head=args.head)
    opened = time.perf_counter() - begin
    recognizer.predict(paths[:1])
    print(f"open {opened:.2f} s, first answer after {time.perf_counter() - begin:.2f} s")
    session, head = recognizer._session, recognizer.head
    wanted = predict_job.Wanted(args.model, head, "best", 5, 10, False, False)
    recognizer.predict(paths[:1])
    # The first ones compile.
    one = [_one(recognizer, session, head, path) for path in paths[:43]][3:]
    whole, parts = (statistics.median(times) for times in zip(*one, strict=True))
    print(f"one photograph {1e3 * whole:.0f} ms, its parts {1e3 * parts:.0f} ms, {whole / parts:.2f}")
    _bare(session, head, paths[:64])
    pairs = [(_bare(session, head, paths), _job(wanted, args.images)) for _ in range(_ROUNDS)]
    bare, job = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"bare {len(paths) / bare:.1f} photographs/s, predict {len(paths) / job:.1f}, {bare / job:.2f} of it")


if __name__ == "__main__":
    main()
