import dataclasses

import pytest

from configs.base import (
    Config,
    Corpus,
    Curriculum,
    DemoConfig,
    Encoders,
    Filters,
    Heteroscedastic,
    Index,
    Mile,
    Names,
    Ncr,
    Paco,
    Source,
    Train,
)
from configs.schema import data, training
from configs.schema.fields import Field, of, option
from index.engines import searcher
from model.data.sampling import SAMPLINGS
from model.heads.registry import HEADS
from model.objectives import OBJECTIVES
from pipelines import fields, options, schemas
from pipelines.demo.styles import STYLES
from pipelines.errors import UserError
from pipelines.sources import CONTAINERS, LISTS


def _says(config: object, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        fields.check(config)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (Train(heads=("linear", "mean_nn")), "--config.train.heads=mean_nn: unknown; did you mean 'mean_knn'?"),
        (Train(heads=()), "--config.train.heads: must hold at least one value"),
        (Train(heads=("mam", "mam")), "--config.train.heads=mam,mam: names a value twice"),
        (Train(start="warm"), "--config.train.start=warm: unknown; known are random, similarity"),
        (Train(loss="lac"), "--config.train.loss=lac: unknown; did you mean 'lace'?"),
        (Train(sampling="balance"), "did you mean 'balanced'?"),
        (Train(steps=0), "--config.train.steps=0: must be at least 1"),
        (Train(k=-1), "--config.train.k=-1: must be at least 0"),
        (Train(dropouts=(0.5, 1.0)), "--config.train.dropouts=0.5,1.0: must be at least 0 and less than 1"),
        (Train(seeds=(0, -1)), "--config.train.seeds=0,-1: must be at least 0"),
        (Train(vl_ltr_width=0.0), "--config.train.vl_ltr_width=0.0: must be above 0"),
        (Train(attention_heads=3), "--config.train.attention_heads=3: must divide value_dim=1024"),
        (Train(heads=("rac",), values=("image",)), "--config.train.values=image: rac reads texts; add text"),
        (Train(ncr=Ncr(weight=1.5)), "--config.train.ncr.weight=1.5: must be 0 to 1"),
        (Train(ncr=Ncr(temperature=0.0)), "--config.train.ncr.temperature=0.0: must be above 0"),
        (Train(loss="ncr", batch_size=10), "--config.train.ncr.neighbors=10: must be less than batch_size=10"),
        (Train(heteroscedastic=Heteroscedastic(samples=0)), "heteroscedastic.samples=0: must be at least 1"),
        (Train(mile=Mile(threshold=1.0)), "--config.train.mile.threshold=1.0: must be between 0 and 1"),
        (Train(curriculum=Curriculum(starts=(0.5, 0.4))), "curriculum.starts=0.5,0.4: must be two shares of the steps"),
        (Train(curriculum=Curriculum(weights=(1.0,))), "--config.train.curriculum.weights=1.0: must be three"),
        (Train(paco=Paco(alpha=0.0, beta=0.0)), "--config.train.paco.alpha=0.0: must be above 0 where beta is 0"),
        (
            Train(many_over=10),
            "--config.train.few_under=0: must be set, too, or both be 0: many_over=10",
        ),
        (Train(few_under=10), "--config.train.many_over=0: must be set, too"),
        (Train(many_over=5, few_under=7), "few_under=7: must be at most 6: a class of 6 images would be many-shot"),
        (Train(loss="paco", paco=Paco(queue=9)), "--config.train.paco.queue=9: must be at least batch_size=128"),
    ],
)
def test_settings_of_training_are_checked(train, sentence):
    _says(Config(train=train), sentence)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Config(seed=-1), "--config.seed=-1: must be at least 0 and less than"),
        (
            Config(memory=Source(format="img2datset")),
            "--config.memory.format=img2datset: unknown; did you mean 'img2da",
        ),
        (
            Config(val_set=Source(part=(0.5, 0.1))),
            "--config.val_set.part=0.5,0.1: must be two shares, the second larger",
        ),
        (Config(val_set=Source(part=(0.5, 2.0))), "--config.val_set.part=0.5,2.0: must be 0 to 1"),
        (Config(memory=Source(format="image_list", path="x")), "--config.memory.format=image_list: has no texts; set"),
        (
            Config(memory=Source(path="a.tar,sftp://me:secret@host/*.tar")),
            "--config.memory.path: has a URL with a password; leave it out, and give it in fsspec's own configuration",
        ),
        (Config(encoders=Encoders(value_text=("t=https://me:@h/m",))), "value_text: has a URL with a password"),
        (Config(encoders=Encoders(value_text="t5")), "value_text='t5': must be a tuple of str, such as ('name',), not"),
        (Config(encoders=Encoders(value_text="https://me:secret@h/m")), "value_text: has a URL with a password"),
        (Config(seed="1"), "--config.seed='1': must be of type int, not of type str"),
        (Config(seed=True), "--config.seed=True: must be of type int, not of type bool"),
        (Config(filters=Filters(leakage="0.9")), "--config.filters.leakage='0.9': must be of type float"),
        (Config(train=Train(seeds=[1])), "--config.train.seeds=[1]: must be a tuple of int, such as (1,), not of type"),
        (Config(memory={"path": "x"}), "--config.memory: must be Source(..), not of type dict"),
        (Config(encoders=Encoders(key="")), "--config.encoders.key=: is empty; every memory needs keys"),
        (
            Config(encoders=Encoders(dtype="float64")),
            "--config.encoders.dtype=float64: unknown; did you mean 'float16'",
        ),
        (Config(filters=Filters(leakage=1.5)), "--config.filters.leakage=1.5: must be 0 to 1"),
        (Config(filters=Filters(leakage_splits=("tset",))), "leakage_splits=tset: unknown; did you mean 'test'?"),
        (Config(index=Index(target_recall=float("nan"))), "--config.index.target_recall=nan: must be finite"),
        (DemoConfig(corpus=Corpus(query_style="twemoji")), "query_style=twemoji: is also in memory_styles=twemoji,"),
    ],
)
def test_settings_of_all_other_sections_are_checked(config, sentence):
    _says(config, sentence)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Names)])
