# The image of the modern stack: Debian 13 with its own Python 3.13, TFX 1.21.
#   docker build --tag seesaw .
#   docker build --tag seesaw:gpu --build-arg GPU=1 .   # with CUDA's libraries
#   docker run --rm seesaw doctor
#   docker run --rm --volume "$PWD/demo:/home/seesaw/demo" --user "$(id -u):$(id -g)" seesaw run --help
FROM debian:trixie-slim AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
# The authorities of the base image, so that one that adds its company's works behind the company's proxy.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

FROM base AS build
# pyfarmhash comes as source only.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv
ARG GPU=
WORKDIR /build
# The dependencies change more rarely than the code: a layer of their own.
COPY .ci/setup .ci/setup
COPY pyproject.toml uv.lock README.md ./
# The entrypoint of Kubeflow's containers reads the pipeline specification's protocol buffers, which come with kfp.
RUN .ci/setup 3.13 /opt/seesaw --no-dev --extra kubeflow ${GPU:+--extra gpu} --no-install-project --no-cache --link-mode=copy
COPY models models
COPY serving serving
COPY components components
COPY pipeline pipeline
RUN .ci/setup 3.13 /opt/seesaw --no-dev --extra kubeflow ${GPU:+--extra gpu} --no-editable --no-cache

FROM base
LABEL org.opencontainers.image.title="seesaw" \
      org.opencontainers.image.description="From exposure, click and purchase logs to a ranker in service" \
      org.opencontainers.image.base.name="debian:trixie-slim"
COPY --from=build /opt/seesaw /opt/seesaw
# Without a name and with a home that any user may write to: clusters choose the user's number themselves.
RUN mkdir --mode=1777 /home/seesaw
ENV PATH=/opt/seesaw/bin:$PATH HOME=/home/seesaw PYTHONUNBUFFERED=1
WORKDIR /home/seesaw
USER 10001:10001
ENTRYPOINT ["seesaw"]
CMD ["--help"]
