"""What the routes need before they start: who is asking, how often, and what they may use."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import JSONResponse

from shared.models import QueryRequest
from shared.web.errors import as_json
from shared.web.streaming import EventStream, first_fetched

from .agent_service import ProductionAgentService
from .database import SessionStoreUnavailable
from .errors import InvalidToken, RateLimited, Unauthenticated
from .limits import RateLimiter, household, limit_headers
from .logs import note
from .resources import Conversations
from .security import Authentication, User

USER_ERRORS = (Unauthenticated, InvalidToken, RateLimited, SessionStoreUnavailable)
"""What every route that asks for a token may answer."""

security = HTTPBearer(auto_error=False, description="The `access_token` of a login")


async def get_authentication(request: Request) -> Authentication:
    """The one of this app, made by the lifespan in `main.py`."""
    authentication: Authentication = request.app.state.authentication
    return authentication


AuthenticationDep = Annotated[Authentication, Depends(get_authentication)]


async def client_address(request: Request) -> str:
    """The client's, as `RealClient` (`edge.py`) found it."""
    return request.client.host if request.client else "local"


ClientAddress = Annotated[str, Depends(client_address)]


async def limited_by_address(request: Request) -> None:
    """For requests of nobody in particular. Raises RateLimited."""
    await spend(request, f"address {household(await client_address(request))}")


async def spend(request: Request, key: str) -> None:
    """Take one request from the key's allowance, and tell the client what is left of it."""
    limiter: RateLimiter | None = getattr(request.app.state, "limiter", None)
    if limiter is None:
        return
    verdict = await limiter.hit(key)
    request.state.headers = limit_headers(verdict)
    if not verdict.allowed:
        raise RateLimited(
            f"{verdict.limit} requests in {verdict.window} s are allowed.",
            retry_after=verdict.retry_after,
        )


async def admit(request: Request, credentials: HTTPAuthorizationCredentials | None) -> User:
    """Whose token came in the one Authorization header. Raises Unauthenticated, or RateLimited.

    Users have an allowance each; requests without a valid token share that of their address.
    """
    try:
        if credentials is None or len(request.headers.getlist("Authorization")) != 1:
            raise Unauthenticated
        authentication = await get_authentication(request)
        user = await authentication.authenticate(credentials.credentials)
    except Unauthenticated:
        await limited_by_address(request)
        raise
    await spend(request, f"user {user.name}")
    note(user=user.name)
    return user


class UsersRoute(APIRoute):
    """A route that looks at who is asking before it reads what they say."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            request.state.user = await admit(request, await security(request))
            return await handle(request)

        return admitted


async def current_user(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(security)],
) -> User:
    """Who is asking. Raises Unauthenticated, or RateLimited."""
    if not hasattr(request.state, "user"):  # not on a UsersRoute
        request.state.user = await admit(request, credentials)
    user: User = request.state.user
    return user


CurrentUser = Annotated[User, Depends(current_user)]


async def get_agent_service(request: Request) -> ProductionAgentService:
    """The one service of this app, with the sessions of whom a UsersRoute let in."""
    user: User = request.state.user
    service: ProductionAgentService = request.app.state.agent_service
    conversations: Conversations = request.app.state.conversations
    return service.of(user.name, conversations.of(user.name))


AgentServiceDep = Annotated[ProductionAgentService, Depends(get_agent_service)]


async def open_stream(query: QueryRequest, service: AgentServiceDep) -> AsyncIterator[EventStream]:
    """The answer's stream, opened here and closed here, whether or not the client stays.

    An error before the first event is raised before the route runs, so it is a real status.
    """
    chunks = service.stream_query(query.query, query.session_id, query.max_iterations)
    async with first_fetched(chunks) as stream:
        yield stream


OpenedStream = Annotated[EventStream, Depends(open_stream)]


async def on_unauthenticated(_: Request, exc: Unauthenticated) -> JSONResponse:
    """401 with its challenge (RFC 6750, section 3)."""
    return as_json(exc.status, exc.as_response(), {"WWW-Authenticate": exc.challenge})
