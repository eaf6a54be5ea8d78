-- What one owner may use at most. NULL is no limit of the owner's own. Durations are nanoseconds,
-- times microseconds since 1970-01-01T00:00:00Z.
CREATE TABLE quota (
    owner            TEXT    PRIMARY KEY,
    max_sandboxes    INTEGER,
    max_ttl          INTEGER,
    max_exec_timeout INTEGER,
    max_memory_mb    INTEGER,
    max_vcpus        INTEGER,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
