# mrl-text serve: docker build -t mrl-text . && docker run -p 8080:8080 -e MRL_TEXT_API_KEY=... mrl-text MODEL
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c constraints.txt '.[quickstart,serve,search]'

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 mrl
COPY --from=build /venv /venv
USER mrl
WORKDIR /home/mrl
ENV PATH=/venv/bin:$PATH MRL_TEXT_CACHE=/home/mrl/cache
VOLUME /home/mrl/cache
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["mrl-text", "serve", "--host", "0.0.0.0"]
CMD ["sentence-transformers/all-MiniLM-L6-v2"]
