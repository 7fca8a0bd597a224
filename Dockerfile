# Denwa in a container. BASE is any image with Python 3.11 or 3.12; torch's wheels bring CUDA's libraries, so on a
# GPU host the default base works with the NVIDIA container toolkit. For a base with CUDA and Python of its own:
#   docker build --build-arg BASE=pytorch/pytorch:TAG -t denwa .
# RTP needs many UDP ports: run with --network host, or publish sip.rtp_ports and set sip.external_address.
ARG BASE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/denwa
# Dependencies first: they change seldom, and torch is large.
COPY pyproject.toml ./
RUN /opt/denwa/bin/python -c "import tomllib; it = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        more = it['optional-dependencies']; \
        print(*it['dependencies'], *more['hub'], *more['kyutai'], *more['otel'], sep='\n')" > requirements.txt \
    && /opt/denwa/bin/pip install --no-cache-dir --requirement requirements.txt
COPY README.md LICENSE ./
COPY config ./config
COPY telephony ./telephony
COPY model_runtime ./model_runtime
COPY agent ./agent
RUN /opt/denwa/bin/pip install --no-cache-dir --no-deps .

# hadolint ignore=DL3006
FROM ${BASE}
COPY --from=build /opt/denwa /opt/denwa
RUN useradd --system --uid 10001 --home-dir /var/lib/denwa --create-home denwa
ENV PATH=/opt/denwa/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/denwa
VOLUME /var/lib/denwa
USER 10001
EXPOSE 5060/udp 5060/tcp 8080/tcp
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["denwa"]
CMD ["serve"]
