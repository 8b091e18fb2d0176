-- The first schema. Types: TEXT, BIGINT (times are microseconds UTC, flags are 0/1), BYTES (BYTEA or BLOB by the type map).
-- No foreign keys between slices: each slice owns its tables; the ledger is written by the pipeline alone.

-- ---------------------------------------------------------------- issuance: the ledger
CREATE TABLE issuance (
    id               TEXT PRIMARY KEY,
    issuer           TEXT NOT NULL,
    serial           TEXT NOT NULL,          -- lower-case hex, no leading zeros
    state            TEXT NOT NULL,          -- issuing | issued | abandoned
    lease_until      BIGINT NOT NULL,        -- past this, an `issuing` row belongs to the sweeper
    tbs              BYTES NOT NULL,         -- what the signer is asked to sign, byte for byte
    spki_sha256      TEXT NOT NULL,
    profile          TEXT NOT NULL,
    profile_version  TEXT NOT NULL,
    names            TEXT NOT NULL,          -- JSON array of "dns:example.com", "ip:192.0.2.1", "cn:router7"
    protocol         TEXT NOT NULL,
    endpoint         TEXT NOT NULL,
    principal        TEXT NOT NULL,          -- "kind:id"
    evidence         TEXT NOT NULL,          -- JSON array, what each name was granted on
    origin_kind      TEXT NOT NULL,          -- who waits for the outcome ("acme-order") or ''
    origin_id        TEXT NOT NULL,
    idempotency_key  TEXT UNIQUE,
    request_sha256   TEXT NOT NULL,          -- what the idempotency key stands for
    not_before       BIGINT NOT NULL,
    not_after        BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    settled_at       BIGINT,
    UNIQUE (issuer, serial)
);
CREATE INDEX issuance_leases ON issuance (lease_until) WHERE state = 'issuing';

CREATE TABLE certificate (
    issuer           TEXT NOT NULL,
    serial           TEXT NOT NULL,
    issuance_id      TEXT NOT NULL UNIQUE,
    der              BYTES NOT NULL,
    spki_sha256      TEXT NOT NULL,
    profile          TEXT NOT NULL,
    names            TEXT NOT NULL,
    protocol         TEXT NOT NULL,
    endpoint         TEXT NOT NULL,
    principal        TEXT NOT NULL,
    not_before       BIGINT NOT NULL,
    not_after        BIGINT NOT NULL,
    issued_at        BIGINT NOT NULL,
    PRIMARY KEY (serial, issuer)             -- in this order it also finds a serial whose issuer is not known
);
CREATE INDEX certificate_by_time ON certificate (issued_at, serial);
CREATE INDEX certificate_by_principal ON certificate (principal, issued_at, serial);

-- One row per revoked serial, also for one that may have been signed without our learning of it (precaution = 1).
CREATE TABLE revocation (
    issuer           TEXT NOT NULL,
    serial           TEXT NOT NULL,
    revoked_at       BIGINT NOT NULL,
    reason           BIGINT NOT NULL,        -- CRLReason
    not_after        BIGINT NOT NULL,        -- of the certificate: the entry stays one CRL longer
    principal        TEXT NOT NULL,
    precaution       BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);

CREATE TABLE crl (
    issuer           TEXT NOT NULL,
    number           BIGINT NOT NULL,
    der              BYTES NOT NULL,
    this_update      BIGINT NOT NULL,
    next_update      BIGINT NOT NULL,
    revocations      BIGINT NOT NULL,        -- rows of `revocation` that the publisher saw: another count means a new CRL
    PRIMARY KEY (issuer, number)
);

CREATE TABLE audit (
    id               TEXT PRIMARY KEY,
    at               BIGINT NOT NULL,
    event            TEXT NOT NULL,
    principal        TEXT NOT NULL,
    subject          TEXT NOT NULL,          -- what it is about: "issuance:<id>", "certificate:<issuer>/<serial>", ...
    detail           TEXT NOT NULL           -- JSON
);
CREATE INDEX audit_by_time ON audit (at, id);

-- ---------------------------------------------------------------- credentials of programs, users and devices
-- Secrets are stored hashed: SHA-256 for our own 256-bit values, scrypt for what a person may have chosen.
CREATE TABLE credential (
    id               TEXT PRIMARY KEY,       -- public part: the key id, or "<endpoint>/<user>", or "<endpoint>"
    kind             TEXT NOT NULL,          -- api-key | est-user | scep-challenge
    endpoint         TEXT NOT NULL,          -- '' for api-key
    secret           TEXT NOT NULL,          -- "sha256:<hex>" or "scrypt:<n>:<r>:<p>:<salt>:<hex>"
    roles            TEXT NOT NULL,          -- JSON array
    profile          TEXT NOT NULL,          -- default profile, '' for the endpoint's
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT,
    disabled_at      BIGINT
);