def test_inner_sections_are_checked_by_their_whole_names(name):
    names = dataclasses.replace(Names(), **{name: 0.0})
    _says(Config(train=Train(names=names)), f"--config.train.names.{name}=0.0: must be above 0")


def test_a_section_is_checked_alone():
    with pytest.raises(UserError, match=r"^--config.train.paco.dim=0: must be at least 1$"):
        fields.check(Train(paco=Paco(dim=0)), "train.")
    with pytest.raises(UserError, match=r"^--config.train.attention_heads=3: must divide value_dim=1024$"):
        fields.check(Train(attention_heads=3), "train.")


@pytest.mark.parametrize(
    ("bounds", "span"),
    [
        ({"at_least": 1}, "at least 1"),
        ({"at_least": 0, "at_most": 1}, "0 to 1"),
        ({"above": 0, "below": 1}, "between 0 and 1"),
        ({"above": 0, "at_most": 1}, "above 0 and at most 1"),
        ({"at_least": 0, "below": 1}, "at least 0 and less than 1"),
        ({}, ""),
    ],
)
def test_bounds_in_words(bounds, span):
    assert Field("x", **bounds).span == span


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_bounds_are_what_they_say(value):
    assert Field("", at_least=0, at_most=1).holds(value) == (0 <= value <= 1)
    assert Field("", above=0, below=1).holds(value) == (0 < value < 1)
    assert Field("", at_least=0).holds((0.0, value)) == (value >= 0)
    assert Field("").holds(value)


def test_every_field_says_what_it_means_and_what_it_takes():
    found = list(fields.leaves(DemoConfig()))
    assert len(found) > 150
    for leaf in found:
        assert len(leaf.field.help) > 10 and leaf.field.help.endswith((".", "].")), leaf.name
        is_number = isinstance(leaf.value, int | float) and not isinstance(leaf.value, bool)
        assert not is_number or leaf.field.span or leaf.name.endswith("part_seed"), leaf.name


def test_choices_are_what_the_code_has():
    assert set(training.HEADS) == set(HEADS) and set(training.LOSSES) == set(OBJECTIVES)
    assert set(training.SAMPLINGS) == set(SAMPLINGS)
    assert set(data.FORMATS) == {*CONTAINERS, *LISTS} and set(data.DTYPES) == set(schemas.DTYPES)
    assert set(of(Index.__dataclass_fields__["searcher"]).choices) == set(searcher.KINDS)
    assert set(data.STYLES) == set(STYLES)


def test_all_shipped_configs_pass():
    names = [
        *("demo", "imagenet_lt", "inat21_mini", "places_lt", "tiny_imagenet_lt", "tiny_imagenet_noisy"),
        *("webvision", "webvision_full", "webvision_mini", "inat18", "few_shot", "cub"),
    ]
    for name in names:
        fields.check(options.load(f"configs/{name}.py"))


def test_help_of_one_group():
    text = fields.help_text(Config(), "neighbors")
    assert "  --config.neighbors.k=128" in text and "Neighbours of each query" in text and "at least 1" in text
    assert "index" not in text and max(map(len, text.splitlines())) <= 100
    assert "--config.train.ncr.weight=0.3" in fields.help_text(Config(), "train.ncr")
    assert "--config.workdir=out/run" in fields.help_text(Config(), "config")
    with pytest.raises(UserError, match="--help=trian: no such group of fields; did you mean 'train'"):
        fields.help_text(Config(), "trian")


def test_help_of_all_groups_is_narrow_and_whole():
    text = fields.help_text(DemoConfig())
    long = [line for line in text.splitlines() if len(line) > 100]
    # A flag is one word.
    assert all(line.startswith("  --config.") and " " not in line.strip() for line in long)
    assert all(f"--config.{leaf.name}=" in text for leaf in fields.leaves(DemoConfig()))


def test_options_keep_their_defaults():
    @dataclasses.dataclass(frozen=True)
    class Section:
        """A section."""

        x: int = option(3, "What it is.", at_least=1)

    assert Section().x == 3 and of(dataclasses.fields(Section)[0]) == Field("What it is.", at_least=1)
