"""Runs a submission where it can do no harm, and hands out sockets to talk to it.

client (the judge's side) > warm (a parent to fork from) > keeper (one a submission) > inside.
"""
