# One image for every part: web (the default command), workers, beat and training jobs.
#   docker build --tag sentinelle .
#   docker run --env-file .env --publish 8000:8000 sentinelle
# docs/image.md: without a Docker daemon.
FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /venv
WORKDIR /app
COPY requirements.txt .
# Tests of the libraries are a tenth of their size.
RUN pip --python /venv install --no-cache-dir --only-binary=:all: --requirement requirements.txt \
    && find /venv/lib -type d -name tests -prune -exec rm -rf {} +
COPY . .
# The kernels are compiled once, for any x86-64 or ARM machine rather than for this one.
ENV NUMBA_CACHE_DIR=/numba-cache NUMBA_CPU_NAME=generic
RUN SECRET_KEY=build-only /venv/bin/python manage.py collectstatic --no-input --verbosity 0 \
    && /venv/bin/python -c "import engine.scorer, engine.features.replay" \
    && /venv/bin/python -m compileall -q .

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home sentinelle
COPY --from=build /venv /venv
COPY --from=build --chown=10001 /numba-cache /numba-cache
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=8000 \
    SENTINELLE_HOME=/home/sentinelle \
    NUMBA_CACHE_DIR=/numba-cache NUMBA_CPU_NAME=generic
USER 10001
EXPOSE 8000
CMD ["gunicorn", "--config", "gunicorn.conf.py", "sentinelle.wsgi"]
