"""Everything that both apps put around their routes, in the order in which a request meets it."""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.models import ErrorResponse
from shared.web.docs import serve_docs
from shared.web.errors import ErrorBoundary, add_error_handlers, as_json
from shared.web.lifecycle import PlainRefusal
from shared.web.middleware import BodyLimit, ResponseHeaders, StopWhenClientLeaves

NO_CORS = ErrorResponse(
    error="This origin, method or header is not allowed from a web page.", code="cors_refused"
)


EXPOSED = ["RateLimit", "RateLimit-Policy", "Retry-After", "X-Process-Time", "X-Request-ID"]
"""Response headers that a page from elsewhere may read."""

Middleware = Callable[[ASGIApp], ASGIApp]


def add_edge(app: FastAPI, *observers: Middleware) -> None:
    """Error handlers, middleware and `/docs`. `app.state.cors_origins` is to be set at the start.

    Observers see every request with its id, and every response, whoever of us gives it.
    """
    add_error_handlers(app)
    serve_docs(app)
    # The last one added is the first one met.
    app.add_middleware(BodyLimit)
    app.add_middleware(StopWhenClientLeaves)
    app.add_middleware(ErrorBoundary)
    app.add_middleware(Cors)
    for observer in observers:
        app.add_middleware(observer)
    app.add_middleware(ResponseHeaders)
    app.add_middleware(PlainRefusal)


class Cors:
    """Starlette's CORSMiddleware with origins that are known only once the app has started."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._cors: Preflight | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self._cors is None:
            state = scope["app"].state
            self._cors = Preflight(
                self.app,
                allow_origins=getattr(state, "cors_origins", ()),
                allow_credentials=getattr(state, "cors_credentials", False),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
                expose_headers=EXPOSED,
            )
        return await self._cors(scope, receive, send)


class Preflight(CORSMiddleware):
    """The same, except that a refusal is an ErrorResponse like every other."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        return as_json(response.status_code, NO_CORS, {"Vary": response.headers["Vary"]})
