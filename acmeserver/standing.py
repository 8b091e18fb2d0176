"""What an account may do at this moment: is it valid, by this key, under the terms in force, and bound to whom?

Law of this file: whoever makes something new for an account (an order, an authorization, a certificate) asks here first. Where an
endpoint knows no external accounts, that costs no read: the write that makes the thing has `guard` in its WHERE, and only
when it conflicts `explain` reads why.

    acting = await admitted(database, endpoint, acting)     # newOrder, newAuthz; finalize: check_standing(row, ...)
    check_wanted(acting, profile=..., identifiers=...)
    principal(acting, endpoint)                              # for policy and the pipeline
    write(Step(INSERT..., (..., *guard(acting, endpoint))))  # except Conflict: raise await explain(...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from acmeserver import store
from acmeserver.authentication import Acting, check_account
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.external import binding_from
from acmeserver.problems import Problem, ProblemType, unauthorized
from pki.identifiers import Identifier
from pki.reasons import Reason, Rejection, SubProblem
from policy.principal import Principal, PrincipalKind
from storage.database import Database, Row


def check_standing(row: Row | None, acting: Acting, endpoint: AcmeEndpoint) -> Acting:
    """`row` has the STANDING_COLUMNS of a look-up that started at the account. Gives who acts, with the binding.

    Raises Problem: unauthorized, userActionRequired, externalAccountRequired.
    """
    row = check_account(row, acting)
    if endpoint.terms_of_service is not None and row["account_terms"] != endpoint.terms_of_service:
        raise terms_not_agreed(endpoint.terms_of_service)
    binding = binding_from(row)
    if binding is None and endpoint.external_account == "required":
        raise external_account_required()
    if binding is not None and endpoint.external_account == "none":
        raise unauthorized("this account is bound to an external account, and this endpoint knows none any more")
    return replace(acting, binding=binding)


async def admitted(database: Database, endpoint: AcmeEndpoint, acting: Acting) -> Acting:
    """Before something new is made. Without external accounts nothing is read, and `guard` holds what is assumed here.

    Raises Problem as `check_standing`.
    """
    if endpoint.external_account == "none":
        return acting
    return check_standing(await _read(database, endpoint, acting), acting, endpoint)


def guard(acting: Acting, endpoint: AcmeEndpoint) -> tuple[str, str]:
    """(external kid, terms) for the WHERE of the write: a.external_kid = $n AND (CAST($m AS TEXT) = '' OR a.terms = $m)."""
    return acting.binding.kid if acting.binding is not None else "", endpoint.terms_of_service or ""


async def confirm(database: Database, endpoint: AcmeEndpoint, acting: Acting) -> None:
    """Before something is shown to a caller whom no write and no look-up of his own has checked. Raises as `check_standing`."""
    check_standing(await _read(database, endpoint, acting), acting, endpoint)


async def explain(database: Database, endpoint: AcmeEndpoint, acting: Acting) -> Problem:
    """Why the guarded write conflicted. Raises the same, if it is what `check_standing` says."""
    await confirm(database, endpoint, acting)
    return unauthorized("the account was changed at this moment; try again")


async def _read(database: Database, endpoint: AcmeEndpoint, acting: Acting) -> Row | None:
    return await database.fetch_one(store.STANDING_SQL, acting.account_id, endpoint.name)


def check_wanted(acting: Acting, *, profile: str, identifiers: Sequence[Identifier]) -> None:
    """Whether the binding leaves room for it. Policy has its own say. Raises Rejection."""
    binding = acting.binding
    if binding is None:
        return
    if binding.profiles and profile not in binding.profiles:
        raise Rejection(
            Reason.FORBIDDEN,
            f"the external account of this account does not have profile {profile}",
            suggestions=[f"profiles it may use: {', '.join(binding.profiles)}"],
        )
    refused = [str(identifier) for identifier in identifiers if not binding.permits(identifier)]
    if refused:
        raise Rejection(
            Reason.REJECTED_IDENTIFIER,
            f"the external account of this account does not have {', '.join(refused[:5])}",
            sub=[SubProblem(name, Reason.REJECTED_IDENTIFIER, "not a name of the external account") for name in refused],
            suggestions=[f"names it has: {', '.join(binding.names)}"],
        )


def principal(acting: Acting, endpoint: AcmeEndpoint) -> Principal:
    """Who asks, as policy sees it."""
    binding = acting.binding
    return Principal(
        PrincipalKind.ACME_ACCOUNT,
        acting.account_id,
        endpoint.roles if binding is None or not binding.roles else binding.roles,
        attributes=(("external_account", binding.kid),) if binding is not None else (),
        source_address=acting.source_address,
    )


def terms_not_agreed(terms: str) -> Problem:
    """RFC 8555 §7.3.3."""
    return Problem(
        ProblemType.USER_ACTION_REQUIRED,
        f"agree to the terms of service first: {terms} (POST termsOfServiceAgreed: true to newAccount or to the account's URL)",
        terms_of_service=terms,
        instance=terms,
    )


def external_account_required() -> Problem:
    """RFC 8555 §7.3.4."""
    return Problem(
        ProblemType.EXTERNAL_ACCOUNT_REQUIRED,
        "accounts here are bound to an external account: ask an operator for a key id and an HMAC key, and register with them",
    )
