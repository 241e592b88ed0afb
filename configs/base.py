"""The configuration of the whole line as frozen dataclasses; a config file returns one from `get_config()`.

Every field can be set on the command line: `--config.index.shards=4`, tuples as `--config.train.seeds=0,1,2`.
Input paths are relative to `data`, outputs lie below `workdir`; both may be local, `gs://` or `s3://`.
Fields marked [I] are inferred, not taken from the paper (see docs/method.md).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images (and their texts or labels) are read from.

    Attributes:
        format: a name of docs/sources.md, such as `img2dataset` (tars of .jpg/.txt/.json) or `image_list`.
        path: file, folder or pattern: `*`, `?`, `[..]` and braces (`{00000..00127}.tar`); several parts by commas.
        image_root: folder of the images that a list names.
        metadata: second file of formats that need one.
        class_names: file with a name on each line, which becomes the caption of rows that have a label and no caption.
        fields: our field = theirs, where a format lets names be chosen: `image=jpg`, `caption=txt`, `label=cls`, ..
        classes: of lists with labels, only the rows of the first so many classes; 0 for all.
        part: of lists with labels, only this part of each class, from and to as shares, after its rows were shuffled:
            a validation set that is held out of the training list is one part of it, the training set the rest.
        part_seed: of that shuffling; sources whose parts are to be disjoint share it.
    """

    format: str = "img2dataset"
    path: str = ""
    image_root: str = ""
    metadata: str = ""
    class_names: str = ""
    fields: tuple[str, ...] = ()
    classes: int = 0
    part: tuple[float, ...] = ()
    part_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the lists of a published protocol hold (docs/datasets.md). What is 0 or empty is not checked.

    Attributes:
        train_rows: images that the training list names.
        val_rows: images that the validation list names.
        test_rows: images that the test list names.
        classes: of the training list.
        classes_per_group: many-, medium- and few-shot classes, by `train.shots`.
    """

    train_rows: int = 0
    val_rows: int = 0
    test_rows: int = 0
    classes: int = 0
    classes_per_group: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Encoders:
    """Handle of the encoder of each role: a built-in name, folder, file or URL (docs/encoders.md); empty for none.

    Attributes:
        key: image encoder of keys and queries.
        value_image: image encoders of values; the first fills the column `value_image`, and one that is written
            `name=handle` the column `value_image_name`.
        value_text: text encoders of values, in the same way.
        dtype: `float32` or `float16`, of the vectors on disk.
        normalize: whether vectors are brought to unit length.
        crop_fraction: side of the centre square that image encoders see, over the image's shorter side; 1 for
            thumbnails, whose border is a part of what they show; 0 for what each encoder is described with.
    """

    key: str = "efficientnet-lite0"
    value_image: tuple[str, ...] = ("efficientnet-lite2",)
    value_text: tuple[str, ...] = ("minilm-l6-v2",)
    dtype: str = "float32"
    normalize: bool = True
    crop_fraction: float = 0.0


@dataclasses.dataclass(frozen=True)
class Embed:
    """How images become vectors.

    Attributes:
        batch_size: images an encoder takes at a time; part of a folder's identity, since rounding depends on it.
        list_shard_rows: rows of a list that make one shard.
        max_image_bytes: largest encoded image that is read.
        max_image_pixels: largest decoded image, against decompression bombs.
        max_rejects_share: share of rejected rows above which the job fails.
        threads: batches a process works on at a time; 0 for its share of the machine's cores.
    """

    batch_size: int = 32
    list_shard_rows: int = 512
    max_image_bytes: int = 64 << 20
    max_image_pixels: int = 100_000_000
    max_rejects_share: float = 0.2
    threads: int = 0


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which rows of the memory are kept; those that are not are counted under the field's name. Queries all are.

    Attributes:
        min_side: shortest shorter side, in pixels.
        max_aspect: largest longer over shorter side; 0 for any.
        min_caption_chars: shortest caption.
        max_caption_chars: longest caption; 0 for any.
        metadata: conditions on the source's own fields, all of which must hold: `similarity>=0.3`,
            `NSFW==UNLIKELY|UNSURE`, `LICENSE!=?`; a field that is missing fulfils none.
        opt_out: file of URLs or SHA-256 digests of images, one a line, that must not be in the memory.
        exact_duplicates: drops images whose bytes an earlier row of the memory has.
        near_duplicates: drops images whose key has at least this cosine to that of an earlier row; 0 for none.
        leakage: drops images that are, or whose key has at least this cosine to, an image of `leakage_splits`; 0 for
            none.
        leakage_splits: the splits that must not leak into the memory.
    """

    min_side: int = 0
    max_aspect: float = 0.0
    min_caption_chars: int = 0
    max_caption_chars: int = 0
    metadata: tuple[str, ...] = ()
    opt_out: str = ""
    exact_duplicates: bool = False
    near_duplicates: float = 0.0
    leakage: float = 0.9
    leakage_splits: tuple[str, ...] = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Index:
    """How the keys are indexed.

    Attributes:
        searcher: `scann`, or `exact` where ScaNN cannot run.
        shards: parts of the index, each built and searched on its own; 0 for as few as `memory_gb` allows.
        sharding: `routed`, shards are regions of space and a query visits those near it; or `hash`, chance decides and
            every query visits every shard.
        target_recall: recall@k that the search parameters are tuned to.
        k: the k of that recall.
        leaves: partitions of one shard; 0 lets the planner choose.
        reorder: precision of the keys that candidates are scored anew with: `bfloat16`, `float32` or `int8`. It
            decides the memory that a searcher takes.
        memory_gb: most memory that building one shard may take; 0 for any.
        max_queries: most queries that recall is measured on.
    """

    searcher: str = "scann"
    shards: int = 0
    sharding: str = "routed"
    target_recall: float = 0.95
    k: int = 32
    leaves: int = 0
    reorder: str = "bfloat16"
    memory_gb: float = 0.0
    max_queries: int = 2000


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """How neighbours are looked up.

    Attributes:
        k: neighbours a query; a shorter list is padded with -1.
        block_rows: queries searched at a time, which bounds memory.
        exclude_same_image: leaves out memory rows whose image bytes are those of the query.
    """

    k: int = 32
    block_rows: int = 4096
    exclude_same_image: bool = True


