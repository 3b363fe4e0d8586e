"""Your part: probes, for a person, for an orchestrator's restart, for a load balancer.

Served as advanced/app/routes/health.py.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field

from advanced.app.health import NotReady, State
from shared.models import Health
from shared.web.documentation import refusals

router = APIRouter(prefix="/health", tags=["service"])


class FullHealth(Health):
    """What the service leans on, and whether it has to do without some of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "healthy",
                    "dependencies": {"session_store": "up", "redis": "down", "model": "up"},
                    "degraded": True,
                }
            ]
        }
    )

    dependencies: dict[str, State] = Field(description="Each one up, down, or off as configured")
    degraded: bool = Field(description="Whether one of them is down: the service goes on without")


async def known_dependencies(request: Request) -> dict[str, State]:
    raise NotImplementedError("TODO 7: ask the Dependencies that main.py keeps")


States = Annotated[dict[str, State], Depends(known_dependencies)]


def ready_with(states: dict[str, State]) -> FullHealth:
    """Raises NotReady without the session store, the one thing that nothing works without."""
    raise NotImplementedError("TODO 7: tell them, and whether the service does without one")


@router.get("", responses=refusals(NotReady))
async def health_check(states: States) -> FullHealth:
    """How the service is: its dependencies, and whether it goes on without some of them."""
    raise NotImplementedError("TODO 7: say how the service is")


@router.get("/ready", responses=refusals(NotReady))
async def ready(states: States) -> FullHealth:
    """Whether to send requests here. Without Redis or the model the service still answers."""
    raise NotImplementedError("TODO 7: say whether to send requests here")


@router.get("/live")
async def live() -> Health:
    """Whether the process answers; it asks nobody else. If not, restart it."""
    raise NotImplementedError("TODO 7: say that the process answers")
