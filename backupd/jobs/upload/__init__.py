"""Upload: blobs go out to the external volume as soon as they can, and may leave the cache then."""
