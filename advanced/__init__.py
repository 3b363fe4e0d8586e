"""Track 2: harden the same agent for production. Start with README.md."""
