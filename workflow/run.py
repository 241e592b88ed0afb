"""Runs every stage of a config in order: `web-memory run --config=configs/demo.py`.

The stages run in two processes: embedding and search with TensorFlow, then training and report with JAX. In one process
each of the two libraries would take the whole memory of an accelerator. Each stage resumes the work that is left.
"""

import glob
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import web_memory
from configs.base import Config, DemoConfig, TwoTowerConfig
from configs.schema.data import NEW_IMAGES
from configs.schema.search import KEY
from pipelines import fields, generation, manifest, options, storage
from pipelines.errors import UserError
from pipelines.progress import say

# What runs after the demo's corpus or the training of two towers.
_BEAM = ("align", "embed", "concepts", "build", "neighbors")
_TRAINED = ("train", "report")


def _embedded(config: Config) -> list[str]:
    """Returns the stages that embed and search; names are looked for if lists go by them."""
    return ["embed", *(["concepts"] if config.neighbors.by != KEY else []), "build", "neighbors"]


def _predict_new_images(config: Config, argv: Sequence[str]) -> int:
    """Ends a demo with predictions for its images of no list, if it has any, and says where the page is."""
    page = f"the page: {storage.join(config.workdir, 'report', 'index.html')}"
    if list(pathlib.Path(config.data, NEW_IMAGES).glob("*.jpg")):
        runs = storage.read_json(storage.join(config.workdir, "results.json"))["runs"]
        images = storage.join(glob.escape(config.data), NEW_IMAGES, "*.jpg")
        flags = [f"--run={runs}", f"--images={images}", *(["--head=mam"] if "mam" in config.train.heads else [])]
        say("images that no list has:")
        if code := _in_new_process(["predict"], [*argv, *flags]):
            return code
    say(page)
    return 0


def _in_new_process(names: Sequence[str], argv: Sequence[str]) -> int:
    try:
        command = [sys.executable, web_memory.__file__, ",".join(names), *argv]
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        # The other process was interrupted, too, and has said so.
        return 130


def _dry_run(config: Config, names: Sequence[str], argv: Sequence[str], ours: Sequence[str]) -> int:
    """Says what each stage would do, up to the first whose outputs the next one needs and are not there yet."""
    places = generation.resolve(config).places
    made = {
        "demo_corpus": config.data,
        "align": config.align.folder if isinstance(config, TwoTowerConfig) else "",
        "embed": storage.join(places.memory, manifest.COMPLETE_FILE),
        "concepts": storage.join(places.concepts, manifest.COMPLETE_FILE),
        "build": storage.join(places.index, "manifest.json"),
        "neighbors": storage.join(places.neighbors, manifest.COMPLETE_FILE),
    }
    for number, name in enumerate(names, 1):
        if code := web_memory.run_stages([name], argv if name in _BEAM else ours):
            return code
        if name in made and not storage.exists(made[name]):
            later = ", ".join([*names[number:], "report"])
            say(f"{later}: would follow; what they would do depends on what {name} writes")
            return 0
    say("report: would follow, with what train has")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        config, flags, beam = options.parse(argv, str(__doc__).splitlines()[0])
        if problems := fields.line_problems(config):
            raise UserError(problems[0])
    except UserError as error:
        return options.failed(str(error))
    # Flags that are not ours are for Beam.
    ours = [arg for arg in argv if arg not in beam]
    corpus = ["demo_corpus"] if isinstance(config, DemoConfig) else []
    towers = ["align"] if isinstance(config, TwoTowerConfig) else []
    if flags:
        return _dry_run(config, [*corpus, *towers, *_embedded(config), "train"], argv, ours)
    code = web_memory.run_stages(corpus, ours) or web_memory.run_stages([*towers, *_embedded(config)], argv)
    code = code or _in_new_process(_TRAINED, ours)
    return code or (_predict_new_images(config, ours) if corpus else 0)


if __name__ == "__main__":
    sys.exit(main())
