-- ACME accounts: external account binding (RFC 8555 §7.3.4), and which terms of service an account agreed to (§7.3.3).

-- Keys that bind a new account to somebody whom an operator knows. The MAC key has to be read back to check a MAC, so it is
-- sealed with a key that is not in the database (docs/adr/0005-sealed-secrets.md).
CREATE TABLE acme_external_key (
    kid              TEXT PRIMARY KEY,
    endpoint         TEXT NOT NULL,
    secret           BYTES NOT NULL,         -- sealed; bound to kid and endpoint
    roles            TEXT NOT NULL,          -- JSON array; empty: the endpoint's own
    names            TEXT NOT NULL,          -- JSON array of name patterns; empty: no name is owned, none is refused
    profiles         TEXT NOT NULL,          -- JSON array; empty: all of the endpoint's
    reusable         BIGINT NOT NULL,        -- 0: for one account
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT,                 -- no new account after that
    used_at          BIGINT,                 -- when the last account was bound
    revoked_at       BIGINT                  -- from then on its accounts get nothing, either
);

-- '' : bound to nobody.
ALTER TABLE acme_account ADD COLUMN external_kid TEXT NOT NULL DEFAULT '';
-- The binding as the client sent it (JSON), for the account object must show it.
ALTER TABLE acme_account ADD COLUMN external_binding TEXT NOT NULL DEFAULT '';
-- The URL of the terms that were agreed to last, '' for none that we know of.
ALTER TABLE acme_account ADD COLUMN terms TEXT NOT NULL DEFAULT '';
