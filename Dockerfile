# The sidecar: `rlkv serve` and nothing that builds or trains. docs/deploy.md says how it is run.
#
#   docker build -t rlkv-sidecar:0.1.0 .

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Without a pip of its own: what runs cannot install.
RUN python -m venv --without-pip /opt/rlkv
COPY . .
# Wheels alone: nothing is compiled, so that no compiler is needed.
RUN pip --python /opt/rlkv/bin/python install --only-binary=:all: -c constraints.txt '.[sidecar]'

FROM python:3.11.14-slim-bookworm
RUN pip uninstall -y pip setuptools wheel \
 && groupadd --gid 10001 rlkv \
 && useradd --uid 10001 --gid rlkv --home-dir /var/lib/rlkv --no-create-home \
      --shell /usr/sbin/nologin rlkv \
 && install -d -o rlkv -g rlkv -m 0750 /var/lib/rlkv /var/cache/rlkv
COPY --from=build /opt/rlkv /opt/rlkv
# XDG_CACHE_HOME: what numba compiles at the first start outlives a container there. NUMBA_CACHE_DIR
# would do so too, but does not notice an upgrade of rlkv.
ENV PATH=/opt/rlkv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache/rlkv \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1
# All that it writes to: the root may be read-only.
VOLUME ["/var/lib/rlkv", "/var/cache/rlkv"]
WORKDIR /var/lib/rlkv
USER 10001:10001
EXPOSE 8700
STOPSIGNAL SIGTERM
# The first start on a machine compiles; until then it is not unhealthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8700/healthz', timeout=4)"]
ENTRYPOINT ["rlkv"]
# Alone it keeps to itself: a Valkey of its own, and HTTP that only the container reaches.
CMD ["serve", "--bundle", "universal", "--data-dir", "/var/lib/rlkv", "--http", "127.0.0.1:8700"]
