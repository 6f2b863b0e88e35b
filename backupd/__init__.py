"""The engine of backupd: words, outside world, durable truth and the verbs that work on them."""

__version__ = "0.1.0"
