"""Expected ways to fail that belong to this floor. Their texts are for the operator: what happened, and what to do."""

from __future__ import annotations


class InitError(Exception):
    """Nothing was made."""


class BindError(Exception):
    """An address that we cannot listen on."""


class Refused(Exception):
    """A command cannot do what it was asked."""
