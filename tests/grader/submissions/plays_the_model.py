"""Answers its own questions to the model, and never asks it."""

from shared.agent_service import AgentService
from shared.models import QueryResponse


async def pretend(self, query, session_id=None, max_iterations=None):
    return QueryResponse(response="Good.", session_id=session_id or "s", execution_time=0.1)


AgentService.process_query = pretend
