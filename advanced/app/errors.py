"""What this service refuses beyond `shared/errors.py`: callers that it does not know or believe."""

from shared.errors import AgentError


class Unauthenticated(AgentError):
    """No token came with the request, or several; answered with WWW-Authenticate."""

    status = 401
    code = "not_authenticated"
    error = "Log in first, and send the token as Authorization: Bearer."
    challenge = "Bearer"


class InvalidToken(Unauthenticated):
    """The token is forged, expired or revoked, or its user is gone: nobody is told which."""

    code = "invalid_token"
    error = "This token is not valid, or not any more; log in again."
    challenge = 'Bearer error="invalid_token"'


class InvalidCredentials(Unauthenticated):
    """No such user, or not their password: nobody is told which."""

    code = "invalid_credentials"
    error = "The user name or the password is wrong."


class TooManyLogins(AgentError):
    """Too many failed logins by this user, from this address, or both."""

    status = 429
    code = "too_many_logins"
    error = "Too many logins failed; try again later."


class RateLimited(AgentError):
    """More requests in the window than this user, or this address, is allowed."""

    status = 429
    code = "rate_limited"
    error = "Too many requests; try again later."
