-- Not numbered: the scratch store is made anew whenever it is lost (storage/sqlite.py, storage/postgres.py), and its
-- `id` then changes, which ends every nonce epoch that relied on it. To change a table here, give it a new name.
CREATE /*pg*/UNLOGGED/*end*/ TABLE IF NOT EXISTS scratch_id (
    slot             BIGINT PRIMARY KEY CHECK (slot = 1),   -- one row at most, however many nodes make it at once
    id               TEXT NOT NULL
);
CREATE /*pg*/UNLOGGED/*end*/ TABLE IF NOT EXISTS nonce_used (nonce TEXT PRIMARY KEY, expires_at BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS nonce_used_expiry ON nonce_used (expires_at);
CREATE /*pg*/UNLOGGED/*end*/ TABLE IF NOT EXISTS validation_claim (
    authorization_id TEXT PRIMARY KEY,
    holder           TEXT NOT NULL,          -- the worker that validates
    lease_until      BIGINT NOT NULL
);
