"""Writes a trained model as one folder that opens anywhere: `web-memory export --config=.. --output=DIR`.

    web-memory export --config=configs/demo.py --output=bundle                    # every head, the best seed of each
    web-memory export --config=configs/demo.py --output=bundle --head=mam --seeds=all
    web-memory export --config=configs/demo.py --output=bundle --reference        # index and memory stay where they are

`model.recognizer.Recognizer` and `web-memory predict --model=DIR` open it.
"""

import sys
from collections.abc import Sequence
from typing import Any

from configs.base import Config
from pipelines import options
from pipelines.errors import UserError
from pipelines.progress import counted, summary

_VALUES: dict[str, tuple[Any, str]] = {
    "output": ("", "folder to write, which must not exist"),
    "run": ("", "workdir, or a folder of its runs (the config's workdir)"),
    "head": ("", "heads to export, separated by commas (all)"),
    "seeds": ("best", "seed of each head: best on val, all, or a number (best)"),
}
_SWITCHES = {"reference": "name index and memory by their paths instead of copying them"}


def run(config: Config, output: str, run: str, head: str, seeds: str, reference: bool) -> None:
    """Writes the bundle.

    Raises:
        UserError: if a flag is wrong, nothing is trained, or a file is missing or damaged.
    """
    from model.recognition import export, trained

    if not output:
        raise UserError("--output is missing: name the folder to write")
    heads = [name for name in head.split(",") if name]
    done = export.write(run or config.workdir, output, heads, trained.seeds_of(seeds), reference)
    removed = {"removed rows": f"the keys of {done.removed:,} are still in the files of the index"}
    summary(
        f"export: {done.size_bytes / 1e6:,.0f} MB",
        {
            "heads": ", ".join(f"{name} (seeds {', '.join(map(str, known))})" for name, known in done.heads.items()),
            "memory": f"{counted(done.rows, 'row')}, {'referred to' if reference else 'copied'}",
            **(removed if done.removed else {}),
            **({"not exported": "; ".join(done.left_out)} if done.left_out else {}),
            "output": output,
        },
    )


def foresee(config: Config, output: str, run: str, head: str, seeds: str, reference: bool) -> dict[str, str]:
    """Says what would be exported; errors as those of `run` before anything is copied."""
    from model.recognition import export

    if not output:
        raise UserError("--output is missing: name the folder to write")
    export.check_output(output)
    return {"would": f"export from {run or config.workdir}", **_trained(run or config.workdir, head), "output": output}


def _trained(path: str, head: str) -> dict[str, str]:
    from model.recognition import trained
    from model.recognition.source import Source

    runs = Source(path).runs
    return {"heads": head or ", ".join(trained.heads(runs)), "runs": runs}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, switches=_SWITCHES, values=_VALUES, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
