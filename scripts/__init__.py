"""The repository's own tools: setting up, locking versions, checking and running the docs."""
