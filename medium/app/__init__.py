"""The medium track's service: the agent behind async endpoints, streaming, with sessions."""
