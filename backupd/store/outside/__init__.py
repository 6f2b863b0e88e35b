"""Blobs outside: what rests on the external volume, what waits to go there, and how it comes back."""
