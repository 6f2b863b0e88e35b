"""Migrate: contents and metadata go to another volume, verified, and what would be missed is listed."""

from backupd.jobs.migrate.left_behind import LostContents
from backupd.jobs.migrate.migration import FetchedBack, Migration, Tally

__all__ = ["FetchedBack", "LostContents", "Migration", "Tally"]
