# The image of the modern stack: Debian 13 with its own Python 3.13, TFX 1.21.
#   docker build --tag seesaw .                         # .ci/base-image makes the base where it cannot be pulled
#   docker build --tag seesaw:gpu --build-arg GPU=1 .   # with CUDA's libraries
#   docker run --rm seesaw doctor                       # whether the image, or the node, can run the pipeline
#   docker run --rm --volume "$PWD/demo:/home/seesaw/demo" --user "$(id -u):$(id -g)" seesaw run --help
# All that is installed comes from Debian and from PyPI, the latter by the hashes of uv.lock.
FROM debian:trixie-slim AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
# The authorities of the base image, so that one that adds its company's works behind the company's proxy.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

FROM base AS dependencies
# pyfarmhash comes as source only.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv
ARG GPU=
WORKDIR /build
COPY .ci/setup .ci/setup
COPY pyproject.toml uv.lock ./
# kubeflow: the entrypoint of Kubeflow's containers reads the pipeline specification's protocol buffers, which come with
# kfp. Left out is what no program reads that runs here: a parser of C++, completion in notebooks, the server of
# TensorBoard's pages; headers for operations in C++, the libraries' tests, and the symbols for debuggers of TensorFlow's
# two large libraries. Bytecode stays: it saves each process two thirds of the time that its imports take.
RUN .ci/setup 3.13 /opt/seesaw --no-dev --extra kubeflow ${GPU:+--extra gpu} --no-install-project --no-cache \
      --link-mode=copy --no-install-package libclang --no-install-package jedi \
      --no-install-package tensorboard-data-server \
 && cd /opt/seesaw/lib/python3.13/site-packages \
 && rm -rf tensorflow/include pyarrow/include \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && strip --strip-unneeded tensorflow/*.so.2

FROM base
# Two layers, the large one first: a change to the code neither rebuilds nor pushes the dependencies again.
COPY --from=dependencies /opt/seesaw /opt/seesaw
COPY models /opt/seesaw/lib/python3.13/site-packages/models
COPY serving /opt/seesaw/lib/python3.13/site-packages/serving
COPY components /opt/seesaw/lib/python3.13/site-packages/components
COPY pipeline /opt/seesaw/lib/python3.13/site-packages/pipeline
ENV PATH=/opt/seesaw/bin:$PATH HOME=/home/seesaw PYTHONUNBUFFERED=1
RUN cd /opt/seesaw/lib/python3.13/site-packages \
 && python -m compileall -q models serving components pipeline \
 && printf '#!/opt/seesaw/bin/python\nfrom pipeline.cli import main\n\nmain()\n' > /opt/seesaw/bin/seesaw \
 && chmod +x /opt/seesaw/bin/seesaw \
# Without a name and with a home that any user may write to: clusters choose the user's number themselves.
 && mkdir --mode=1777 /home/seesaw
WORKDIR /home/seesaw
USER 10001:10001
ENTRYPOINT ["seesaw"]
CMD ["--help"]
# There is no HEALTHCHECK: a container does one job and ends, and the check would take cores and the GPU from the job.
# Ask `seesaw doctor` before it instead.
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="seesaw" \
      org.opencontainers.image.description="From exposure, click and purchase logs to a ranker in service" \
      org.opencontainers.image.base.name="debian:trixie-slim" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
