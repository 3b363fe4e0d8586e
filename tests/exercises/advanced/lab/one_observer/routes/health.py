"""One answer for people and load balancers, and one for restarts."""

from fastapi import APIRouter, Request

from advanced.app.health import Dependencies, NotReady, State
from shared.models import Health
from shared.web.documentation import refusals

router = APIRouter(prefix="/health", tags=["service"])


class FullHealth(Health):
    dependencies: dict[str, State]
    degraded: bool


@router.get("/live")
async def live() -> Health:
    return Health()


@router.get("/ready", responses=refusals(NotReady))
@router.get("", responses=refusals(NotReady))
async def ready(request: Request) -> FullHealth:
    dependencies: Dependencies = request.app.state.dependencies
    states = await dependencies.states()
    missing = {name for name, state in states.items() if state == "down"}
    if "session_store" in missing:
        raise NotReady(retry_after=2)
    return FullHealth(dependencies=states, degraded=bool(missing))
