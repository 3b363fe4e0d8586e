"""For all tests: Ctrl-C means what it usually means, also when they run in the background."""

import signal

# A shell starts background jobs with SIGINT ignored, and the processes of the tests inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
