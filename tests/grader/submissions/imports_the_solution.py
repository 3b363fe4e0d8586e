"""Imports the solution by the name that it has in the course."""

from solutions.medium.ex02_rate_limit_per_session.rate_limit import *
