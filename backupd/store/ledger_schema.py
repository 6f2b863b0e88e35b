"""The tables of the ledger (`state.sqlite`), its version, and what older versions lack."""

from __future__ import annotations

APPLICATION = 0x62_6B_75_6C
VERSION = 4
_RESTORING = """
CREATE TABLE restoring (
    account TEXT NOT NULL, item TEXT NOT NULL, state INTEGER NOT NULL, target TEXT NOT NULL,
    basis INTEGER NOT NULL,
    PRIMARY KEY (account, item, state, target)) WITHOUT ROWID;
"""
_OPERATING = """
CREATE TABLE jobs (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE notifications (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pending INTEGER NOT NULL, facts TEXT NOT NULL);
CREATE INDEX notifications_pending ON notifications (id) WHERE pending;
CREATE TABLE operation_log (
    operation TEXT NOT NULL, place INTEGER NOT NULL, line TEXT NOT NULL,
    PRIMARY KEY (operation, place)) WITHOUT ROWID;
"""
_KEEPING = """
CREATE TABLE holds (
    account TEXT PRIMARY KEY, since INTEGER NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE suspensions (
    account TEXT PRIMARY KEY, since INTEGER NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE condemned (digest BLOB PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE remembered (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
"""
UPGRADES = {1: _RESTORING + _OPERATING + _KEEPING, 2: _OPERATING + _KEEPING, 3: _KEEPING}
"""What each older version lacks."""
SCHEMA = f"""{_RESTORING}{_OPERATING}{_KEEPING}
CREATE TABLE attributes (
    level TEXT NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (level, scope, name)) WITHOUT ROWID;
CREATE TABLE operations (
    place INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL, facts TEXT NOT NULL);
CREATE INDEX operations_by_status ON operations (status);
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    opened INTEGER NOT NULL, latest INTEGER NOT NULL, closed INTEGER);
CREATE INDEX gaps_open ON gaps (account) WHERE closed IS NULL;
CREATE TABLE waiting (
    account TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
    sequence INTEGER NOT NULL, change TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_try INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (account, kind, item)) WITHOUT ROWID;
CREATE INDEX waiting_by_time ON waiting (next_try);
CREATE TABLE numbers (
    source TEXT NOT NULL, account TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (source, account)) WITHOUT ROWID;
CREATE TABLE sessions (broker TEXT PRIMARY KEY, began INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE restored (
    account TEXT NOT NULL, item TEXT NOT NULL, state INTEGER NOT NULL, target TEXT NOT NULL,
    new_item TEXT NOT NULL,
    PRIMARY KEY (account, item, state, target)) WITHOUT ROWID;
"""
