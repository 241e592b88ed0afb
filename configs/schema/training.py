"""Fields of training: heads, losses, trials, and fine-tuning of the query encoder."""

import dataclasses
from collections.abc import Iterator

from configs.schema.fields import option
from configs.schema.heads import Lda, Mml, Pairs, Tip, Vote

HEADS = (
    *("linear", "mlp", "lda", "mean_knn", "mam", "mam_names", "guarded", "guarded_names"),
    *("rac", "vl_ltr", "zero_shot", "knn_vote"),
    *("tip_adapter", "tip_adapter_f", "mml", "real_linear", "swat"),
)
TEXT_HEADS = ("mam_names", "guarded", "guarded_names", "rac", "vl_ltr", "knn_vote", "mml", "real_linear", "swat")
LOSSES = ("lace", "lace_post_hoc", "cross_entropy", "ncr", "heteroscedastic", "mile", "curriculumnet", "paco")
SAMPLINGS = ("uniform", "square_root", "balanced")
STARTS = ("similarity", "random")
SIMILARITIES = ("cosine", "whitened")
POOLINGS = ("mean", "similarity")
TUNINGS = ("halving", "grid", "random", "optuna")
SHOTS = ("decoupling", "oltr")
TABLES = ("device", "host")
DTYPES = ("float32", "bfloat16")
_MAX_SEED = 2**31


@dataclasses.dataclass(frozen=True)
class Names:
    """Heads of ours, `mam_names`, `guarded`, `guarded_names`: first values of learned scalars, unless called fixed."""

    similarity_scale: float = option(
        15.0, "Factor applied to query-key cosines before the softmax over neighbours.", above=0
    )
    temperature: float = option(
        20.0, "Factor applied to caption-name cosines before the softmax over classes; fixed.", above=0
    )
    threshold: float = option(
        0.4, "Cosine to a class name below which a caption counts as naming no class; fixed.", above=0
    )
    prior_scale: float = option(
        0.25, "Weight of a query's log-likelihood under what the memory shows of each class.", above=0
    )
    vote_weight: float = option(0.6, "Weight of the log of the neighbours' votes.", above=0)
    smoothing: float = option(0.01, "Vote that each class has without a neighbour; fixed.", above=0)
    ridge: float = option(
        0.3, "Added to the covariance of the memory's keys, as a share of their mean variance; fixed.", above=0
    )


@dataclasses.dataclass(frozen=True)
class Ncr:
    """Neighbour consistency (Iscen et al., 2022), `loss=ncr`."""

    weight: float = option(0.3, "Share of the consistency term; the rest is cross entropy.", at_least=0, at_most=1)
    neighbors: int = option(
        10, "Neighbours of each image within its batch; the paper takes 10 without noise, 100 at 40 %.", at_least=1
    )
    temperature: float = option(2.0, "Temperature of the softmax of both sides.", above=0)
    gamma: float = option(1.0, "Power of the cosine that weighs a neighbour.", above=0)
    start: float = option(
        0.1, "Share of the steps before the term sets in; the paper's is epoch 10 of 130 [I].", at_least=0, below=1
    )


@dataclasses.dataclass(frozen=True)
class Heteroscedastic:
    """Noise of the logits that depends on the image (Collier et al., 2021), `loss=heteroscedastic`."""

    rank: int = option(10, "Rank of the covariance beside its diagonal [I].", at_least=1)
    temperature: float = option(1.0, "Temperature of the softmax [I].", above=0)
    samples: int = option(100, "Monte Carlo samples, in training and in prediction [I].", at_least=1)


