"""Your part: logging in and out, below API_PREFIX. Served as advanced/app/routes/auth.py."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form
from pydantic import BaseModel, ConfigDict, Field

from advanced.app.database import SessionStoreUnavailable
from advanced.app.dependencies import (
    USER_ERRORS,
    AuthenticationDep,
    ClientAddress,
    CurrentUser,
    limited_by_address,
)
from advanced.app.errors import InvalidCredentials, RateLimited, TooManyLogins
from advanced.app.users import LONGEST_PASSWORD
from shared.errors import Overloaded
from shared.web.documentation import described, refusals
from shared.web.errors import TOO_LARGE

router = APIRouter(prefix="/auth", tags=["auth"])

LOGIN_ERRORS = {
    **refusals(InvalidCredentials, RateLimited, TooManyLogins, Overloaded, SessionStoreUnavailable),
    413: described(413, TOO_LARGE),
}


class AccessToken(BaseModel):
    """To be sent with every request as `Authorization: Bearer`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "access_token": "<header.payload.signature>",
                    "token_type": "bearer",
                    "expires_in": 1800,
                }
            ]
        }
    )

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int = Field(description="Seconds for which the token is valid")


class LoggedOut(BaseModel):
    """The token is refused from now on, by every worker."""

    message: str


@router.post("/login", responses=LOGIN_ERRORS, dependencies=[Depends(limited_by_address)])
async def login(
    username: Annotated[str, Form(min_length=1, max_length=LONGEST_PASSWORD)],
    password: Annotated[
        str,
        Form(min_length=1, max_length=LONGEST_PASSWORD, json_schema_extra={"format": "password"}),
    ],
    authentication: AuthenticationDep,
    address: ClientAddress,
) -> AccessToken:
    """Exchange a user name and a password for a token."""
    raise NotImplementedError("TODO 10: have the authentication log in, and tell the token")


@router.post("/logout", responses=refusals(*USER_ERRORS))
async def logout(user: CurrentUser, authentication: AuthenticationDep) -> LoggedOut:
    """End the validity of the token that came with this request."""
    raise NotImplementedError("TODO 11: have the authentication log out, and say so")
