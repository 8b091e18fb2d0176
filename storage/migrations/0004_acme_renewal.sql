-- Renewal information (RFC 9773), replaced certificates, and orders that renew themselves (RFC 8739).

-- A decision that a set of certificates is renewed early: certificates of an issuer, issued in a span of time, have another
-- window. `profile` '' is every profile.
CREATE TABLE renewal_pull (
    id               TEXT PRIMARY KEY,
    issuer           TEXT NOT NULL,
    profile          TEXT NOT NULL,
    issued_from      BIGINT NOT NULL,
    issued_before    BIGINT NOT NULL,
    window_start     BIGINT NOT NULL,
    window_end       BIGINT NOT NULL,
    explanation_url  TEXT NOT NULL,
    principal        TEXT NOT NULL,
    created_at       BIGINT NOT NULL,
    withdrawn_at     BIGINT NOT NULL         -- 0: in force
);
CREATE INDEX renewal_pull_by_issuer ON renewal_pull (issuer, issued_before);

-- Which order replaces a certificate. One at a time; an order that failed is followed by compare-and-set on `order_id`.
CREATE TABLE acme_replacement (
    issuer           TEXT NOT NULL,
    serial           TEXT NOT NULL,          -- of the certificate that is replaced
    order_id         TEXT NOT NULL,
    created_at       BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);
ALTER TABLE acme_order ADD COLUMN replaces TEXT NOT NULL DEFAULT '';      -- as the client wrote it

ALTER TABLE acme_order ADD COLUMN auto_renewal TEXT NOT NULL DEFAULT '';  -- JSON of the terms, '' for an order that ends with one certificate
CREATE TABLE acme_star (
    order_id         TEXT PRIMARY KEY,
    account_id       TEXT NOT NULL,
    endpoint         TEXT NOT NULL,
    state            TEXT NOT NULL,          -- waiting | active | canceled
    csr              BYTES NOT NULL,         -- of finalize; every certificate of the order is for its key
    csr_sha256       TEXT NOT NULL,
    number           BIGINT NOT NULL,        -- of the next certificate: 0, 1, ...
    begun            BIGINT NOT NULL,        -- 1 while that one is being made
    first_at         BIGINT NOT NULL,        -- RFC 8739 §3.5: nrd[0]
    next_at          BIGINT NOT NULL,        -- when the next one is due; 0: there will be none
    ends_at          BIGINT NOT NULL,        -- end-date
    get_allowed      BIGINT NOT NULL,        -- 1: anybody may fetch the certificate
    issuer           TEXT NOT NULL,          -- of the newest certificate, '' until there is one
    serial           TEXT NOT NULL,
    failures         BIGINT NOT NULL,        -- in a row
    created_at       BIGINT NOT NULL
);
CREATE INDEX acme_star_due ON acme_star (next_at) WHERE next_at > 0;
CREATE TABLE acme_star_certificate (
    issuer           TEXT NOT NULL,
    serial           TEXT NOT NULL,
    order_id         TEXT NOT NULL,
    number           BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);
