"""Another split: only what a visitor sees first, and the pieces put together."""

from fastapi import FastAPI

from medium.app.dependencies import opened
from medium.app.routes import agent
from shared.models import Health, ServiceInfo
from shared.playground import router as playground
from shared.web.edge import add_edge


def create_app() -> FastAPI:
    app = FastAPI(title="Agent", version="2", lifespan=opened, redirect_slashes=False)
    add_edge(app)
    app.add_api_route("/", root, response_model=ServiceInfo)
    app.add_api_route("/health", health, response_model=Health)
    app.include_router(agent.router)
    app.include_router(playground)
    return app


def root() -> dict[str, str]:
    """What this is."""
    return {"title": "Agent", "version": "2"}


def health() -> dict[str, str]:
    """Whether it is well."""
    return {"status": "healthy"}


app = create_app()
