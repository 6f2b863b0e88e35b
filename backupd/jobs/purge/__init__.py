"""The purge: removes what retention no longer covers. `plan` decides, `purge` acts in small durable steps."""

from backupd.jobs.purge.purge import Purge, PurgeWanted, Rules
from backupd.jobs.purge.seams import Alone, Keeping, NothingKept, StorePlaces

__all__ = ["Alone", "Keeping", "NothingKept", "Purge", "PurgeWanted", "Rules", "StorePlaces"]
