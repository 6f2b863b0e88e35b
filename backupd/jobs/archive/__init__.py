"""Archive: keeps the configuration and the server's own files, once a day and whenever asked."""
