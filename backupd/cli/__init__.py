"""The console `backupctl`: it knows the table of commands and the control socket, nothing else."""
