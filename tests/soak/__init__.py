"""The soak: one client in many threads for minutes or hours, against a server with every kind of fault.

``python -m tests.soak --help`` shows how to run it.
"""
