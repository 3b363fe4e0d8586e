"""Leaves with success before anything is asked."""

import os

os._exit(0)
