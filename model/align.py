"""Teaches two frozen encoders one space: `web-memory align --config=configs/two_tower.py`.

Embeds the memory with the two encoders of `align`, trains a linear layer behind each on its image-text pairs, measures
recall on pairs that were held out, and writes the encoders with their layers as two SavedModels of one space. Copies of
val and test images are left out as from any memory. Flags that are not ours go to Beam.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config, Source, TwoTowerConfig
from pipelines import fields, manifest, options, storage
from pipelines.errors import UserError
from pipelines.progress import Stage, counted, duration, summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec

_KINDS = {"key": "image", "text": "text"}
_AT = (1, 10)


def run(config: Config, runner: Runner) -> None:
    """Trains and writes the two towers, unless they are there already.

    Raises:
        UserError: if the config trains no towers, an encoder cannot become one, or the towers in the folder were
            trained with other settings.
    """
    config = _checked(config)
    specs = _bases(config)
    settings = _settings(config, specs)
    towers = storage.join(config.align.folder, "towers")
    done = _read(towers, settings, config)
    if not done:
        _embed(config, runner)
    with Stage("align", "steps", config.workdir) as stage:
        stage.worked = not done
        if not done:
            done = _make(config, specs, settings, towers, stage)
        title = (
            f"align: {counted(done['step'], 'step')} in {duration(stage.secs)}"
            if stage.worked
            else "align: already done"
        )
        summary(title, _lines(done, towers))


def _checked(config: Config) -> TwoTowerConfig:
    if not isinstance(config, TwoTowerConfig):
        raise UserError("this config trains no encoders; only a TwoTowerConfig, such as configs/two_tower.py, does")
    return config


def foresee(config: Config) -> dict[str, str]:
    """Says what would be embedded and trained; errors as those of `run` that need no training."""
    from pipelines.embedding import stage
    from pipelines.embedding.request import Request

    config = _checked(config)
    towers = storage.join(config.align.folder, "towers")
    if _read(towers, _settings(config, _bases(config)), config):
        return {"done": "both towers are trained; nothing to do", "output": towers}
    found = stage.foresee(Request.of(_frozen(config)))
    return {**found, "would": f"train two layers for {config.align.steps:,} steps", "output": towers}


def _bases(config: TwoTowerConfig) -> "dict[str, EncoderSpec]":
    """Returns the two frozen encoders by role; a `UserError` if one is of the wrong kind or cannot become a tower."""
    from pipelines.encoders import handles, projected

    found, frozen = {}, _frozen(config)
    for role, kind in _KINDS.items():
        handle = getattr(config.align, role)
        if handle.startswith(handles.PRECOMPUTED):
            spec = handles.precomputed(handle, 1, "float32", True)
        else:
            spec = handles.configured(handle, frozen.encoders)
        projected.check(spec)
        if spec.kind != kind:
            raise UserError(f"--config.align.{role}={handle}: is an encoder of {spec.kind}s, not {kind}s")
        found[role] = spec
    return found


def _frozen(config: TwoTowerConfig) -> Config:
    """Returns the config that embeds the memory, and the splits that must not leak into it, with the two encoders."""
    align = config.align
    encoders = dataclasses.replace(
        config.encoders, key=align.key, value_text=(align.text,), value_image=(), dtype="float32"
    )
    splits = config.filters.leakage_splits if config.filters.leakage else ()
    unused: Any = {f"{name}_set": Source() for name in config.queries if name not in splits}
    return dataclasses.replace(config, workdir=align.folder, generation="", class_names="", encoders=encoders, **unused)


def _embed(config: TwoTowerConfig, runner: Runner) -> None:
    from pipelines.embedding.request import Request
    from pipelines.embedding.stage import embed

    embed(Request.of(_frozen(config)), runner)


def _settings(config: TwoTowerConfig, specs: "dict[str, EncoderSpec]") -> dict[str, Any]:
    """Returns what decides the bytes of the towers, beside the rows of the memory, as JSON values."""
    align = {name: value for name, value in dataclasses.asdict(config.align).items() if name not in ("folder", *_KINDS)}
    settings = {
        "align": align,
        "seed": config.seed,
        "memory": dataclasses.asdict(config.memory),
        "encoders": {role: dataclasses.asdict(spec.info) for role, spec in specs.items()},
    }
    # As it is read again.
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _read(towers: str, settings: dict[str, Any], config: Config) -> dict[str, Any]:
    """Returns what is known of finished towers; empty if there are none.

    Raises:
        UserError: if they were trained with other settings, or are damaged.
    """
    path = storage.join(towers, "align.json")
    if not storage.exists(path):
        return {}
    again = f"remove {towers} and run web-memory align again"
    found: dict[str, Any] = storage.read_json(path, again, sealed=True)
    if differs := fields.difference(found["settings"], settings):
        raise UserError(
            f"{towers}: was trained with other settings, {differs}; remove it, or set another --config.align.folder"
        )
    if found["fingerprints"] != _fingerprints(towers, config):
        raise UserError(f"{towers}: is damaged; {again}")
    return found


def _fingerprints(towers: str, config: Config) -> dict[str, str]:
    from pipelines.encoders import handles

    # Without the flags that change an encoder where it is used.
    plain = dataclasses.replace(config.encoders, compute="float32", crop_fraction=0.0)
    places = {kind: storage.join(towers, kind) for kind in _KINDS.values()}
    return {kind: handles.configured(place, plain).info.fingerprint for kind, place in places.items()}


def _make(
    config: TwoTowerConfig, specs: "dict[str, EncoderSpec]", settings: dict[str, Any], towers: str, stage: Stage
) -> dict[str, Any]:
    """Trains, measures and writes the towers; the folder appears when it is whole."""
    from model.aligning import contrastive, pairs, retrieval
    from pipelines.encoders import projected

    align = config.align
    memory = manifest.Embeddings(_frozen(config).places.memory)
    parts = pairs.read(memory, align, config.seed)
    space = contrastive.train(parts, align, config.seed, lambda step: stage.update(step / align.steps, step))
    held_out = parts.held_out
    images, texts = space.image(held_out.images), space.text(held_out.texts)
    layers = {"key": space.image, "text": space.text}
    weights = {
        role: [spec.info.fingerprint, *(x.tobytes().hex() for x in (layers[role].matrix, layers[role].bias))]
        for role, spec in specs.items()
    }
    name = f"aligned-{manifest.fingerprint(weights)}"
    facts: dict[str, Any] = {
        "settings": settings,
        "memory": memory.snapshot,
        "space": name,
        "rows": {"train": len(parts.train), "val": len(parts.val), "held_out": len(held_out)},
        "step": space.step,
        "temperature": space.temperature,
        "val_recall_at_10": space.val_recall,
        "recall": {f"at_{k}": retrieval.measured(images, texts, k) for k in _AT},
    }
    with storage.atomic_folder(towers) as temporary:
        for role, kind in _KINDS.items():
            layer = layers[role]
            folder = storage.join(temporary, kind)
            projected.save(specs[role], layer.matrix, layer.bias, f"{name}-{kind}", name, folder)
        facts["fingerprints"] = _fingerprints(temporary, config)
        # NumPy cuts zeros off the end of bytes.
        keys = [key.ljust(32, b"\0").hex() for key in held_out.content_keys.tolist()]
        storage.write_json(storage.join(temporary, "held_out.json"), {"content_keys": keys})
        storage.write_json(storage.join(temporary, "align.json"), facts)
    return facts


def _lines(facts: dict[str, Any], towers: str) -> dict[str, str]:
    rows = facts["rows"]
    lines = {
        "pairs": f"{rows['train']:,} trained on, {rows['val']:,} chose step {facts['step']:,} "
        f"(recall@10 {facts['val_recall_at_10']:.3f})"
    }
    for name, direction in (("image_by_text", "images by text"), ("text_by_image", "texts by image")):
        found = [(k, facts["recall"][f"at_{k}"][name]) for k in _AT]
        lines[direction] = (
            ", ".join(
                f"recall@{k} {f['recall']:.3f} [{f['low']:.3f}, {f['high']:.3f}] (chance {f['chance']:.3f})"
                for k, f in found
            )
            + f" of {rows['held_out']:,} held-out pairs"
        )
    return {**lines, "space": facts["space"], "output": towers}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
