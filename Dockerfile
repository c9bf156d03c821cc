# An image with recbole-llm and the offline encoder.
#
#   docker build -t recbole-llm .                                               # torch as pip picks it (CUDA on Linux)
#   docker build -t recbole-llm --build-arg PIP_ARGS="--extra-index-url URL" .  # URL: an index of CPU-only torch wheels
#   docker run --rm -v "$PWD:/bench" recbole-llm --model=Pop --dataset=NAME --data_path=/bench/data
#   docker run --rm --gpus all -v "$PWD:/bench" recbole-llm --model=SASRec --dataset=NAME --data_path=/bench/data
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG PIP_ARGS=""
ARG EXTRAS="offline"
WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE constraints.txt ./
COPY properties properties
COPY recbole_llm recbole_llm
RUN pip install --no-cache-dir ${PIP_ARGS} -c constraints.txt ".[${EXTRAS}]"
WORKDIR /bench
ENTRYPOINT ["recbole-llm"]