@dataclasses.dataclass(frozen=True)
class Mile:
    """Teacher and student by turns (Rajeswar et al., 2022), `loss=mile`."""

    threshold: float = option(
        0.25, "Probability above which the teacher's answer is a label of the student [I].", above=0, below=1
    )
    teacher_steps: int = option(20, "Steps of a turn of the teacher, on the given labels [I].", at_least=1)
    student_steps: int = option(20, "Steps of a turn of the student, on the teacher's labels [I].", at_least=1)


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Clean images first (Guo et al., 2018), `loss=curriculumnet`."""

    density: float = option(
        0.6, "Share of a class's distances below the radius in which density is counted.", above=0, below=1
    )
    starts: tuple[float, ...] = option(
        (0.35, 0.7), "Shares of the steps at which noisy and highly noisy images come in [I].", above=0, below=1
    )
    weights: tuple[float, ...] = option(
        (1.0, 0.5, 0.5), "Weights in the loss of clean, noisy and highly noisy images [I].", at_least=0
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if len(self.starts) != 2 or self.starts[0] >= self.starts[1]:
            yield "starts", "must be two shares of the steps, the second larger"
        if len(self.weights) != 3:
            yield "weights", "must be three, of clean, noisy and highly noisy images"


@dataclasses.dataclass(frozen=True)
class Paco:
    """Parametric contrastive learning (Cui et al., 2021), `loss=paco`."""

    alpha: float = option(0.05, "Weight of an image of the same class as a positive.", at_least=0)
    beta: float = option(1.0, "Weight of the class's centre as a positive.", at_least=0)
    gamma: float = option(1.0, "Weight of images in the denominator; that of centres is 1.", at_least=0)
    temperature: float = option(0.2, "Temperature of the cosines of projected features.", above=0)
    queue: int = option(1024, "Images of earlier steps to contrast with; at least the batch size.", at_least=1)
    dim: int = option(128, "Width of the projection.", at_least=1)
    momentum: float = option(0.99, "Momentum of the copy that makes the second view [I].", at_least=0, at_most=1)
    view_dropout: float = option(
        0.1, "Share of the query's entries that each view leaves out [I].", at_least=0, below=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if self.alpha + self.beta == 0:
            yield "alpha", "must be above 0 where beta is 0, or nothing is positive"


@dataclasses.dataclass(frozen=True)
class Train:
    """How heads are trained: the same trials on val for each, then one run of the best setting for each seed."""

    heads: tuple[str, ...] = option(
        ("linear", "mlp", "mean_knn", "mam"), "Heads to train.", choices=HEADS, required=True, distinct=True
    )
    loss: str = option("lace", "Loss that heads are trained with (docs/method.md) [I].", choices=LOSSES)
    tau: float = option(1.0, "Weight of the log prior in `lace` and `lace_post_hoc` [I].", at_least=0)
    label_smoothing: float = option(
        0.0, "Share of the target that `cross_entropy` spreads over all classes.", at_least=0, below=1
    )
    sampling: str = option("uniform", "How often images of large classes are drawn.", choices=SAMPLINGS)
    values: tuple[str, ...] = option(("text",), "Kinds of values that neighbours add [I].", required=True)
    layers: int = option(1, "Attention layers [I].", at_least=1)
    attention_heads: int = option(1, "Attention heads of each layer [I].", at_least=1)
    attention_dim: int = option(
        0, "Width of a head's query and key projections; 0 for none: attention by cosine alone [I].", at_least=0
    )
    value_dim: int = option(1024, "Width of the value projections of all attention heads together [I].", at_least=1)
    start: str = option(
        "similarity",
        "Where attention starts: at softmax(scale * cosine), or at random projections [I].",
        choices=STARTS,
    )
    similarity: str = option(
        "whitened",
        "Score of a neighbour: the cosine, or the cosine after whitening the keys that training images retrieved [I].",
        choices=SIMILARITIES,
    )
    similarity_scale: float = option(
        15.0, "First value of the learned factor on these scores (inverse temperature) [I].", at_least=0
    )
    value_scale: float = option(
        2.5,
        "First size of what neighbours add, relative to the query: the key that a value predicts, by a regression "
        "over the memory; 0 for nothing [I].",
        at_least=0,
    )
    start_at_names: bool = option(
        False,
        "Whether linear classifiers start at the zero-shot classifier, the names of the classes in the space of the "
        "keys.",
    )
    cosine_scale: float = option(
        0.0,
        "First value of the learned scale of cosines where `linear` is a cosine classifier, as LIFT's, of 25; 0 for an "
        "affine one.",
        at_least=0,
    )
    null_slot: bool = option(
        False, "Whether attention has an extra entry that adds nothing, so that it can ignore the list [I]."
    )
    feed_forward: int = option(0, "Hidden width of a network after each attention layer; 0 for none [I].", at_least=0)
    dtype: str = option("float32", "Type of the memory on the device and of the products with it.", choices=DTYPES)
    table: str = option(
        "device",
        "Where the memory's keys and values are: on the device, or on the host in files below `runs/tables/`.",
        choices=TABLES,
    )
    k: int = option(0, "Neighbours that are used, the first of each list; 0 for all.", at_least=0)
    random_k: bool = option(False, "Whether each list is cut to a random length from 1 to k in training [I].")
    neighbor_dropout: float = option(
        0.25, "Share of the neighbours left out of each list in training [I].", at_least=0, below=1
    )
    rac_pooling: str = option("mean", "How `rac` pools the texts [I].", choices=POOLINGS)
    rac_normalize: bool = option(
        False, "Whether `rac` scales each branch's logits to unit length times a learned factor [I]."
    )
    bank_sentences: int = option(32, "Sentences of each class in `vl_ltr` [I].", at_least=1)
    vl_ltr_width: float = option(
        4.0, "Hidden width of the visual branch of `vl_ltr`, as a multiple of the query's width.", above=0
    )
    batch_size: int = option(128, "Queries in each step.", at_least=1)
    steps: int = option(300, "Steps of a run.", at_least=1)
    warmup_share: float = option(0.1, "Share of the steps that warm up, before a cosine decay.", at_least=0, below=1)
    search: str = option(
        "halving",
        "How trials are chosen: successive halving, all settings, distinct random ones, or Optuna's TPE.",
        choices=TUNINGS,
    )
    trials: int = option(
        0,
        "Settings that are tried of each head, all if there are fewer; 0 for all, or 40 of successive halving, which "
        "trains the best of them again for longer, each time a trial of its own (docs/method.md).",
        at_least=0,
    )
    folds: int = option(
        3,
        "Divisions of the train and val images, the given one and others like it, that a whole trial is measured on; "
        "1 where val has 10,000 images or more.",
        at_least=1,
    )
    space: tuple[str, ...] = option(
        (), "More axes of the grid, each a field and its values: `similarity_scale=10|20|40`."
    )
    learning_rates: tuple[float, ...] = option((1e-3, 3e-3), "Learning rates of the trials.", required=True, at_least=0)
    weight_decays: tuple[float, ...] = option(
        (0.1, 1.0, 10.0), "AdamW weight decays of the trials.", required=True, at_least=0
    )
    dropouts: tuple[float, ...] = option(
        (0.0, 0.5), "Dropouts of the classifier's input in the trials.", required=True, at_least=0, below=1
    )
    seeds: tuple[int, ...] = option(
        (0, 1, 2, 3, 4),
        "Seeds, one run each with the chosen setting.",
        required=True,
        distinct=True,
        at_least=0,
        below=_MAX_SEED,
    )
    checkpoint_every: int = option(100, "Steps between checkpoints.", at_least=1)
    names: Names = Names()
    lda: Lda = Lda()
    vote: Vote = Vote()
    tip: Tip = Tip()
    mml: Mml = Mml()
    pairs: Pairs = Pairs()
    ncr: Ncr = Ncr()
    heteroscedastic: Heteroscedastic = Heteroscedastic()
    mile: Mile = Mile()
    curriculum: Curriculum = Curriculum()
    paco: Paco = Paco()
    many_over: int = option(
        0,
        "Classes with more training images are many-shot; 0 for 100, or for thirds of the classes by size where 100 "
        "and 20 leave a group empty.",
        at_least=0,
    )
    few_under: int = option(
        0,
        "Classes with fewer training images are few-shot, the rest medium-shot; 0, as `many_over`, for 20 or thirds.",
        at_least=0,
    )
    shots: str = option(
        "decoupling",
        "Whether classes with exactly `many_over` or `few_under` images are medium-shot (decoupling) or not.",
        choices=SHOTS,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that does not fit the others, and why."""
        if self.value_dim % self.attention_heads:
            yield "attention_heads", f"must divide value_dim={self.value_dim}"
        readers = [name for name in self.heads if name in TEXT_HEADS]
        if readers and "text" not in self.values:
            yield "values", f"{readers[0]} reads texts; add text"
        if bool(self.many_over) != bool(self.few_under):
            yield (
                "few_under" if self.many_over else "many_over",
                f"must be set, too, or both be 0: many_over={self.many_over} and few_under={self.few_under} do not say "
                "which classes are medium-shot",
            )
        elif self.few_under > self.many_over + 1:
            yield (
                "few_under",
                f"must be at most {self.many_over + 1}: a class of {self.many_over + 1} images would be many-shot, by "
                f"many_over={self.many_over}, and few-shot",
            )
        if self.loss == "ncr" and self.ncr.neighbors >= self.batch_size:
            yield (
                "ncr.neighbors",
                f"must be less than batch_size={self.batch_size}, since neighbours are those of the batch",
            )
        if self.loss == "paco" and self.paco.queue < self.batch_size:
            yield "paco.queue", f"must be at least batch_size={self.batch_size}"


