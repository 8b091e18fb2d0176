"""What did an EST client say? RFC 7030 as clarified by RFC 8951."""
