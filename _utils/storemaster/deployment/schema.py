# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The ledger's tables, as each version made them of those before."""

from __future__ import annotations

MIGRATIONS = (
    """
CREATE TABLE deployments (
    store TEXT PRIMARY KEY, generation INTEGER NOT NULL, state TEXT NOT NULL,
    hypervisor TEXT NOT NULL, minion_id TEXT NOT NULL, due REAL, revision INTEGER NOT NULL,
    record TEXT NOT NULL);
CREATE INDEX deployments_due ON deployments (due);
CREATE INDEX deployments_state ON deployments (state);
CREATE INDEX deployments_minion ON deployments (minion_id);
CREATE INDEX deployments_hypervisor ON deployments (hypervisor);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, store TEXT NOT NULL, generation INTEGER NOT NULL,
    state TEXT NOT NULL, previous TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    announced INTEGER NOT NULL DEFAULT 0);
CREATE INDEX history_store ON history (store, generation);
CREATE INDEX history_unannounced ON history (announced) WHERE announced = 0;
CREATE TABLE bells (name TEXT PRIMARY KEY, at REAL NOT NULL, eager INTEGER NOT NULL)
""",
    """
ALTER TABLE bells ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
CREATE TABLE minions (minion TEXT, store TEXT, PRIMARY KEY (minion, store)) WITHOUT ROWID;
CREATE INDEX minions_store ON minions (store);
INSERT INTO minions
    SELECT minion_id, store FROM deployments UNION SELECT hypervisor, store FROM deployments;
DROP INDEX deployments_minion;
DROP INDEX deployments_hypervisor
""",
    """
ALTER TABLE deployments ADD COLUMN since REAL;
ALTER TABLE deployments ADD COLUMN held_in TEXT;
UPDATE deployments SET
    since = json_extract(record, '$.since'), held_in = json_extract(record, '$.held_in')
""",
    """
ALTER TABLE bells ADD COLUMN tries INTEGER NOT NULL DEFAULT 0
""",
    """
DROP INDEX deployments_state;
CREATE INDEX deployments_state ON deployments (state, since, store);
CREATE INDEX deployments_ahead ON deployments (due) WHERE state != 'queued'
""",
    """
ALTER TABLE history ADD COLUMN actor TEXT NOT NULL DEFAULT '';
ALTER TABLE history ADD COLUMN way TEXT NOT NULL DEFAULT ''
""",
    """
CREATE TABLE requests (
    id TEXT PRIMARY KEY, store TEXT NOT NULL, generation INTEGER NOT NULL, verb TEXT NOT NULL,
    arguments TEXT NOT NULL, who TEXT NOT NULL, until REAL NOT NULL);
CREATE INDEX requests_store ON requests (store)
""",
    """
CREATE TABLE receivers (
    name TEXT PRIMARY KEY, seen INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, failing_since REAL, fault TEXT NOT NULL DEFAULT '');
CREATE TABLE notices (
    receiver TEXT, change INTEGER, store TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, failing_since REAL, fault TEXT NOT NULL DEFAULT '',
    aside INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (receiver, change)) WITHOUT ROWID
""",
    """
ALTER TABLE deployments ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
UPDATE deployments SET changed = rowid;
CREATE INDEX deployments_changed ON deployments (changed)
""",
    """
CREATE TABLE names (store TEXT, name TEXT, PRIMARY KEY (store, name)) WITHOUT ROWID
""",
)
"""What makes each schema of the one before; the ledger's version is how many were applied."""
