"""Guard: notices that an account lost an unusual share of its items, and keeps retention off it."""

from __future__ import annotations

from backupd.jobs.guard.guard import Guard
from backupd.jobs.guard.rule import Limits

__all__ = ["Guard", "Limits"]
