-- What authorizations and issuances know since ACME is complete. Expand only.

ALTER TABLE issuance ADD COLUMN caa TEXT NOT NULL DEFAULT '';                    -- JSON array, one per DNS name; '' where not asked

ALTER TABLE acme_authorization ADD COLUMN subdomains BIGINT NOT NULL DEFAULT 0;   -- 1: counts for the names below, too (RFC 9444)
ALTER TABLE acme_authorization ADD COLUMN perspectives BIGINT NOT NULL DEFAULT 0; -- remote perspectives that agreed
ALTER TABLE acme_authorization ADD COLUMN owner TEXT NOT NULL DEFAULT '';         -- external account key that owns the name, or ''

-- By name first: a busy account has thousands of authorizations, a name a handful, and PostgreSQL, which has no figures about a
-- young table, would else read all of the account's to find those of ten names.
DROP INDEX acme_authorization_by_name;
CREATE INDEX acme_authorization_by_name_first ON acme_authorization (identifier, account_id, status);
