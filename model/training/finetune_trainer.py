"""The jitted functions of a head and the encoder of its queries, trained together from a frozen run.

A `Trainer` whose queries come from images; keys, values, neighbours and cosines stay those of the frozen encoder.
`finetune_runs` chooses the runs, `train_loop` writes checkpoints and files, `input_pipeline` makes pixels.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.base import Finetune, Train
from model import objectives
from model.data import input_pipeline, parallel
from model.data.batch import offset, standardize
from model.data.datasets import Task
from model.data.input_pipeline import WINDOWS, Augment, Draws, Images, Window
from model.data.tables import Tables
from model.training import run_files, vit
from model.training.checkpoints import Checkpoints
from model.training.trainer import Setting, State, Trainer
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess

_SMALLEST_SQUARE = 1e-24

# The pictures of a split, augmented or as they were embedded.
OpenImages = Callable[[str, Augment | Window | None], Images]


@dataclasses.dataclass(frozen=True)
class FinetuneSetting(Setting):
    """Hyperparameters of a run; `encoder_ratio` is the encoder's learning rate as a share of the head's."""

    encoder_ratio: float


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder of the queries, as it was while frozen.

    Attributes:
        model: the ViT.
        params: NumPy or JAX arrays.
        preprocess: of its input.
        normalized: whether its vectors were scaled to unit length.
    """

    model: vit.Vit
    params: vit.Params
    preprocess: ImagePreprocess
    normalized: bool

    def standardized(self, params: Any, images: jax.Array, rng: jax.Array | None) -> dict[str, jax.Array]:
        """Returns `queries` `[B, D]` and `offsets` `[B]` of a batch, of uint8 images `[B, S, S, 3]`.

        A training step passes its key as `rng`. If the model has adapters, they alone have gradients.
        """
        if self.model.adapter_dim:
            params = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if vit.is_of_adapter(path) else jax.lax.stop_gradient(leaf), params
            )
        vectors = self.model.apply({"params": params}, vit.scale_pixels(images), rng)
        if self.normalized:
            # The square root has no gradient at 0.
            squares = jnp.square(vectors).sum(-1, keepdims=True)
            vectors = vectors * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST_SQUARE))
        return {"queries": standardize(vectors), "offsets": offset(vectors)}


def restore_frozen(folder: str, head: str, seed: int, state: State) -> State:
    """Returns the last state of the frozen run of a head and seed in `folder`; `state` has its shapes.

    Raises:
        UserError: if the run is not finished, or its checkpoint cannot be read.
    """
    if not run_files.is_done(folder):
        raise UserError(f"{folder}: holds no finished run; run web-memory train with this configuration first")
    local = pathlib.Path(folder).absolute()
    result = run_files.read_result(folder, {"head": head, "seed": seed})
    of = {name: result.get(name) for name in ("head", "seed", "setting", "split", "config_hash")}
    with Checkpoints(local, of) as checkpoints:
        return checkpoints.restore(state, must_exist=True)