@dataclasses.dataclass(frozen=True)
class Align:
    """How two frozen encoders are taught one space: a linear layer behind each, trained on the memory's pairs."""

    folder: str = option(
        "out/align",
        "Folder of the outputs; `encoders.key` and `encoders.value_text` name `towers/image` and `towers/text` in it.",
    )
    key: str = option("efficientnet-lite0", "Image encoder below the image tower; no ONNX file.")
    text: str = option("minilm-l6-v2", "Text encoder below the text tower.")
    dim: int = option(256, "Width of the shared space.", at_least=1)
    steps: int = option(1000, "Training steps.", at_least=1)
    batch_size: int = option(1024, "Pairs in each step; the others of a step are a pair's negatives.", at_least=2)
    learning_rate: float = option(1e-3, "Peak learning rate of AdamW, before a cosine decay.", above=0)
    weight_decay: float = option(0.1, "Weight decay of AdamW.", at_least=0)
    dropout: float = option(
        0.5, "Share of the entries of the frozen vectors that are left out in training.", at_least=0, below=1
    )
    temperature: float = option(0.07, "First value of the learned temperature of cosines.", above=0)
    val_every: int = option(100, "Steps between measurements on val; the best are kept.", at_least=1)
    val: int = option(1000, "Pairs that choose the step, never trained on.", at_least=1)
    held_out: int = option(1000, "Pairs that recall is measured on once, never trained on.", at_least=1)
    most_pairs: int = option(1_000_000, "Most pairs that are read, which bounds memory.", at_least=1)


