"""Whom we back up: an interface and one module for each kind of AppServer."""
