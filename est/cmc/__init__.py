"""What did a CMC client say? RFC 5272 as updated by RFC 6402, through EST's /fullcmc."""
