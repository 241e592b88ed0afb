"""Who may import whom: the shelves of each package, and what packages share (docs/adr/0018-shelves.md)."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("configs", "pipelines", "index", "model", "workflow")
# Each folder may import those before it. The top of a package is its foundation, if it has one, and its commands.
SHELVES = {
    "configs": (),
    "pipelines": ("", "images", "sources", "encoders", "filtering", "upkeep", "embedding", "captions", "demo"),
    "index": ("engines", "store", "measure", "building", "lists", "searching"),
    "model": (
        *("measures", "data", "prepare", "heads", "objectives", "training", "reports", "aligning", "recognition"),
        *("gallery", "service"),
    ),
    "workflow": ("discovery", "checking", "exchange"),
}
# Folders that know nothing of each other.
APART = {frozenset({"index.building", "index.lists"}), frozenset({"pipelines.demo", "pipelines.embedding"})}
COMMANDS = {
    *("pipelines.concepts", "pipelines.demo_corpus", "pipelines.embed", "pipelines.encoder_facts", "pipelines.leaks"),
    *("index.plan", "index.build", "index.neighbors", "index.search", "index.reindex"),
    *("model.align", "model.sweep", "model.train", "model.finetune", "model.evaluate", "model.ablate", "model.report"),
    *("model.export", "model.predict", "model.app"),
    *("workflow.arrays", "workflow.check", "workflow.init", "workflow.run"),
}
# What other packages import beside the foundation of `pipelines`, and where that is said.
EXEMPT = {
    # docs/adr/0014: the pixels that were embedded, and the encoder that made the vectors.
    "model.data.input_pipeline": {"pipelines.images.decode"},
    "model.training.finetune_trainer": {"pipelines.images.decode"},
    "model.training.query_encoder": {
        "pipelines.encoders.handles",
        "pipelines.encoders.towers.npz_files.big_vision",
        "pipelines.encoders.towers.tower",
        "pipelines.images.decode",
    },
    "model.finetune": {"pipelines.sources.pictures"},
    # docs/adr/0018: it embeds the pairs that it trains on, and makes encoders.
    "model.align": {
        "pipelines.embedding.request",
        "pipelines.embedding.stage",
        "pipelines.encoders.handles",
        "pipelines.encoders.projected",
    },
    # They show the images themselves; the search embeds what is asked for.
    "model.report": {"pipelines.sources.pictures"},
    "model.gallery.thumbnails": {"pipelines.sources.pictures"},
    "model.gallery.writer": {"pipelines.sources.pictures"},
    "index.searching.finder": {"pipelines.sources.pictures"},
    # A filter compares fields of the metadata as embedding does.
    "index.searching.where": {"pipelines.filtering.conditions", "pipelines.sources.sample"},
    "index.searching.matching": {"pipelines.sources.sample"},
    "index.searching.queries": {
        "pipelines.encoders.handles",
        "pipelines.encoders.loaded",
        "pipelines.images.decode",
        "pipelines.sources.pictures",
    },
    "index.searching.rows": {"pipelines.sources.pictures"},
    # docs/adr/0026: a prediction embeds, searches and runs a head.
    "model.recognition.source": {
        "index",
        "index.searching.matching",
        "index.store.indexed_memory",
        "pipelines.encoders.handles",
    },
    "model.recognition.engine": {"index"},
    "model.recognition.bundle": {"pipelines.encoders.handles"},
    "model.recognition.card": {"index"},
    "model.recognition.export": {
        "index",
        "index.store.versions",
        "pipelines.encoders.handles",
        "pipelines.encoders.model_files",
        "pipelines.encoders.onnx.files",
    },
    "model.recognition.session": {
        "pipelines.embedding.names.class_names",
        "pipelines.embedding.names.class_texts",
        "pipelines.encoders.handles",
        "pipelines.encoders.loaded",
    },
    # It embeds the captions that take the place of others.
    "model.reports.ablations.false_captions": {"pipelines.encoders.handles", "pipelines.encoders.loaded"},
    "model.recognition.pictures": {
        "pipelines.images.decode",
        "pipelines.sources.patterns",
        "pipelines.sources.pictures",
    },
    "model.recognition.predict_job": {
        "pipelines.embedding.folders",
        "pipelines.embedding.job",
        "pipelines.sources",
        "pipelines.sources.labels",
        "pipelines.sources.patterns",
        "pipelines.sources.sample",
    },
    # docs/adr/0018: it embeds what is new before it indexes it.
    "index.reindex": {
        "pipelines.embedding.columns",
        "pipelines.embedding.request",
        "pipelines.embedding.stage",
        "pipelines.upkeep.compaction",
        "pipelines.upkeep.gone",
        "pipelines.upkeep.proof",
        "pipelines.upkeep.removal",
    },
}
# Folders that count as modules of the foundation: others import the folder, never what is in it.
FOUNDATION = {"pipelines.manifest", "pipelines.schemas", "pipelines.storage"}
HEAVY = ("tensorflow", "tensorflow_hub", "apache_beam", "scann")
# The one module of `model` that is a Beam job.
PREDICT_JOB = "model.recognition.predict_job"
MOST_MODULES = 12


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            is_module = {name for name in names if _path(name).exists()}
            found |= is_module | ({node.module} if names - is_module else set())
    return found


def _path(module: str) -> pathlib.Path:
    place = ROOT / module.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


ROOT_MODULES = ("web_memory", "web_memory_names")
MODULES = {_name(path): _imports(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
MODULES |= {name: _imports(ROOT / f"{name}.py") for name in ROOT_MODULES}


def _shelf(module: str) -> str:
    """Returns the folder of a module below its package: empty for the top, `sources` for `sources.files.tar`."""
    parts = module.split(".")
    if ".".join(parts[:2]) in FOUNDATION:
        return ""
    return parts[1] if len(parts) > 2 or (ROOT / parts[0] / parts[-1]).is_dir() else ""


def _ours(module: str) -> set[str]:
    return {name for name in MODULES[module] if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m not in COMMANDS and "." in m))
def test_folders_import_those_below_them(module):
    package, order = module.split(".")[0], SHELVES[module.split(".")[0]]
    inside = {name for name in _ours(module) if name.startswith(f"{package}.")} - EXEMPT.get(module, set())
    if package != "configs" and _shelf(module) in order:
        allowed = order[: order.index(_shelf(module)) + 1]
        assert {name for name in inside if _shelf(name) not in allowed} == set()
    assert not inside & COMMANDS, "a command is not a library"
    for name in inside:
        assert frozenset({f"{package}.{_shelf(module)}", f"{package}.{_shelf(name)}"}) not in APART


@pytest.mark.parametrize("module", sorted(MODULES))
def test_packages_share_the_foundation_alone(module):
    package = module.split(".")[0]
    other = {name for name in _ours(module) if not name.startswith(f"{package}.") and name.split(".")[0] != "configs"}
    foundation = {name for name in other if name.startswith("pipelines.") and not _shelf(name) and name not in COMMANDS}
    if package in ("configs", "pipelines"):
        foundation = set()
    if package == "workflow":
        # It joins the others (docs/adr/0028), but calls their commands by name only.
        assert not other & COMMANDS
    else:
        assert other - foundation - EXEMPT.get(module, set()) == set()
    if package == "configs":
        allowed = {"configs", "web_memory_names", *sys.stdlib_module_names}
        assert {name.split(".")[0] for name in MODULES[module]} <= allowed
    if package == "model" and module != PREDICT_JOB:
        assert not [name for name in MODULES[module] if name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_folders_of_the_foundation_are_imported_as_one_module(module):
    for folder in FOUNDATION:
        if not f"{module}.".startswith(f"{folder}."):
            assert not [name for name in _ours(module) if name.startswith(f"{folder}.")]


def test_no_import_comes_back_to_where_it_began():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for name in sorted(MODULES[module] & MODULES.keys()):
                visit(name, (*way, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_folders_are_small():
    for package in PACKAGES:
        for folder in (ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())):
            modules = {_name(path) for path in folder.glob("*.py")} - COMMANDS - {_name(folder / "__init__.py")}
            if package != "configs":
                assert len(modules) <= MOST_MODULES, folder


def test_one_module_imports_scann():
    assert [m for m, names in MODULES.items() if any(n.split(".")[0] == "scann" for n in names)] == [
        "index.engines.scann_coder"
    ]


def test_the_rules_see_what_is_there():
    assert len(MODULES) > 100 and COMMANDS <= MODULES.keys() and EXEMPT.keys() <= MODULES.keys()
    assert {"pipelines.sources", "pipelines.sources.files.tar"} <= MODULES.keys()
    assert "pipelines.errors" in MODULES["pipelines.sources.files.parquet"]
    assert {"pipelines.errors", "pipelines.manifest"} <= MODULES["model.training.run_files"]
    assert _shelf("pipelines.sources.files.tar") == _shelf("pipelines.sources") == "sources"
    assert all(names <= MODULES[module] for module, names in EXEMPT.items())


def _loaded(code: str) -> set[str]:
    code += "\nimport sys; print(*[m for m in sys.modules if '.' not in m])"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split()
    )


def test_the_trainer_loads_no_tensorflow():
    loaded = _loaded(
        "\n".join(f"import {name}" for name in MODULES if name.startswith("model.") and name != PREDICT_JOB)
    )
    assert "jax" in loaded and not loaded & {*HEAVY, "matplotlib"}


def test_help_and_plain_errors_load_nothing_heavy():
    loaded = _loaded("\n".join(f"import {name}" for name in sorted(COMMANDS)))
    assert not loaded & {*HEAVY, "jax"}


@pytest.mark.slow
def test_every_package_lives_in_one_process():
    """ScaNN, TensorFlow and JAX bring symbols of their own that must not clash."""
    loaded = _loaded("\n".join(f"import {name}" for name in ["scann.scann_ops.py.scann_ops_pybind", *MODULES]))
    assert {"scann", "tensorflow", "jax", "apache_beam"} <= loaded