@dataclasses.dataclass(frozen=True)
class Names:
    """The head `mam_names`, which is ours; scales and weights are learned, from this first value, the rest is fixed.

    Attributes:
        similarity_scale: that cosines of query and key are multiplied by, before the softmax over neighbours.
        temperature: that cosines of caption and class name are multiplied by, before the softmax over classes; fixed.
        threshold: cosine to a class name below which a caption is taken to name none.
        prior_scale: weight of the log-likelihood of a query under what the memory shows of each class.
        vote_weight: weight of the log of the neighbours' votes.
        smoothing: vote that each class has without a neighbour.
        ridge: added to the covariance of the memory's keys, as a share of their mean variance.
    """

    similarity_scale: float = 15.0
    temperature: float = 20.0
    threshold: float = 0.4
    prior_scale: float = 0.25
    vote_weight: float = 0.6
    smoothing: float = 0.01
    ridge: float = 0.3


@dataclasses.dataclass(frozen=True)
class Ncr:
    """Neighbour consistency (Iscen et al., 2022), `loss=ncr`.

    Attributes:
        weight: share of the consistency term, the rest is cross entropy.
        neighbors: of each image within its batch; the paper takes 10 without noise, 100 at 40 %.
        temperature: of the softmax of both sides.
        gamma: power of the cosine that weighs a neighbour.
        start: share of the steps before the term sets in [I]; the paper's is epoch 10 of 130.
    """

    weight: float = 0.3
    neighbors: int = 10
    temperature: float = 2.0
    gamma: float = 1.0
    start: float = 0.1


