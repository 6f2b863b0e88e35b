"""Volumes: where blobs and archives rest. An interface (`base`) and one file per implementation."""
