"""The playground: one page to talk to the agent, served by both apps, from files alone."""

from html import escape
from pathlib import Path
from string import Template

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse

HERE = Path(__file__).parent / "page"
PAGE = Template((HERE / "playground.html").read_text(encoding="utf-8"))
FILES = {path.name: path for path in [*HERE.glob("*.js"), *HERE.glob("*.css")]}

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

    @router.get("/playground/{name}")
    async def file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(FILES[name])

    return router


router = playground()
