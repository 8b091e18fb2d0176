-- Requests that wait for somebody's approval (issuance/approvals.py). Expand only.

CREATE TABLE approval_request (
    id               TEXT PRIMARY KEY,
    digest           TEXT NOT NULL,          -- of all that an approval is given to
    live             BIGINT NOT NULL,        -- 1: this row answers whoever sends the same request
    state            TEXT NOT NULL,          -- pending | approved | denied | issued | expired
    principal        TEXT NOT NULL,          -- who asked, "kind:id"
    roles            TEXT NOT NULL,          -- JSON array, as of then
    source_address   TEXT NOT NULL,
    channel          TEXT NOT NULL,
    endpoint         TEXT NOT NULL,
    profile          TEXT NOT NULL,
    profile_version  TEXT NOT NULL,
    policy           TEXT NOT NULL,          -- the rule that granted it, subject to approval
    names            TEXT NOT NULL,          -- JSON array of "dns:example.com", "ip:192.0.2.1", "cn:router7"
    not_before       BIGINT,                 -- wanted
    not_after        BIGINT,                 -- wanted
    spki_sha256      TEXT NOT NULL,          -- of the requester's key
    server_key       BIGINT NOT NULL,        -- 1: the certificate's key is made by the server
    spki             BYTES NOT NULL,         -- that key; the rest of the request is not kept, for there may be secrets in it
    requested_at     BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,        -- pending: decided before that; approved: used before that
    answers_until    BIGINT NOT NULL,        -- denied and issued: the same request gets the same answer until then; else 0
    decided_at       BIGINT,
    decided_by       TEXT NOT NULL,          -- '' until decided
    comment          TEXT NOT NULL,
    issuance_id      TEXT UNIQUE             -- the one issuance that used the approval
);
CREATE UNIQUE INDEX approval_request_live ON approval_request (digest) WHERE live = 1;
CREATE INDEX approval_request_by_time ON approval_request (requested_at, id);
CREATE INDEX approval_request_pending ON approval_request (principal) WHERE state = 'pending';
