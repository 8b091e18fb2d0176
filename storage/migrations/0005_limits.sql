-- Token buckets of callers (policy/limits.py): one number each, when the bucket would be full again. A row past its time means
-- the same as no row.
CREATE TABLE rate_bucket (
    owner            TEXT NOT NULL,          -- which limit, of whom: "orders", "names/<endpoint>", "failed/<account>", ...
    name             TEXT NOT NULL,          -- the account, address or name that the bucket is of
    tat              BIGINT NOT NULL,        -- theoretical arrival time
    PRIMARY KEY (owner, name)
);

-- An account's authorizations that nobody has proved yet are counted with every order.
CREATE INDEX acme_authorization_pending ON acme_authorization (account_id, expires_at) WHERE status = 'pending';
