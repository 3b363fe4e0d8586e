"""The playground: one page to talk to the agent, served by both apps."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter()


@router.get("/playground", include_in_schema=False)
async def playground() -> FileResponse:
    return FileResponse(Path(__file__).with_name("playground.html"), media_type="text/html")
