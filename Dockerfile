# Worker image for Dataflow (--sdk_container_image) and Flink (--environment_type=DOCKER); docs/running.md says how.
#
#   docker build -t REGISTRY/web-memory:0.1.0 .
#   docker build -t REGISTRY/web-memory:0.1.0 --build-arg ENCODERS="efficientnet-lite0 minilm-l6-v2" .
#   docker build -t REGISTRY/web-memory:0.1.0-gpu --build-arg TENSORFLOW="tensorflow[and-cuda]" .
#
# Beam and Python must be those of the launching machine. The entry point is the base image's.
FROM apache/beam_python3.11_sdk:2.77.0

# Extras of setup.py, for the storage that is read and written.
ARG EXTRAS=gcp,s3
# With [and-cuda] it brings the CUDA libraries.
ARG TENSORFLOW=tensorflow
# Built-in encoders to build into the image; every other worker downloads and builds those it needs when it starts.
ARG ENCODERS=

ENV WEB_MEMORY_CACHE=/opt/web-memory/cache TF_CPP_MIN_LOG_LEVEL=3
WORKDIR /opt/web-memory/source

COPY constraints.txt ./
COPY setup.py pyproject.toml README.md LICENSE web_memory.py web_memory_names.py ./
COPY configs configs
COPY index index
COPY model model
COPY pipelines pipelines
COPY workflow workflow
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" "${TENSORFLOW}"

RUN python -c "import sys; from pipelines import storage; from pipelines.encoders import builtin; \
[builtin.ensure(name, storage.cache_dir() / 'encoders') for name in sys.argv[1:]]" ${ENCODERS} \
    && mkdir -p "${WEB_MEMORY_CACHE}" && chmod -R a+rwX "${WEB_MEMORY_CACHE}"
