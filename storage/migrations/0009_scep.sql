-- SCEP (scep/transactions.py, issuance/scep_challenges.py). Expand only.

-- What a client was allowed to ask for, so that it can poll for it, and repeat what its challenge opens only once.
CREATE TABLE scep_transaction (
    endpoint         TEXT NOT NULL,
    transaction_id   TEXT NOT NULL,
    signer_sha256    TEXT NOT NULL,          -- of the public key that signs its messages
    csr_sha256       TEXT NOT NULL,          -- of the request, which is not kept: the challenge is in it
    spki             BYTES NOT NULL,         -- the key that is to be certified
    subject          BYTES NOT NULL,         -- Name, as sent
    names            TEXT NOT NULL,          -- JSON array of "dns:example.com", "ip:192.0.2.1"
    way              TEXT NOT NULL,          -- static | one-time | webhook | intune | renewal
    allowed_by       TEXT NOT NULL,          -- JSON: principal, roles, evidence
    profile          TEXT NOT NULL,
    idempotency_key  TEXT NOT NULL,
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    PRIMARY KEY (endpoint, signer_sha256, transaction_id)
);
CREATE INDEX scep_transaction_by_end ON scep_transaction (expires_at);

-- Challenge passwords that open once.
CREATE TABLE scep_challenge (
    id               TEXT PRIMARY KEY,
    secret_sha256    TEXT NOT NULL UNIQUE,   -- 128 random bits
    endpoint         TEXT NOT NULL,
    subject          TEXT,                   -- JSON array of [attribute type, value], sorted; NULL is any that fits the names
    names            TEXT,                   -- JSON array of "dns:example.com", "ip:192.0.2.1", sorted; NULL is any
    roles            TEXT NOT NULL,          -- JSON array
    profile          TEXT NOT NULL,          -- '' for the endpoint's
    made_by          TEXT NOT NULL,          -- "kind:id"
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    used_at          BIGINT,                 -- from then on it opens nothing
    used_by          TEXT NOT NULL,          -- the request's digest; '' until used
    disabled_at      BIGINT
);
CREATE INDEX scep_challenge_by_time ON scep_challenge (created_at, id);
CREATE INDEX scep_challenge_by_end ON scep_challenge (expires_at);

-- Those of an endpoint are looked for without a name (issuance/credentials.py).
CREATE INDEX credential_by_endpoint ON credential (kind, endpoint);
