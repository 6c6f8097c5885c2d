"""The benchmark: every promise of speed, measured beside the libraries that a user would take instead.

``python -m tests.bench --help`` tells how to run it.
"""
