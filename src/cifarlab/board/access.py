"""Access to the board and to `cifarlab serve`: tokens, allowed host names, origins of requests, security headers."""

import hmac
import ipaddress
import re
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifarlab.errors import UsageError

COOKIE = "cifarlab-token"
PREDICTING = ("/api/predict", "/api/predict/batch")
READERS_MAY = (
    *PREDICTING,
    "/api/layers",
    "/api/class/join",
    "/api/class/weights",
)  # with a reading token, beside reading
HEALTH = "/health"  # needs no token, because it says nothing else
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class AccessMiddleware:
    """Refuse requests that are not allowed, and add the security headers to all answers."""

    def __init__(self, app: ASGIApp, token: str, reading_token: str = "") -> None:
        self.app, self.token, self.reading_token = app, token, reading_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        received = request.query_params.get("token") or bearer or request.cookies.get(COOKIE, "")
        tokens = [token.encode() for token in (self.token, self.reading_token) if token]
        known = [hmac.compare_digest(received.encode(), token) for token in tokens]
        scope["reads_only"] = known == [False, True]
        if refusal := _refuse(request, bool(self.token), any(known)):
            await refusal(scope, receive, send)
            return
        sets_cookie = self.token and request.query_params.get("token")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if sets_cookie:
                    headers.append("Set-Cookie", f"{COOKIE}={received}; HttpOnly; Path=/; SameSite=strict")
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _refuse(request: Request, needs_token: bool, has_token: bool) -> Response | None:
    """Return the answer to a request that is not allowed, else None.

    A server without a token serves this machine alone, and only under this machine's names: otherwise a page of another
    site could let its own host name point here (DNS rebinding). Requests that change something must come from the
    server's own pages.
    """
    if not needs_token and not is_local(_host_name(request)):
        return Response("This server can only be used as localhost.", 421)
    if needs_token and not has_token and request.scope["path"] != HEALTH:
        how = "open the address that it printed, or send the header Authorization: Bearer TOKEN."
        return Response(f"This server needs its token: {how}", 401, {"WWW-Authenticate": "Bearer"})
    if request.scope["reads_only"] and request.method != "GET" and request.scope["path"] not in READERS_MAY:
        return Response("This token only reads and predicts. Use the other address that `cifarlab board` printed.", 403)
    origin = request.headers.get("origin")
    if request.method != "GET" and origin and origin.split("//")[-1] != request.headers.get("host"):
        return Response("This request comes from a page of another site.", 403)
    return None


def check_token(token: str) -> None:
    """Check a token that a user has chosen; an empty one means none."""
    if token and not re.fullmatch(r"[\w-]{16,200}", token, re.ASCII):
        allowed = f"16 to 200 letters, digits, - and _, got {len(token)} characters"
        raise UsageError(f"CIFARLAB_TOKEN must be {allowed}. Make one with: openssl rand -hex 24")


def _host_name(request: Request) -> str:
    """Return the name in the Host header, or an empty string if it is malformed.

    `request.url.hostname` would fall back on the server's own address.
    """
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_local(host: str) -> bool:
    """Return True if a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
