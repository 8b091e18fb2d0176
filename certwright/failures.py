"""From what a command raises to an exit code and a line on stderr. What is not in here is a bug, and says so."""

from __future__ import annotations

import sys
from collections.abc import Callable

from certwright.errors import BindError, InitError, Refused
from certwright.yaml_positions import ConfigError
from pki.reasons import Rejection, Unavailable
from signer.configuration import ConfigurationError
from storage.schema import SchemaError
from storage.url import DatabaseUrlError

DONE, REFUSED, BAD_CONFIG, AWAY = 0, 1, 3, 4


def run(command: Callable[[], int]) -> int:
    try:
        return command()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")  # file:line:column first, as editors read it
        return BAD_CONFIG
    except Rejection as rejection:
        said = [rejection.detail, *rejection.suggestions]
        return _say("\n".join(said), REFUSED)
    except (InitError, Refused) as error:
        return _say(str(error), REFUSED)
    except (SchemaError, DatabaseUrlError, ConfigurationError) as error:
        return _say(str(error), BAD_CONFIG)
    except Unavailable as outage:
        return _say(f"not available now: {outage.what}", AWAY)
    except BindError as error:
        return _say(str(error), AWAY)
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", AWAY)
    except KeyboardInterrupt:
        return 130


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"certwright: {text}\n")
    return code
