"""Concord: from people's rankings to an aligned policy."""

__version__ = "0.1.0"
