-- Every id ever given out, for ever: an id is never given out twice. One integer a row keeps
-- a hundred thousand of them near one megabyte.
CREATE TABLE taken_id (
    id INTEGER PRIMARY KEY
) STRICT;

-- Sandboxes that are not destroyed. The row of a destroyed one is deleted; its id stays above.
-- Times are microseconds since 1970-01-01T00:00:00Z. Environment values are never stored.
CREATE TABLE sandbox (
    id         INTEGER PRIMARY KEY REFERENCES taken_id (id),
    state      TEXT    NOT NULL CHECK (state IN ('creating', 'running', 'stopped', 'error', 'destroying')),
    provider   TEXT    NOT NULL,
    image      TEXT    NOT NULL,
    memory_mb  INTEGER NOT NULL,
    vcpus      INTEGER NOT NULL,
    owner      TEXT,
    template   TEXT,
    isolation  TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    metadata   TEXT    NOT NULL
) STRICT;

-- Which sandbox an idempotency key made. The digest tells a repeated request from another one
-- under the same key. An owner of '' is nobody.
CREATE TABLE idempotency (
    owner      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    sandbox    INTEGER NOT NULL REFERENCES taken_id (id),
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);
CREATE INDEX idempotency_by_sandbox ON idempotency (sandbox);
