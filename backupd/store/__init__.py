"""Store: the only durable state. `Store.open` opens all of a Backup Path; the parts stand in files of their names."""