class FinetuneTrainer(Trainer):
    """The jitted functions of one head with its encoder, for `train_loop` as those of a `Trainer`.

    Attributes:
        encoder: of the queries, as it was while frozen.
        images: opens the pictures of a split.
    """

    def __init__(
        self,
        train: Train,
        settings: Finetune,
        task: Task,
        data: dict[str, Tables],
        encoder: Encoder,
        images: OpenImages,
        frozen: Callable[[int], str],
        on_step: Callable[[int], None],
    ) -> None:
        """Builds the head of the frozen runs.

        Args:
            train: the settings of the frozen runs.
            settings: of fine-tuning.
            task: the task to learn.
            data: the splits in device memory.
            encoder: of the queries.
            images: opens the pictures of a split.
            frozen: folder of the frozen run of a seed.
            on_step: called after each step with the number of steps done.
        """
        # The head is built, and its frozen run restored, with the settings of that run.
        super().__init__(settings.head, task, data, train)
        if self.kind.draw:
            raise UserError(
                f"--config.finetune.head={settings.head}: trains on memory rows as well, whose images fine-tuning does "
                "not read; name another head"
            )
        self.name = f"{settings.head} + FT"
        self._frozen, self._on_step, self._frozen_steps = frozen, on_step, train.steps
        self.train = dataclasses.replace(
            train,
            batch_size=settings.batch_size,
            steps=settings.steps,
            warmup_share=settings.warmup_share,
            checkpoint_every=settings.checkpoint_every,
        )
        self._settings, self.encoder, self.images = settings, encoder, images
        self._step = jax.jit(self.run_step, donate_argnums=0, out_shardings=parallel.whole())
        self._predict_images = jax.jit(self._forward_images)
        self._open = contextlib.ExitStack()
        self._batches: tuple[tuple[int, int], Iterator[input_pipeline.ImageBatch]] | None = None

    def optimizer(
        self, learning_rate: jax.Array, weight_decay: jax.Array, ratio: jax.Array
    ) -> optax.GradientTransformation:
        """Returns the optimiser of head and objective, at the learning rate, and of the encoder, at `ratio` of it.

        Of an encoder with adapters, all else stays as it is.
        """
        steps = self._settings.steps

        def part(path: Any, _: jax.Array) -> str:
            if path[0].key != "encoder":
                return "head"
            return "encoder" if not self.encoder.model.adapter_dim or vit.is_of_adapter(path) else "frozen"

        rates = optax.multi_transform(
            {
                "head": self._rate(learning_rate, steps),
                "encoder": self._rate(ratio * learning_rate, steps),
                "frozen": optax.set_to_zero(),
            },
            lambda params: jax.tree_util.tree_map_with_path(part, params),
        )
        return self._adam(weight_decay, rates)

    def start(self, seed: int) -> State:
        """Returns the state before the first step: the frozen run of this seed, and the frozen encoder."""
        frozen = restore_frozen(self._frozen(seed), self._settings.head, seed, super().start(seed))
        encoder = vit.with_adapters(self.encoder.model, self.encoder.params, seed)
        params = {**frozen.params, "encoder": jax.tree.map(jnp.array, encoder)}
        optimizer = self.optimizer(*[jnp.zeros(())] * 3)
        state = State(params, optimizer.init(params), frozen.objective, jnp.zeros((), jnp.int32))
        return parallel.replicate(state)

    def run_step(
        self, state: State, images: jax.Array, rows: jax.Array, data: Tables, setting: jax.Array, seed: jax.Array
    ) -> tuple[State, jax.Array]:
        """Runs one step, inside jit; returns the new state and the loss.

        Args:
            state: before the step.
            images: uint8 `[B, S, S, 3]`.
            rows: of the training split, int32 `[B]`.
            data: the training split.
            setting: the fields of `FinetuneSetting`, float32 `[4]`.
            seed: of the run, int32.
        """
        learning_rate, weight_decay, rate, ratio = setting
        images, rows = parallel.split(images), parallel.split(rows)
        # An objective may depend on how long the head has been trained.
        number = self._frozen_steps + state.step
        rng = jax.random.fold_in(jax.random.key(seed), number)
        batch, labels = self._gather(data, rows), data.labels[rows]

        def seen(params: Any) -> objectives.Step:
            queries = self.encoder.standardized(params["encoder"], images, jax.random.fold_in(rng, 2))
            return objectives.Step(
                params["head"],
                params["objective"],
                state.objective,
                batch._replace(**queries),
                labels,
                rows,
                number,
                self._frozen_steps,
                rng,
            )

        return self._descend(state, self.optimizer(learning_rate, weight_decay, ratio), rate, seen)

    def _stream(self, seed: int, begin: int) -> Iterator[input_pipeline.ImageBatch]:
        """Returns the batches from step `begin` on; reuses the running processes if that is their next step."""
        if self._batches is None or self._batches[0] != (seed, begin):
            self.close()
            settings = self._settings
            images = self.images("train", Augment(settings.min_area, settings.max_aspect, settings.flip))
            draws = Draws(self.task.splits["train"].labels, self.train.sampling, seed)
            stream = input_pipeline.training(
                images, draws, seed, begin, settings.steps, settings.batch_size, settings.workers
            )
            self._batches = (seed, begin), self._open.enter_context(stream)
        return self._batches[1]

    def steps(self, state: State, seed: int, end: int, setting: Setting) -> tuple[State, np.ndarray]:
        """Runs up to step `end`; returns the new state and the losses of the steps, float32."""
        begin = int(state.step)
        stream = self._stream(seed, begin)
        step_losses: list[jax.Array] = []
        traced = jnp.array(dataclasses.astuple(setting), jnp.float32)
        for number in range(begin, end):
            batch = next(stream)
            state, loss = self._step(state, batch.images, batch.rows, self.data["train"], traced, seed)
            if step_losses:
                # At most one step is running while the next batch is fetched.
                step_losses[-1].block_until_ready()
            step_losses.append(loss)
            self._on_step(number + 1)
        self._batches = (seed, end), stream
        if end == self.train.steps:
            self.close()
        return state, np.array(step_losses, np.float32)

    def close(self) -> None:
        """Ends the processes that decode images."""
        self._batches = None
        self._open.close()

    def _forward_images(
        self, params: Any, images: jax.Array, rows: jax.Array, data: Tables
    ) -> tuple[jax.Array, jax.Array]:
        images, rows = parallel.split(images), parallel.split(rows)
        batch = self._gather(data, rows)._replace(**self.encoder.standardized(params["encoder"], images, None))
        output = self._apply(params["head"], batch, 0.0, None)
        return self.objective.scores(params["objective"], output), output.weights

    def predict(self, params: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Trainer.predict`; the encoder in `params` makes the queries.

        With `finetune.test_margin`, scores and weights are the means over five windows of each picture.
        """
        margin = self._settings.test_margin
        views: list[Window | None] = [Window(number, margin) for number in range(WINDOWS)] if margin else [None]
        found = [self._predict_view(params, split, view) for view in views]
        return np.mean([scores for scores, _ in found], axis=0), np.mean([weights for _, weights in found], axis=0)

    def _predict_view(self, params: Any, split: str, view: Window | None) -> tuple[np.ndarray, np.ndarray]:
        settings, images = self._settings, self.images(split, view)
        scores, weights = [], []
        with input_pipeline.evaluation(images, settings.batch_size, settings.workers) as stream:
            for batch in stream:
                found = self._predict_images(params, batch.images, batch.rows, self.data[split])
                scores.append(np.asarray(found[0], np.float32))
                weights.append(np.asarray(found[1], np.float32))
        return np.concatenate(scores)[: len(images)], np.concatenate(weights)[: len(images)]
