"""For rehearsing: a replica whose clocks are wrong. Given; it is not handed in."""

import time
from collections.abc import Callable


def set_clocks_ahead(seconds: float) -> None:
    """The clocks of this process, for whoever looks at them from now on."""
    if seconds:
        for name in ("time", "monotonic"):
            setattr(time, name, ahead(getattr(time, name), seconds))
        for name in ("time_ns", "monotonic_ns"):
            setattr(time, name, ahead(getattr(time, name), int(seconds * 1e9)))


def ahead(clock: Callable[[], float], by: float) -> Callable[[], float]:
    return lambda: clock() + by
