"""The bench: this service and two plain baselines under one load. Run `python -m bench`."""
