"""What this app's edge does beyond `shared/web/edge.py`: real clients, and headers for browsers."""

from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Network, as_address, client_address

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
FOR_PAGES = {**SECURITY_HEADERS, "Content-Security-Policy": "frame-ancestors 'none'"}
"""Our few pages have scripts and styles."""

LOOPBACK = ip_address("127.0.0.1")

STRICT_TRANSPORT = {"Strict-Transport-Security": "max-age=31536000"}


class SecurityHeaders:
    """Headers against the misuse of our answers in browsers, unless the response has its own.

    And those that were put into `request.state.headers`: on answers and refusals alike.
    """

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self.app = app
        self._always = STRICT_TRANSPORT if https else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                for name, value in (FOR_PAGES if is_page else SECURITY_HEADERS).items():
                    headers.setdefault(name, value)
                headers.update({**self._always, **scope["state"].get("headers", {})})
            await send(message)

        return await self.app(scope, receive, with_headers)


class RealClient:
    """Puts the real client's address where everybody looks for it: `scope["client"]`.

    Only what our own proxies added to X-Forwarded-For is believed. uvicorn, when it is started by
    hand, believes everybody on this machine: so an address that the header names, too, was this
    machine's, unless it has a proxy of ours.
    """

    def __init__(self, app: ASGIApp, *, proxies: tuple[Network, ...]) -> None:
        self.app = app
        self._proxies = proxies
        self._proxy_here = any(LOOPBACK in network for network in proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        host, port = scope.get("client") or (None, 0)
        forwarded = Headers(scope=scope).getlist("x-forwarded-for")
        if host is not None and not self._proxy_here and names(forwarded, host):
            host = str(LOOPBACK)
        scope["client"] = (client_address(host, forwarded, self._proxies), port)
        return await self.app(scope, receive, send)


def names(forwarded: list[str], host: str) -> bool:
    """Whether this is one of the addresses; some come with a port, and in brackets."""
    hops = [hop for value in forwarded for hop in value.split(",")]
    return any(as_address(hop) == as_address(host) for hop in hops)
