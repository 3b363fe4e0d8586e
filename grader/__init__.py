"""Grades exercises from the outside: it knows files, processes and HTTP, never a submission's code.

cli > runner > judge > sandbox > workspace > catalogue; what comes back is a report, then text.
"""
