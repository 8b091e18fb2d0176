"""Cryptographic Message Syntax (RFC 5652), as much of it as EST and SCEP need."""
