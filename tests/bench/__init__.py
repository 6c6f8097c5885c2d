"""The benchmark: every promise of speed, measured next to the libraries that a user could use instead.

``python -m tests.bench --help`` tells how to run it.
"""
