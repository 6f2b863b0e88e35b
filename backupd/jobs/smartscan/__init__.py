"""SmartScan: compares accounts that changed since the last scan with their history, journals the rest."""

from backupd.jobs.smartscan.scan import SmartScan
from backupd.jobs.smartscan.tally import ScanOptions

__all__ = ["ScanOptions", "SmartScan"]
