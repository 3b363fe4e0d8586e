"""The playground and `/docs` as files: what they load, what they are allowed, what they draw."""

from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from shared.graph import ROUTES, build_graph
from shared.playground import FILES, HERE, PAGE, playground
from shared.tools import calculate, search_handbook
from shared.web.edge import add_edge


class Elements(HTMLParser):
    """Every tag of a page with its attributes, and the text inside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline += data


def app(**about: str | None) -> FastAPI:
    app = FastAPI(title="A <b>title</b>", **about)  # type: ignore[arg-type]
    app.state.cors_origins = ()
    add_edge(app)
    app.include_router(playground("/v2/agent", login=True))
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app()) as client:
        yield client


@pytest.mark.parametrize("path", ["/playground", "/docs"])
async def test_nothing_is_inline_or_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    """Scripts and styles are files of the app, which are there; the policy allows nothing else."""
    response = await client.get(path)
    page = Elements(response.text)
    assert page.inline.strip() == ""
    assert [name for _, tag in page.tags for name in tag if name.startswith(("on", "style"))] == []
    links = {
        str(tag.get("src") or tag.get("href"))
        for name, tag in page.tags
        if name in {"script", "link"}
    } - {"data:,"}
    kinds = [(await client.get(link)).headers["content-type"].partition(";")[0] for link in links]
    assert set(kinds) == {"text/css", "text/javascript"}
    policy = dict(
        rule.strip().partition(" ")[::2]
        for rule in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


async def test_page_is_told_where_it_is(client: httpx.AsyncClient) -> None:
    """Its service's title, escaped, where the endpoints are, and whether they want a token."""
    response = await client.get("/playground")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    told = {str(tag["name"]): tag["content"] for name, tag in Elements(response.text).tags
            if name == "meta" and "name" in tag}  # fmt: skip
    assert (told["api"], told["login"]) == ("/v2/agent", "yes")
    assert "A &lt;b&gt;title" in response.text
    assert 'href="docs"' in response.text


async def test_no_link_leads_to_documentation_that_is_not_there() -> None:
    """Without docs there is no link to them, and no file of theirs."""
    async with client_of(app(docs_url=None)) as client:
        assert 'href="docs"' not in (await client.get("/playground")).text
        for path in ("/docs", "/docs/swagger-ui.css"):
            assert (await client.get(path)).json()["code"] == "not_found"


async def test_only_the_page_s_files_are_served(client: httpx.AsyncClient) -> None:
    """Every file beside the page, and nothing that is reached by walking away from it."""
    assert set(FILES) == {path.name for path in HERE.iterdir() if path.name != "playground.html"}
    for name in ("nothing.js", "playground.html", "../__init__.py", "%2e%2e/__init__.py"):
        assert (await client.get(f"/playground/{name}")).json()["code"] == "not_found", name


async def test_docs_know_of_a_path_in_front() -> None:
    """Behind a proxy that takes a path away, the page names its files with it."""
    transport = httpx.ASGITransport(app(), root_path="/course")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = (await client.get("/docs")).text
    assert 'src="/course/docs/swagger-ui-bundle.js"' in page
    assert 'data-openapi="/course/openapi.json"' in page


def test_drawing_is_the_graph() -> None:
    """Nodes, edges, handovers and tools of the drawing are those of the code, each once."""
    drawn = [attributes for _, attributes in Elements(PAGE.template).tags]

    def marked(name: str) -> list[str]:
        return sorted(str(attributes[name]) for attributes in drawn if name in attributes)

    llm = ChatOpenAI(model="m", api_key=SecretStr("none"), base_url="http://127.0.0.1:9")
    graph = build_graph(llm, [search_handbook, calculate]).get_graph()
    assert marked("data-edge") == sorted(f"{edge.source} {edge.target}" for edge in graph.edges)
    assert marked("data-node") == sorted(graph.nodes)
    assert (
        marked("data-tool") == marked("data-uses") == sorted([calculate.name, search_handbook.name])
    )
    handovers = {a["data-call"]: a["data-edge"] for a in drawn if "data-call" in a}
    assert handovers == {call: f"supervisor {specialist}" for call, specialist in ROUTES.items()}
