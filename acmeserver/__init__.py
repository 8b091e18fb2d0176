"""What did an ACME client say? RFC 8555."""
