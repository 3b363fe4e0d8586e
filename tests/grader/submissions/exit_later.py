"""Is gone a moment after it has begun."""

import os
import threading

threading.Timer(0.3, os._exit, [0]).start()
