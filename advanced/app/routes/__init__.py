"""The service's URLs."""
