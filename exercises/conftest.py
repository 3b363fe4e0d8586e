"""Lets plain `pytest` in an exercise's folder grade the files that are there."""

pytest_plugins = ["grader.judge.plugin"]
