"""The rows of the table of commands, a module a file; `backupd.commands` puts them together."""
