"""Probes: for a person, for an orchestrator's restart, for a load balancer. Never rate-limited."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field

from shared.models import Health
from shared.web.documentation import refusals

from ..health import Dependencies, NotReady, State

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
    dependencies: Dependencies = request.app.state.dependencies
    return await dependencies.states()


States = Annotated[dict[str, State], Depends(known_dependencies)]


def ready_with(states: dict[str, State]) -> FullHealth:
    """Raises NotReady without the session store, the one thing that nothing works without."""
    if states["session_store"] != "up":
        others = ", ".join(f"{name} {state}" for name, state in states.items())
        raise NotReady(f"Dependencies: {others}.", retry_after=5)
    return FullHealth(dependencies=states, degraded="down" in states.values())


@router.get("", responses=refusals(NotReady))
async def health_check(states: States) -> FullHealth:
    """How the service is: its dependencies, and whether it goes on without some of them."""
    return ready_with(states)


@router.get("/ready", responses=refusals(NotReady))
async def ready(states: States) -> FullHealth:
    """Whether to send requests here. Without Redis or the model the service still answers."""
    return ready_with(states)


@router.get("/live")
async def live() -> Health:
    """Whether the process answers; it asks nobody else. If not, restart it."""
    return Health()
