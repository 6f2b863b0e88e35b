"""Store: the only durable state. `Store.open` opens all of a Backup Path; each part is a file here."""