@dataclasses.dataclass(frozen=True)
class Finetune:
    """How the query encoder is trained together with a head, from the frozen run of each of `train.seeds`."""

    head: str = option("mam", "Head to continue from, one of `train.heads`.", choices=HEADS)
    encoder: str = option(
        "", "ViT that embedded the queries: an `.npz`, or an `encoder.json` that names one; empty for `encoders.key`."
    )
    learning_rates: tuple[float, ...] = option(
        (3e-4,), "Peak learning rates of the head in the trials [I].", required=True, at_least=0
    )
    encoder_ratios: tuple[float, ...] = option(
        (0.01,),
        "Learning rate of the encoder over that of the head, crossed with `learning_rates` [I].",
        required=True,
        at_least=0,
    )
    batch_size: int = option(128, "Images in each step, over all devices.", at_least=1)
    steps: int = option(2000, "Steps of a run.", at_least=1)
    warmup_share: float = option(0.1, "Share of the steps that warm up, before a cosine decay.", at_least=0, below=1)
    stochastic_depth: float = option(
        0.0, "Share of the images whose residual branches the encoder's last block skips [I].", at_least=0, below=1
    )
    adapter_dim: int = option(
        0,
        "Width of an adapter in each block of the encoder, which is then all of it that is trained (AdaptFormer, as "
        "LIFT has it; set `encoder_ratios` to 1); 0 to train the whole encoder.",
        at_least=0,
    )
    min_area: float = option(
        0.3,
        "Smallest share of a picture that a random crop keeps; 1 for the encoder's own crop [I].",
        above=0,
        at_most=1,
    )
    max_aspect: float = option(
        4 / 3,
        "Largest ratio of longer to shorter side of a random crop, before it is resized to a square [I].",
        at_least=1,
    )
    flip: bool = option(True, "Whether half of the pictures are mirrored [I].")
    image_size: int = option(
        0,
        "Side of the input in pixels, to which position embeddings are interpolated; 0 for the encoder's own.",
        at_least=0,
    )
    test_margin: int = option(
        0,
        "Pixels by which val and test pictures are larger than the input: predictions are then the mean over five "
        "windows, the corners and the middle (LIFT's test-time ensemble, with 24); 0 for the picture as it was "
        "embedded.",
        at_least=0,
    )
    dtype: str = option("float32", "Type of the encoder's matrix products.", choices=DTYPES)
    remat: bool = option(False, "Whether to recompute a block's activations for the gradients, which saves memory.")
    workers: int = option(2, "Processes that read and decode images; 0 to do it between the steps.", at_least=0)
    checkpoint_every: int = option(500, "Steps between checkpoints, which are measured on val.", at_least=1)
