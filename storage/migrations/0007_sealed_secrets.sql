-- Secrets that have to be read back (pki/sealing.py): what CMC clients make MACs with, keys that new private keys are encrypted to,
-- and what Digest is computed from. `name` is how a request names it; who may use it, and until when, is decided by the query.
CREATE TABLE sealed_secret (
    kind             TEXT NOT NULL,          -- cmc-secret | est-key | est-digest
    endpoint         TEXT NOT NULL,
    name             TEXT NOT NULL,          -- identification, key id in lower-case hex, user
    secret           BYTES NOT NULL,         -- sealed, for exactly this place
    roles            TEXT NOT NULL,          -- JSON array; of est-digest the user's own row in `credential` counts
    profile          TEXT NOT NULL,          -- default profile, '' for the endpoint's
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT,
    disabled_at      BIGINT,
    PRIMARY KEY (kind, endpoint, name)
);
