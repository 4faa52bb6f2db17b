"""URLs of stores: where their secrets end, and how they are shown."""

from __future__ import annotations

import re
from pathlib import Path

SECRETS = ("password", "sslpassword", "api_key", "token")
"""Parameters of a query that are nobody's business."""
_SHOWN = ("table", "type", "wait", "host", "hostaddr", "port", "dbname", "service", "options", "sslmode")
_OTHERS = (
    *("user", "passfile", "sslrootcert", "sslcert", "sslkey", "channel_binding", "target_session_attrs"),
    *("application_name", "connect_timeout", "client_encoding", "gssencmode", "require_auth", "load_balance_hosts"),
)
_QUERY = re.compile(rf"\?(?=(?:{'|'.join((*_SHOWN, *SECRETS, *_OTHERS))})=)")
_KEYWORD = re.compile(rf"(?:^|(?<=\s))({'|'.join(SECRETS)})\s*=.*", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def split_url(url: str) -> tuple[str, str, str, str]:
    """Scheme, credentials, place (host, port and path) and query of ``SCHEME://CREDENTIALS@PLACE?QUERY``.

    A secret may have any character in it: the query begins at the first ``?`` before a parameter that there is, the
    credentials end at the last ``@`` before that.
    """
    scheme, _, rest = url.partition("://")
    start = _QUERY.search(rest)
    credentials, _, place = (rest[: start.start()] if start else rest).rpartition("@")
    place, _, unknown = place.partition("?")
    return scheme, credentials, place, rest[start.end() :] if start else unknown


def without_password(url: str | Path) -> str:
    """A store's URL as it may be shown and written down: no user, no password, no key, in whatever form they are given.

    Of the query only parameters are kept that are known to hold no secret.

    Example:
        >>> without_password("postgresql://me:secret@db/texts?table=t&password=secret")
        'postgresql://db/texts?table=t'
    """
    text = str(url)
    if "://" not in text and text.startswith("postgres"):
        return text.partition(":")[0] + ":..."  # two slashes were forgotten
    if "://" not in text:
        return _KEYWORD.sub(r"\1=...", text)
    scheme, credentials, place, query = split_url(text)
    name, _, port = place.partition("/")[0].rpartition(":")
    unclear = "@" in query and not credentials  # of a secret, or of the value of a parameter
    if unclear or (name and not port.isdecimal() and not port.endswith("]")):  # USER:PASSWORD without a host
        place, query = "...", ""
    kept = "&".join(piece for piece in query.split("&") if piece.partition("=")[0] in _SHOWN)
    return f"{scheme if _SCHEME.fullmatch(scheme) else '...'}://{place}{'?' if kept else ''}{kept}"
