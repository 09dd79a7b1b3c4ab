# docker build -t gate . && docker run -p 8000:8000 -v gate:/data -e GATE_ADMIN_KEY=... --read-only --tmpfs /tmp gate
FROM python:3.13-slim AS build
WORKDIR /src
COPY .ci/build.lock .ci/runtime.lock .ci/
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r .ci/build.lock
RUN python -m venv --without-pip /opt/gate && /opt/build/bin/pip --python /opt/gate/bin/python install --no-cache-dir --no-compile --require-hashes --no-deps -r .ci/runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY gate gate
COPY lua lua
COPY clients clients
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w dist . ./clients/python
RUN /opt/build/bin/pip --python /opt/gate/bin/python install --no-cache-dir --no-compile --no-index --no-deps dist/*.whl && /opt/build/bin/pip --python /opt/gate/bin/python check
# Half of what the packages install is of no use at run time: symbols for debuggers, sources of compiled modules, compiled modules that
# no process imports. A server compiles nothing when it starts, because what it imports is compiled here.
RUN command -v strip > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils; }
RUN find /opt/gate/lib -name '*.so' -not -path '*.libs/*' -exec strip --strip-debug {} + && find /opt/gate/lib -name '*.py[xd]' -delete
RUN PYTHONDONTWRITEBYTECODE= /opt/gate/bin/python -c "import gate.cli.main, gate.cli.keys, gate.http.app, gate.http.panel.pool_feed, gate.runtime.serve, gate.runtime.wiring, gate.ledger.admin.migrate, uvicorn, uvloop, psycopg, prometheus_client"

FROM python:3.13-slim
COPY --from=build /opt/gate /opt/gate
RUN install -d -m 700 -o 10001 -g 10001 /data
ENV PATH=/opt/gate/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GATE_HOST=0.0.0.0 GATE_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
  "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/healthz' % os.environ.get('GATE_PORT', 8000), timeout=2)"]
CMD ["gate", "serve"]
