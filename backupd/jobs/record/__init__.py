"""Record: from journal to history. The only writer of histories and of the index."""

from backupd.jobs.record.recorder import Recorder
from backupd.jobs.record.round import Recorded, RecorderCounts

__all__ = ["Recorded", "Recorder", "RecorderCounts"]