-- ---------------------------------------------------------------- jobs
CREATE TABLE job (
    id               TEXT PRIMARY KEY,
    kind             TEXT NOT NULL,
    dedupe           TEXT UNIQUE,            -- at most one live job of this key
    payload          TEXT NOT NULL,          -- JSON
    run_at           BIGINT NOT NULL,
    lease_until      BIGINT NOT NULL,        -- 0: free; otherwise the claimer's until then
    claim            TEXT NOT NULL,          -- '' or the claimer's token: only its holder may finish the job
    attempts         BIGINT NOT NULL,
    created_at       BIGINT NOT NULL
);
CREATE INDEX job_due ON job (run_at);

-- ---------------------------------------------------------------- ACME
-- Keys that seal nonces, newest epoch first. Ours alone, never shown.
CREATE TABLE nonce_key (
    epoch            BIGINT PRIMARY KEY,
    key              BYTES NOT NULL,
    scratch_id       TEXT NOT NULL,          -- the scratch store that this epoch's used nonces are in
    created_at       BIGINT NOT NULL
);

CREATE TABLE acme_account (
    id               TEXT PRIMARY KEY,
    endpoint         TEXT NOT NULL,
    thumbprint       TEXT NOT NULL,          -- RFC 7638, base64url
    jwk              TEXT NOT NULL,          -- canonical JSON, public members only
    status           TEXT NOT NULL,          -- valid | deactivated | revoked
    contact          TEXT NOT NULL,          -- JSON array
    terms_agreed     BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    UNIQUE (endpoint, thumbprint)
);

-- Status is stored only as far as it is a fact of the order itself: open | processing | valid | invalid.
-- `ready`, and `invalid` by a failed authorization or by time, are derived (acmeserver/states.py).
CREATE TABLE acme_order (
    id               TEXT PRIMARY KEY,
    account_id       TEXT NOT NULL,
    status           TEXT NOT NULL,
    identifiers      TEXT NOT NULL,          -- JSON array, as the client sent them
    profile          TEXT NOT NULL,
    profile_version  TEXT NOT NULL,
    not_before       BIGINT,
    not_after        BIGINT,
    expires_at       BIGINT NOT NULL,
    error            TEXT NOT NULL,          -- problem document JSON or ''
    issuer           TEXT NOT NULL,          -- of the certificate, '' until valid
    serial           TEXT NOT NULL,          -- of the certificate, '' until valid
    created_at       BIGINT NOT NULL
);
CREATE INDEX acme_order_by_account ON acme_order (account_id, created_at, id);
CREATE INDEX acme_order_by_certificate ON acme_order (serial) WHERE serial <> '';

-- One row per authorization, its challenges with it: one compare-and-set decides all of them.
CREATE TABLE acme_authorization (
    id               TEXT PRIMARY KEY,
    account_id       TEXT NOT NULL,
    identifier_type  TEXT NOT NULL,          -- dns | ip
    identifier       TEXT NOT NULL,          -- canonical, without "*."
    wildcard         BIGINT NOT NULL,
    status           TEXT NOT NULL,          -- pending | processing | valid | invalid | deactivated | revoked
    token            TEXT NOT NULL,          -- one for all challenges of the authorization
    challenges       TEXT NOT NULL,          -- JSON array of challenge types offered
    chosen           TEXT NOT NULL,          -- challenge type that was attempted, or ''
    error            TEXT NOT NULL,          -- problem document JSON of the failed challenge or ''
    evidence         TEXT NOT NULL,          -- JSON of the last attempt or ''
    validated_at     BIGINT,
    expires_at       BIGINT NOT NULL,
    lease_until      BIGINT NOT NULL,        -- a `processing` row past this is tried again
    created_at       BIGINT NOT NULL
);
CREATE INDEX acme_authorization_by_name ON acme_authorization (account_id, identifier, status);

CREATE TABLE acme_order_authorization (
    order_id         TEXT NOT NULL,
    authorization_id TEXT NOT NULL,
    position         BIGINT NOT NULL,
    PRIMARY KEY (order_id, authorization_id)
);

-- ---------------------------------------------------------------- keys that no certificate may have again
CREATE TABLE blocked_key (
    spki_sha256      TEXT PRIMARY KEY,
    reason           TEXT NOT NULL,          -- "key-compromise", ...
    blocked_at       BIGINT NOT NULL
);
