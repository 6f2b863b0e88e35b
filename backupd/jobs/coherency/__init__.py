"""Coherency check: reads a whole Backup Path, says what does not fit, and mends what can be mended."""
