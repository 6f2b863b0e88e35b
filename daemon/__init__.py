"""The process around the engine: broker, schedule, control socket and signals.

This package shares its import name with python-daemon on PyPI: the service lives in a virtual environment
of its own.
"""