@dataclasses.dataclass(frozen=True)
class Heteroscedastic:
    """Noise of the logits that depends on the image (Collier et al., 2021), `loss=heteroscedastic`.

    Attributes:
        rank: of the covariance beside its diagonal [I].
        temperature: of the softmax [I].
        samples: Monte Carlo samples, while training and of a prediction [I].
    """

    rank: int = 10
    temperature: float = 1.0
    samples: int = 100


@dataclasses.dataclass(frozen=True)
class Mile:
    """Teacher and student by turns (Rajeswar et al., 2022), `loss=mile`.

    Attributes:
        threshold: probability above which the teacher's answer is a label of the student [I].
        teacher_steps: steps of a turn of the teacher, on the given labels [I].
        student_steps: steps of a turn of the student, on the teacher's [I].
    """

    threshold: float = 0.25
    teacher_steps: int = 20
    student_steps: int = 20


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Clean images first (Guo et al., 2018), `loss=curriculumnet`.

    Attributes:
        density: share of a class's distances that are shorter than the radius that density is counted in.
        starts: shares of the steps at which noisy and highly noisy images come in [I].
        weights: of the loss of clean, noisy and highly noisy images [I].
    """

    density: float = 0.6
    starts: tuple[float, ...] = (0.35, 0.7)
    weights: tuple[float, ...] = (1.0, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Paco:
    """Parametric contrastive learning (Cui et al., 2021), `loss=paco`.

    Attributes:
        alpha: weight of an image of the same class as a positive.
        beta: weight of the class's centre as a positive.
        gamma: weight of images in the denominator, that of centres is 1.
        temperature: of the cosines of projected features.
        queue: images of earlier steps that are contrasted with; at least the batch [I].
        dim: width of the projection.
        momentum: of the copy that makes the second view [I].
        view_dropout: share of the query's entries that each view leaves out [I].
    """

    alpha: float = 0.05
    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 0.2
    queue: int = 1024
    dim: int = 128
    momentum: float = 0.99
    view_dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class Train:
    """How heads are trained, the same effort for each: every trial on val, then `seeds` runs of the best.

    Attributes:
        heads: any of `linear`, `mlp`, `mean_knn`, `mam`, `mam_names` (ours), `rac`, `vl_ltr`.
        loss: `lace`, `lace_post_hoc`, `cross_entropy`, `ncr`, `heteroscedastic`, `mile`, `curriculumnet` or `paco` [I].
        tau: weight of the log prior in `lace` and `lace_post_hoc` [I].
        label_smoothing: share of the target that `cross_entropy` spreads over all classes.
        sampling: `uniform`, `square_root` or `balanced`: how often images of large classes are drawn.
        values: what neighbours bring: `text`, `image`, or both [I].
        layers: attention layers [I].
        attention_heads: heads of each layer [I].
        attention_dim: width of the query and key projections of one head; 0 for none: attention by cosine alone [I].
        value_dim: width of the value projections of all heads together [I].
        start: `similarity` (attention starts at softmax(scale * cosine)) or `random` [I].
        similarity: what scores neighbours: `cosine`, or `whitened`, the cosine where the keys that training images
            retrieved are centred and white [I].
        similarity_scale: of these scores, the learned scale's first value [I].
        value_scale: what neighbours bring at first, in the size of the query: the key that their values predict by a
            regression over the memory, this many times; 0: nothing [I].
        null_slot: whether attention has an entry more that brings nothing, so that a query may ignore its memory [I].
        feed_forward: hidden width of a network after each attention layer; 0 for none [I].
        dtype: `float32`, or `bfloat16`, of the memory on the device and of the products with it.
        table: `device`, or `host`: the memory's keys and values stay in files below `runs/tables/` and each batch gets
            the rows it names, for a memory larger than the device's.
        k: neighbours that are used, the first of each list; 0 for all.
        random_k: whether each query's list is cut, while training, to a length drawn from 1 to k [I].
        neighbor_dropout: share of the neighbours left out of each list while training [I].
        rac_pooling: how `rac` pools the texts: `mean`, or `similarity` (softmax(similarity_scale * cosine)) [I].
        rac_normalize: whether each branch's logits are brought to unit length and scaled by a learned factor [I].
        bank_sentences: sentences of each class in `vl_ltr` [I].
        vl_ltr_width: hidden width of the visual branch of `vl_ltr`, as a multiple of the query's.
        batch_size: queries a step.
        steps: steps of one run.
        warmup_share: share of the steps that warm up, before a cosine decay.
        search: how settings are chosen for the trials: `grid` (all), `random` (distinct ones, by `seed`) or `optuna`.
        trials: how many each head gets; 0 for as many as the grid has.
        space: more axes of the grid, each the name and values of another field: `similarity_scale=10|20|40`. A head
            that does not read the field gets as many trials as one that does.
        learning_rates: values that the trials go through, crossed with `weight_decays`, `dropouts` and `space`.
        weight_decays: AdamW weight decays of the trials.
        dropouts: dropout of the classifier's input in the trials.
        seeds: one run each with the chosen setting.
        checkpoint_every: steps between checkpoints.
        names: settings of `mam_names`.
        ncr: settings of one loss, and so the four that follow.
        heteroscedastic: see there.
        mile: see there.
        curriculum: see there.
        paco: see there.
        many_over: classes with more training images are many-shot.
        few_under: classes with fewer are few-shot; the rest is medium-shot.
        shots: `decoupling`, as said, or `oltr`: classes with exactly `many_over` or `few_under` images are many-shot or
            few-shot, too.
    """

    heads: tuple[str, ...] = ("linear", "mlp", "mean_knn", "mam")
    loss: str = "lace"
    tau: float = 1.0
    label_smoothing: float = 0.0
    sampling: str = "uniform"
    values: tuple[str, ...] = ("text", "image")
    layers: int = 1
    attention_heads: int = 1
    attention_dim: int = 64
    value_dim: int = 256
    start: str = "similarity"
    similarity: str = "cosine"
    similarity_scale: float = 20.0
    value_scale: float = 0.0
    null_slot: bool = False
    feed_forward: int = 0
    dtype: str = "float32"
    table: str = "device"
    k: int = 0
    random_k: bool = False
    neighbor_dropout: float = 0.0
    rac_pooling: str = "mean"
    rac_normalize: bool = False
    bank_sentences: int = 32
    vl_ltr_width: float = 4.0
    batch_size: int = 256
    steps: int = 300
    warmup_share: float = 0.1
    search: str = "grid"
    trials: int = 0
    space: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (0.1,)
    dropouts: tuple[float, ...] = (0.0, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    checkpoint_every: int = 100
    names: Names = Names()
    ncr: Ncr = Ncr()
    heteroscedastic: Heteroscedastic = Heteroscedastic()
    mile: Mile = Mile()
    curriculum: Curriculum = Curriculum()
    paco: Paco = Paco()
    many_over: int = 100
    few_under: int = 20
    shots: str = "decoupling"


@dataclasses.dataclass(frozen=True)
class Finetune:
    """How the encoder of the queries is trained together with a head, from the frozen run of each of `train.seeds`.

    Loss, sampling, weight decay and dropout are those of the frozen run; neighbours, keys and values stay as they are.

    Attributes:
        head: which head goes on, one of `train.heads`.
        encoder: ViT that embedded the queries, an `.npz` or an `encoder.json` that names one; empty for
            `encoders.key`.
        learning_rates: peak learning rates of the head that the trials go through [I].
        encoder_ratios: learning rate of the encoder as a share of the head's, crossed with `learning_rates` [I].
        batch_size: images a step, over all devices.
        steps: steps of one run.
        warmup_share: share of the steps that warm up, before a cosine decay.
        stochastic_depth: share of the images whose residual branches the encoder's last block leaves out [I].
        min_area: smallest share of a picture that a random crop keeps; 1 for the encoder's own crop [I].
        max_aspect: largest longer over shorter side of a random crop, before it is made square [I].
        flip: whether half of the pictures are mirrored [I].
        image_size: side of the input in pixels, to which position embeddings are interpolated; 0 for the encoder's own.
        dtype: of the encoder's matrix products, `float32` or `bfloat16`.
        remat: whether a block's activations are computed anew for the gradients, which saves memory.
        workers: processes that read and decode images; 0 to do it between the steps.
        checkpoint_every: steps between checkpoints, which are measured on val.
    """

    head: str = "mam"
    encoder: str = ""
    learning_rates: tuple[float, ...] = (3e-4,)
    encoder_ratios: tuple[float, ...] = (0.01,)
    batch_size: int = 128
    steps: int = 2000
    warmup_share: float = 0.1
    stochastic_depth: float = 0.0
    min_area: float = 0.3
    max_aspect: float = 4 / 3
    flip: bool = True
    image_size: int = 0
    dtype: str = "float32"
    remat: bool = False
    workers: int = 2
    checkpoint_every: int = 500


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment, from sources to trained heads.

    Attributes:
        generation: folder below `workdir` of what one set of encoders made; left empty it becomes the one in use.
        class_names: file with the name of each class on a line, after the last tab of it; synonyms by commas.
    """

    data: str = ""
    workdir: str = "out/run"
    generation: str = ""
    seed: int = 0
    memory: Source = Source()
    train_set: Source = Source(format="image_list")
    val_set: Source = Source(format="image_list")
    test_set: Source = Source(format="image_list")
    class_names: str = ""
    protocol: Protocol = Protocol()
    encoders: Encoders = Encoders()
    embed: Embed = Embed()
    filters: Filters = Filters()
    index: Index = Index()
    neighbors: Neighbors = Neighbors()
    train: Train = Train()
    finetune: Finetune = Finetune()

    @property
    def queries(self) -> dict[str, Source]:
        """The labelled splits by name."""
        return {"train": self.train_set, "val": self.val_set, "test": self.test_set}

    @property
    def generation_dir(self) -> str:
        """Folder of what one set of encoders made."""
        return f"{self.workdir}/{self.generation}" if self.generation else self.workdir

    @property
    def memory_dir(self) -> str:
        """Folder of the embedded memory."""
        return f"{self.generation_dir}/memory"

    def queries_dir(self, split: str) -> str:
        """Folder of an embedded split."""
        return f"{self.generation_dir}/queries/{split}"

    @property
    def classes_file(self) -> str:
        """File of the embedded class names."""
        return f"{self.generation_dir}/classes.parquet"

    @property
    def index_dir(self) -> str:
        """Folder of the index."""
        return f"{self.generation_dir}/index"

    @property
    def neighbors_dir(self) -> str:
        """Folder of the neighbour lists."""
        return f"{self.generation_dir}/neighbors"

    @property
    def removed_file(self) -> str:
        """Digests of images and URLs that were removed for good, of all generations."""
        return f"{self.workdir}/removed.txt"

    @property
    def runs_dir(self) -> str:
        """Folder of the trained heads."""
        return f"{self.workdir}/runs"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What the demo corpus is made of.

    Attributes:
        memory_styles: vendors whose drawings and texts are the memory.
        query_style: vendor whose drawings are the labelled dataset.
        image_size: side of the JPEGs, in pixels.
        pairs_per_shard: image-text pairs of one tar.
        max_emoji: most emoji that are used; 0 for all.
    """

    memory_styles: tuple[str, ...] = ("twemoji", "openmoji", "fluent-3d", "fluent-flat")
    query_style: str = "noto"
    image_size: int = 160
    pairs_per_shard: int = 1000
    max_emoji: int = 0


@dataclasses.dataclass(frozen=True)
class DemoConfig(Config):
    """A config that also says how its data is made."""

    corpus: Corpus = Corpus()
