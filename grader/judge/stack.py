"""A submission that is a stack of containers: its Compose file, and what lies where in them.

A path on the host is taken as Compose takes it, from the folder of the file, and is read only if it
is the course's or the submission's. What the student hands in lies elsewhere, and is found there.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from grader.judge.compose import Mount, Service, argv, read_compose
from grader.judge.documents import read_text
from grader.judge.nginx import Block, Passed, Site, parse_nginx, passed, site

NGINX = "/etc/nginx"
IMAGES_OWN = """
events {}
pid /run/nginx.pid;
http { include /etc/nginx/conf.d/*.conf; }
"""
"""What stands in nginx's image, as far as it matters, where nobody puts something else."""

UNPRIVILEGED_OWN = """
events {}
pid /tmp/nginx.pid;
http {
    client_body_temp_path /tmp/client_temp;
    proxy_temp_path /tmp/proxy_temp;
    fastcgi_temp_path /tmp/fastcgi_temp;
    uwsgi_temp_path /tmp/uwsgi_temp;
    scgi_temp_path /tmp/scgi_temp;
    include /etc/nginx/conf.d/*.conf;
}
"""


class Stack:
    def __init__(
        self, submitted: Path, *, root: Path, home: Path, files: Sequence[str], secrets: set[str]
    ) -> None:
        """`files` are handed in, and belong into `home`; `secrets` are made in a folder there.

        Raises Unreadable.
        """
        self._submitted = submitted
        self._root = root
        self._home = home.relative_to(root).as_posix()
        self._files = {posixpath.join(self._home, name): submitted / name for name in files}
        self._secrets = secrets
        self.file = read_compose(read_text(submitted / "compose.yaml"), "compose.yaml")

    def __getitem__(self, name: str) -> Service:
        assert name in self.file.services, f"There is no service {name} yet."
        return self.file.services[name]

    @property
    def services(self) -> list[Service]:
        return list(self.file.services.values())

    def is_built(self, service: Service) -> bool:
        """Here, by itself or for another service that has the same image."""
        built = {each.text("image") for each in self.services if each.build is not None} - {""}
        return service.build is not None or service.text("image") in built

    # --- files

    def from_root(self, source: str) -> str | None:
        """A path on the host, from the course's root; None for one that is not below it."""
        path = posixpath.normpath(posixpath.join(self._home, source))
        return None if source.startswith(("/", "~")) or path.startswith("..") else path

    def is_there(self, source: str) -> bool:
        """Whether it comes with the course or the submission, or is one of the secrets."""
        path = self.from_root(source)
        if path is None:
            return False
        folder, name = posixpath.split(path)
        return name in self._secrets if folder == self._vault else self._disk(path).exists()

    def source_of(self, mount: Mount) -> str | None:
        """From the course's root: the file or folder on the host that is mounted."""
        source = mount.source
        if mount.kind in ("secret", "config"):
            source = str(self.file.shared(f"{mount.kind}s")[source].get("file", ""))
        elif mount.kind != "bind":
            return None
        return self.from_root(source) if source else None

    def text_of(self, mount: Mount, below: str = ".") -> str | None:
        """What stands in a file that is mounted, or that lies below a folder that is."""
        if mount.kind == "config" and "content" in self.file.shared("configs")[mount.source]:
            return str(self.file.shared("configs")[mount.source]["content"])
        source = self.source_of(mount)
        if source is None or mount.kind == "secret":
            return None
        disk = self._disk(posixpath.normpath(posixpath.join(source, below)))
        return read_text(disk) if disk.is_file() else None

    def is_handed_in(self, mount: Mount) -> bool:
        return mount.kind == "config" or self.source_of(mount) in self._files

    def text_at(self, service: Service, path: str) -> str | None:
        """What stands in the file at `path` in a container."""
        mount = service.mount_at(path)
        return self.text_of(mount, posixpath.relpath(path, mount.target)) if mount else None

    def places_of(self, service: Service, file: str) -> list[str]:
        """Where a service finds a file of the course, which is named from the root."""
        sources = [(self.source_of(mount), mount.target) for mount in service.mounts]
        return [
            posixpath.normpath(posixpath.join(target, posixpath.relpath(file, source)))
            for source, target in sources
            if source is not None and is_in(file, source)
        ]

    def _disk(self, path: str) -> Path:
        return self._files.get(path, self._root / path)

    # --- secrets

    @property
    def _vault(self) -> str:
        return posixpath.join(self._home, "secrets")

    def secrets_of(self, service: Service) -> dict[str, str]:
        """The names of the secrets that it finds, by their places in its container."""
        found = {}
        for mount in service.mounts:
            path = self.source_of(mount)
            if mount.kind == "secret" or (path and posixpath.dirname(path) == self._vault):
                found[mount.target] = posixpath.basename(path or mount.source)
            elif path and is_in(self._vault, path):
                below = posixpath.relpath(self._vault, path)
                for name in self._secrets:
                    place = posixpath.join(mount.target, below, name)
                    found[posixpath.normpath(place)] = name
        return found

    def secret_at(self, service: Service, path: str) -> str:
        """Empty if no secret is there."""
        return self.secrets_of(service).get(posixpath.normpath(path), "")

    # --- the service `proxy`, an nginx

    @cached_property
    def nginx(self) -> Block:
        """Its whole configuration, from wherever the file lets nginx find it."""
        proxy = self["proxy"]
        texts = dict(self._texts(proxy))
        told = re.search(r"(?:^|\s)-c\s*(\S+)", " ".join(argv(proxy)))
        main = texts.get(told[1] if told else f"{NGINX}/nginx.conf")
        is_found = main or any(path.startswith(f"{NGINX}/conf.d/") for path in texts)
        assert is_found, "The proxy gets no configuration: none is where nginx reads it."

        def find(pattern: str) -> list[str]:
            whole = posixpath.join(NGINX, pattern)
            return [text for path, text in sorted(texts.items()) if fnmatchcase(path, whole)]

        unprivileged = "nginx-unprivileged" in proxy.text("image")
        own = UNPRIVILEGED_OWN if unprivileged else IMAGES_OWN
        return parse_nginx(main or own, "nginx.conf", find)

    @property
    def http(self) -> Block:
        for _, block in self.nginx.blocks("http"):
            assert self.nginx.all("events"), "nginx does not start without an events block."
            return block
        raise AssertionError("The proxy's configuration has no http block.")

    def _texts(self, proxy: Service) -> Iterator[tuple[str, str]]:
        """The files that it finds, and those that its image makes of templates."""
        for mount in proxy.mounts:
            text = self.text_of(mount)
            if text is None:
                continue
            yield mount.target, text
            folder, name = posixpath.split(mount.target)
            if folder == f"{NGINX}/templates" and name.endswith(".template"):
                yield f"{NGINX}/conf.d/{name.removesuffix('.template')}", rendered(text, proxy)

    @property
    def door(self) -> int:
        """The port inside the proxy that the world gets to."""
        ports = [port.target for port in self["proxy"].ports]
        assert ports, "The proxy publishes no port, so nobody gets in."
        assert ports[0].isdecimal(), "The proxy publishes several ports at once."
        return int(ports[0])

    def site(self, path: str) -> Site:
        """What of the configuration answers a request that comes in by the door."""
        found = site(self.http, self.door, path)
        assert found, "nginx does not listen at the port that the proxy publishes."
        return found

    def passed(self, path: str) -> Passed:
        """To whom the proxy passes it on."""
        found = passed(self.site(path), path)
        assert found, f"The proxy does not pass {path} on to a server that speaks HTTP."
        return found


def is_in(path: str, folder: str) -> bool:
    """Both from the course's root; a folder is in itself."""
    return folder == "." or f"{path}/".startswith(f"{folder}/")


def rendered(template: str, service: Service) -> str:
    """As the image's envsubst does it: only variables that are set."""

    def value(found: re.Match[str]) -> str:
        return service.environment.get(found[1] or found[2], found[0])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, template)
