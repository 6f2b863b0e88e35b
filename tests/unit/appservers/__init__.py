"""Tests of backupd."""
