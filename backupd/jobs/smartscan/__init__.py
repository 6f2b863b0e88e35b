"""SmartScan: compares accounts that changed since the last scan with their history, journals the rest.

Nothing is imported here: the worker processes of a scan need but a small part of it, and start the sooner.
"""
