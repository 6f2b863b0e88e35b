"""Restore: from a state back into the AppServer. A restore never changes history."""

from backupd.jobs.restore.accounts import AccountRestore, NewAccount, Undelete
from backupd.jobs.restore.contents import ContentRestore, ContentsWanted
from backupd.jobs.restore.drill import DrillWanted, RestoreDrill
from backupd.jobs.restore.export import Export
from backupd.jobs.restore.external import ExternalRestore
from backupd.jobs.restore.importing import ExternalWanted
from backupd.jobs.restore.item import ItemRestore, RestoredItem, choose_state, find_item

__all__ = [
    "AccountRestore",
    "ContentRestore",
    "ContentsWanted",
    "DrillWanted",
    "Export",
    "ExternalRestore",
    "ExternalWanted",
    "ItemRestore",
    "NewAccount",
    "RestoreDrill",
    "RestoredItem",
    "Undelete",
    "choose_state",
    "find_item",
]
