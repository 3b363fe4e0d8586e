"""Who asks, as the app itself would see it. Given; it is not handed in."""

from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from advanced.app.security import Authentication
from shared.errors import AgentError

UserOf = Callable[[Scope], Awaitable[str | None]]


async def user_of(scope: Scope) -> str | None:
    """The name of the user whose token came with the request, if the token holds; else None.

    A token that is forged, expired or logged out is nobody's.
    """
    sent = Headers(scope=scope).getlist("Authorization")
    scheme, _, token = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        return None
    authentication: Authentication = scope["app"].state.authentication
    try:
        return (await authentication.authenticate(token)).name
    except AgentError:
        return None
