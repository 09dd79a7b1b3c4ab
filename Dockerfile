# docker build -t gate . && docker run -p 8000:8000 -v gate:/data -e GATE_ADMIN_KEY=... --read-only --tmpfs /tmp gate
FROM python:3.13-slim AS build
WORKDIR /src
COPY .ci/build.lock .ci/runtime.lock .ci/
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r .ci/build.lock
RUN python -m venv /opt/gate && /opt/gate/bin/pip install --no-cache-dir --require-hashes --no-deps -r .ci/runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY gate gate
COPY lua lua
COPY clients clients
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w dist . ./clients/python
RUN /opt/gate/bin/pip install --no-cache-dir --no-index --no-deps dist/*.whl && /opt/gate/bin/pip check

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
