"""What did a SCEP client say? RFC 8894."""
