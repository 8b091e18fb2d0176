-- Whether an authorization is still some order's has to be found out before it is removed.
CREATE INDEX acme_order_authorization_by_authorization ON acme_order_authorization (authorization_id);
