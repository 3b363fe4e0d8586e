"""`/docs`: Swagger UI from files of our own. FastAPI's page fetches it from a CDN, and stays blank
where there is no internet."""

from collections.abc import Awaitable, Callable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.routing import APIRoute

HERE = Path(__file__).parent
SWAGGER_UI = Path(str(files("fastapi_offline"))) / "static"
ASSETS = [SWAGGER_UI / "swagger-ui-bundle.js", SWAGGER_UI / "swagger-ui.css", HERE / "docs.js"]

PAGE = Template((HERE / "docs.html").read_text(encoding="utf-8"))
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve_docs(app: FastAPI) -> None:
    """Put our page before the one that FastAPI has at `docs_url`, if the app wants one."""
    if app.docs_url is None or app.openapi_url is None:
        return
    docs_url, openapi_url = app.docs_url, app.openapi_url

    async def page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        html = PAGE.substitute(
            title=escape(app.title),
            files=escape(f"{root}{docs_url}"),
            openapi=escape(f"{root}{openapi_url}"),
        )
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})

    pages: dict[str, Callable[..., Any]] = {docs_url: page}
    pages |= {f"{docs_url}/{path.name}": sent(path) for path in ASSETS}
    app.router.routes[:0] = [
        APIRoute(path, endpoint, include_in_schema=False) for path, endpoint in pages.items()
    ]


def sent(path: Path) -> Callable[[], Awaitable[Response]]:
    async def send() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "max-age=3600"})

    return send
