# The explorer as a web page, on the embedded data or on a folder of one's own; CPU only.
#
#   docker build -t blcf .
#   docker run --rm -p 127.0.0.1:8866:8866 blcf
#   docker run --rm -v "$PWD/photos:/photos:ro" -v blcf-cache:/cache blcf index /photos
#   docker run --rm -p 127.0.0.1:8866:8866 -v "$PWD/photos:/photos:ro" -v blcf-cache:/cache \
#     blcf demo /photos --host 0.0.0.0 --no-browser
FROM python:3.11-slim AS build
COPY pyproject.toml README.md LICENSE /study/
COPY blcf_utils /study/blcf_utils
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
      "torch>=2.11,<2.14" "torchvision>=0.26,<0.29" \
 && /venv/bin/pip install --no-cache-dir -e /study

FROM python:3.11-slim
COPY --from=build /venv /venv
COPY --from=build /study /study
COPY data /study/data
COPY notebooks /study/notebooks
# Whichever user it is run as (--user) may fill a new volume.
RUN useradd --create-home --uid 1000 study && mkdir --mode 1777 /cache
ENV PATH=/venv/bin:$PATH BLCF_CACHE=/cache HOME=/home/study PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/cache/numba MPLCONFIGDIR=/cache/matplotlib
USER study
WORKDIR /home/study
VOLUME /cache
EXPOSE 8866
# As Ctrl-C does: the server ends its visitors' kernels.
STOPSIGNAL SIGINT
# The first start prepares the embedded data, which takes minutes; the server answers after it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m \
  CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8866/voila/static/voila.js', timeout=4)"
# A container has no 127.0.0.1 that its host could reach; -p above says who may.
ENTRYPOINT ["blcf"]
CMD ["demo", "--host", "0.0.0.0", "--no-browser"]
