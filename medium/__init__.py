"""Track 1: deploy the agent as a FastAPI service. Start with README.md."""
