# The relay as an image: what requirements.lock names, the package, and nothing that could build or fetch anything.
#
#   docker build -t konnect-relay .
#   docker run --read-only -p 8071:8071 -v ./relay.yaml:/etc/konnect-relay/relay.yaml:ro \
#       -v relay-data:/var/lib/konnect-relay konnect-relay
#
# There is no engine where this is tested: tests/e2e/test_image.py runs every RUN line in a scratch directory and then
# the relay from it, as user 10001 and with nothing to write to but its data.
#
# To pin the base by content as well, append the digest that
# `docker buildx imagetools inspect python:3.11.14-slim-bookworm` prints as "Digest:": `…-bookworm@sha256:…`.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
# Without pip in it: the environment is carried into the final stage as it is.
RUN python -m venv --without-pip /opt/konnect-relay
COPY requirements.lock ./
# Only wheels, and only those whose hashes the lock knows: nothing is compiled, and no foreign code runs here.
RUN python -m pip --python /opt/konnect-relay/bin/python install --no-cache-dir --disable-pip-version-check \
    --only-binary=:all: --require-hashes -r requirements.lock
COPY relay ./relay
# The package is pure Python, so installing it is copying it; a build back end would have to be fetched without a hash.
RUN cp -r relay "$(/opt/konnect-relay/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/" \
    && printf '#!/opt/konnect-relay/bin/python\nfrom relay.__main__ import main\n\nmain()\n' \
        > /opt/konnect-relay/bin/konnect-relay \
    && chmod 0755 /opt/konnect-relay/bin/konnect-relay \
    && /opt/konnect-relay/bin/python -m compileall -q /opt/konnect-relay/lib
COPY LICENSE /opt/konnect-relay/

FROM ${BASE}
LABEL org.opencontainers.image.title="konnect-relay" \
      org.opencontainers.image.description="Durable fan-out relay between Kong Konnect audit logs and your SIEMs" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base brings pip along. What cannot install anything cannot be made to.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel
# A new volume takes over owner and mode of the directory it covers.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/konnect-relay
COPY --from=build /opt/konnect-relay /opt/konnect-relay
ENV PATH=/opt/konnect-relay/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    RELAY_CONFIG=/etc/konnect-relay/relay.yaml
# Relative paths of the configuration, such as the queue's default, lead into the volume.
WORKDIR /var/lib/konnect-relay
VOLUME /var/lib/konnect-relay
# A number, so that an orchestrator can see that it is not root's.
USER 10001:10001
EXPOSE 8071 8072
# SIGTERM finishes what was accepted, within server.shutdown_grace. Exec form: no shell stands in its way.
STOPSIGNAL SIGTERM
# The admin listener's default port; override it with `--health-cmd` (compose: healthcheck) where admin.port is another
# one, and for `--role ingest`, which is one higher. http.client, since urllib would ask a configured proxy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-IS", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8072, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["konnect-relay"]
CMD ["run"]
