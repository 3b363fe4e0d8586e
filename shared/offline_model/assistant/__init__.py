"""How the offline model answers by itself, when no test tells it what to say: start at `reply`."""
