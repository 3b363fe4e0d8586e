"""What the routes need before they start: who is asking."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import JSONResponse

from shared.web.errors import as_json

from .errors import Unauthenticated
from .security import Authentication, User

security = HTTPBearer(auto_error=False, description="The `access_token` of a login")


def get_authentication(request: Request) -> Authentication:
    """The one of this app, made by the lifespan in `main.py`."""
    authentication: Authentication = request.app.state.authentication
    return authentication


AuthenticationDep = Annotated[Authentication, Depends(get_authentication)]


async def current_user(
    request: Request,
    authentication: AuthenticationDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(security)],
) -> User:
    """Whose token came in the one Authorization header. Raises Unauthenticated.

    The log finds the name as `request.state.user`.
    """
    if credentials is None or len(request.headers.getlist("Authorization")) != 1:
        raise Unauthenticated
    user = await authentication.authenticate(credentials.credentials)
    request.state.user = user.name
    return user


CurrentUser = Annotated[User, Depends(current_user)]


def client_address(request: Request) -> str:
    """The client's, as the server tells it; a trusted proxy's word is already in it."""
    return request.client.host if request.client else "local"


ClientAddress = Annotated[str, Depends(client_address)]


async def on_unauthenticated(_: Request, exc: Unauthenticated) -> JSONResponse:
    """401 with its challenge (RFC 6750, section 3)."""
    return as_json(exc.status, exc.as_response(), {"WWW-Authenticate": exc.challenge})
