FROM python:3.13-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && install -d -o 472 -g 0 /var/lib/grafana
COPY not_grafana.py /
USER 472:0
CMD ["python", "/not_grafana.py"]
