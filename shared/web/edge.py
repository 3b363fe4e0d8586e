"""Everything that both apps put around their routes, in the order in which a request meets it."""

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.models import ErrorResponse
from shared.web.errors import ErrorBoundary, add_error_handlers, as_json
from shared.web.lifecycle import PlainRefusal
from shared.web.middleware import BodyLimit, ResponseHeaders, StopWhenClientLeaves

NO_CORS = ErrorResponse(
    error="This origin, method or header is not allowed from a web page.", code="cors_refused"
)


def add_edge(app: FastAPI) -> None:
    """Error handlers and middleware. `app.state.cors_origins` is to be set at the app's start."""
    add_error_handlers(app)
    # The last one added is the first one met.
    app.add_middleware(BodyLimit)
    app.add_middleware(StopWhenClientLeaves)
    app.add_middleware(ErrorBoundary)
    app.add_middleware(Cors)
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
            self._cors = Preflight(
                self.app,
                allow_origins=getattr(scope["app"].state, "cors_origins", ()),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
                expose_headers=["Retry-After", "X-Process-Time", "X-Request-ID"],
            )
        return await self._cors(scope, receive, send)


class Preflight(CORSMiddleware):
    """The same, except that a refusal is an ErrorResponse like every other."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        return as_json(response.status_code, NO_CORS, {"Vary": response.headers["Vary"]})
