"""Lists what can be named as an encoder, or says what one encoder is and how fast it is here.

    web-memory encoders
    web-memory encoders minilm-l6-v2
    web-memory encoders /models/my-encoder --config.embed.batch_size=128

Of a SavedModel or an ONNX file without an `encoder.json` it shows one to fill in. No config is needed; fields of
`encoders` and `embed` apply.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from pipelines import options, progress
from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.encoders.facts.parts import Parts
    from pipelines.encoders.facts.template import Template
    from pipelines.encoders.facts.trial import Trial
    from pipelines.encoders.handles import EncoderSpec


def run(config: Config, handle: str) -> None:
    """Shows the encoders, or one of them.

    Raises:
        UserError: if the handle names no encoder, or one that cannot be loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from pipelines.encoders.facts import catalogue, parts, template, trial
    from pipelines.encoders.handles import PRECOMPUTED, resolve
    from pipelines.encoders.process import one_thread_a_call

    if not handle:
        progress.summary("encoders (docs/encoders.md)", catalogue.rows())
        return
    if handle.startswith(PRECOMPUTED):
        raise UserError(f"encoder {handle!r}: stands for vectors of a source; there is no model to look at")
    if template.wanted(handle):
        _show_template(template.make(handle))
        return
    chosen = config.encoders
    # The vectors as the model returns them.
    spec = resolve(handle, chosen.dtype, False, chosen.crop_fraction, chosen.unsafe_models, chosen.compute)
    batch_size = config.embed.batch_size
    one_thread_a_call(1)
    _show(spec, parts.read(spec), trial.run(spec, batch_size), batch_size)


def _show(spec: "EncoderSpec", parts: "Parts", trial: "Trial", batch_size: int) -> None:
    shortest, longest = trial.lengths
    lengths = "unit" if trial.is_unit else f"{shortest:.4g} to {longest:.4g}; embed scales them to 1 unless told not to"
    unit, each = f"{spec.kind}s/s", f"batches of {batch_size}"
    rows = {
        "kind": spec.kind,
        "width of vectors": f"{spec.info.dim:,}",
        **{name: value for name, value in spec.description["preprocess"].items() if value is not None},
        "space": spec.space or "its own",
        "parameters": f"{parts.parameters:,}",
        "bytes": f"{parts.size_bytes:,}",
        **({"source": parts.source} if parts.source else {}),
        "fingerprint": spec.info.fingerprint,
        "length of vectors": lengths,
        "cosines": "; ".join(f"{one}, {other}: {cosine:.3f}" for (one, other), cosine in trial.cosines.items()),
        unit: f"{trial.wall_rate:,.1f} by the clock, {trial.processor_rate:,.1f} by processor time; one thread, {each}",
    }
    progress.summary(spec.handle, rows)
    progress.table("files", ("SHA-256", "file"), [(digest, file) for file, digest in parts.files.items()], ("file",))


def _show_template(template: "Template") -> None:
    for signature in template.signatures:
        title = f"signature {signature.name}" if signature.name else "the file"
        rows = {f"takes {name}": str(tensor) for name, tensor in signature.inputs.items()}
        progress.summary(title, rows | {f"gives {name}": str(tensor) for name, tensor in signature.outputs.items()})
    progress.say(f"there is no {template.path} yet; this is one to fill in:")
    for line in template.text.splitlines():
        progress.say(line)
    progress.summary("to fill in or check", dict(line.split(": ", 1) for line in template.missing))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, argument="handle")


if __name__ == "__main__":
    sys.exit(main())
