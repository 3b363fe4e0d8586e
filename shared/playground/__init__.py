"""The playground: one page to talk to the agent, served by both apps, from files alone."""

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from string import Template

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

HERE = Path(__file__).parent / "page"
PAGE = Template((HERE / "playground.html").read_text(encoding="utf-8"))
FILES = sorted([*HERE.glob("*.js"), *HERE.glob("*.css")])

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
"""Nothing inline and nothing from elsewhere. What a model says could not become HTML even by a
mistake of ours: the last rule makes the browser refuse every assignment that would parse it."""


def playground(api: str = "/api/v1", *, login: bool = False) -> APIRouter:
    """The page and its files. `api` is the path that the endpoints are below; `login` says whether
    they ask for a token."""
    router = APIRouter(include_in_schema=False)

    @router.get("/playground")
    async def page(request: Request) -> HTMLResponse:
        app = request.app
        docs = '<a href="docs">API documentation</a>' if app.docs_url == "/docs" else ""
        html = PAGE.substitute(
            title=escape(app.title),
            version=escape(app.version),
            api=escape(api),
            login="yes" if login else "no",
            docs=docs,
        )
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})

    for path in FILES:
        router.add_api_route(f"/playground/{path.name}", sent(path))
    return router


def sent(path: Path) -> Callable[[], Awaitable[Response]]:
    async def send() -> FileResponse:
        return FileResponse(path)

    return send


router = playground()
