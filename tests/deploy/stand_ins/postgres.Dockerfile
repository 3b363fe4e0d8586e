# Debian's PostgreSQL where the official image has its own, for the same user and with the same volume.
FROM python:3.13-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql-17 && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 70 alpine && useradd --uid 70 --gid 70 --no-create-home alpine \
    && rm -rf /var/lib/postgresql /run/postgresql \
    && install -d -o 70 -g 70 -m 1777 /var/lib/postgresql && install -d -o 70 -g 70 -m 3777 /run/postgresql
ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/18/docker
COPY postgres.sh /
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/postgres.sh"]
CMD ["postgres", "-c", "listen_addresses=*"]
