"""The tables of the catalog (`volume.sqlite`), its version, and the totals that triggers keep.

`places` says where each content rests on a volume: `block_bytes` 0 means that it is an object of its own.
`cached` are the bytes of its file in the Backup Path, 0 without one. `queue` are blobs of the Backup
Path that are not confirmed outside yet. `intents` name objects that may be on the volume without being in
`objects`.
"""

from __future__ import annotations

APPLICATION = 0x62_6B_75_76
VERSION = 1

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE volumes (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, is_whole INTEGER NOT NULL DEFAULT 0);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT, volume INTEGER NOT NULL, name TEXT NOT NULL,
    is_pack INTEGER NOT NULL, stored INTEGER NOT NULL, content_bytes INTEGER NOT NULL,
    live INTEGER NOT NULL, live_bytes INTEGER NOT NULL, confirmed INTEGER NOT NULL,
    UNIQUE (volume, name));
CREATE INDEX objects_dead ON objects (volume) WHERE live = 0;
CREATE INDEX objects_sparse ON objects (volume, live_bytes) WHERE is_pack;
CREATE TABLE places (
    volume INTEGER NOT NULL, digest BLOB NOT NULL, object INTEGER NOT NULL,
    block_offset INTEGER NOT NULL, block_bytes INTEGER NOT NULL,
    offset INTEGER NOT NULL, size INTEGER NOT NULL,
    cached INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (volume, digest)) WITHOUT ROWID;
CREATE INDEX places_by_object ON places (object);
CREATE INDEX places_by_use ON places (volume, used) WHERE cached > 0;
CREATE TABLE queue (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, queued INTEGER NOT NULL, size INTEGER NOT NULL,
    stored INTEGER NOT NULL, trouble TEXT NOT NULL);
CREATE INDEX queue_by_time ON queue (queued) WHERE trouble = '';
CREATE INDEX queue_troubled ON queue (queued) WHERE trouble != '';
CREATE TABLE intents (
    volume INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    sha256 BLOB NOT NULL, bytes INTEGER NOT NULL, due INTEGER NOT NULL,
    PRIMARY KEY (volume, name)) WITHOUT ROWID;
CREATE TABLE totals (name TEXT PRIMARY KEY, count INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO totals VALUES ('queue', 0, 0), ('cache', 0, 0);
CREATE TRIGGER queue_grows AFTER INSERT ON queue BEGIN
    UPDATE totals SET count = count + 1, bytes = bytes + NEW.stored WHERE name = 'queue'; END;
CREATE TRIGGER queue_shrinks AFTER DELETE ON queue BEGIN
    UPDATE totals SET count = count - 1, bytes = bytes - OLD.stored WHERE name = 'queue'; END;
CREATE TRIGGER cache_grows AFTER INSERT ON places WHEN NEW.cached > 0 BEGIN
    UPDATE totals SET count = count + 1, bytes = bytes + NEW.cached WHERE name = 'cache'; END;
CREATE TRIGGER cache_shrinks AFTER DELETE ON places WHEN OLD.cached > 0 BEGIN
    UPDATE totals SET count = count - 1, bytes = bytes - OLD.cached WHERE name = 'cache'; END;
CREATE TRIGGER cache_changes AFTER UPDATE OF cached ON places WHEN NEW.cached != OLD.cached BEGIN
    UPDATE totals SET count = count + (NEW.cached > 0) - (OLD.cached > 0),
        bytes = bytes + NEW.cached - OLD.cached WHERE name = 'cache'; END;
"""
