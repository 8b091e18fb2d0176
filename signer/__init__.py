"""Produce the signature. Keys live in the signer process and nowhere else."""
