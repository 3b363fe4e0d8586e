"""`GET /metrics`, for Prometheus."""

import asyncio
import math
from secrets import compare_digest
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from shared.errors import AgentError
from shared.web.documentation import refusals

from ..config import Settings
from ..errors import Unauthenticated
from ..health import Dependencies
from ..monitoring import CONTENT_TYPE, active_sessions, dependency_up, get_metrics
from ..resources import Conversations

router = APIRouter(tags=["service"])

scrapers = HTTPBearer(
    auto_error=False, scheme_name="METRICS_TOKEN", description="For the monitoring alone"
)


class NoMetricsToken(Unauthenticated):
    """Metrics tell strangers much: in production they are for the holder of METRICS_TOKEN."""

    error = "Send METRICS_TOKEN as Authorization: Bearer; without that setting nobody is let in."


async def scraper(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(scrapers)],
) -> None:
    """In development everybody, unless METRICS_TOKEN is set. Raises NoMetricsToken."""
    settings: Settings = request.app.state.settings
    token = settings.METRICS_TOKEN
    if token is None and settings.ENVIRONMENT == "development":
        return
    sent = credentials.credentials if credentials else ""
    expected = token.get_secret_value() if token else ""
    if not expected or not compare_digest(sent.encode(), expected.encode()):
        raise NoMetricsToken


@router.get(
    "/metrics",
    dependencies=[Depends(scraper)],
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus' text format; the numbers of all workers",
        },
        **refusals(NoMetricsToken),
    },
)
async def metrics(request: Request) -> Response:
    """What is counted and measured."""
    conversations: Conversations = request.app.state.conversations
    try:
        active_sessions.set(await conversations.active())
    except AgentError:
        active_sessions.set(math.nan)  # unknown, and the other numbers matter all the more
    dependencies: Dependencies = request.app.state.dependencies
    for name, state in (await dependencies.states()).items():
        if state != "off":
            dependency_up.labels(name).set(state == "up")
    return Response(await asyncio.to_thread(get_metrics), media_type=CONTENT_TYPE)
