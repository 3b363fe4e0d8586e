"""The advanced track's service: the agent for several users, workers and bad days."""
