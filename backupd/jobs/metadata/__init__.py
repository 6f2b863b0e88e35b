"""Metadata outside: histories, journal and archives kept on the external volume, and how they come back.

`upload` sends what changed within a minute and an archive of each changed account a day; `retrieve` builds a
Backup Path from what was sent. What is where and what is needed is decided in `plan` and `names`, purely.
"""

from backupd.jobs.metadata.retrieve import Retrieval
from backupd.jobs.metadata.upload import Archived, MetadataUpload

__all__ = ["Archived", "MetadataUpload", "Retrieval"]
