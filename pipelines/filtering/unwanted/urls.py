"""When two URLs are the same: their normal form by RFC 3986, sections 6.2.2 and 6.2.3 (docs/adr/0022).

Nothing is an error here: what is no URL, as sources have it too, is its own normal form.
"""

import ipaddress
import re
import string
from urllib.parse import quote_from_bytes

import idna

_PORTS = {"http": "80", "https": "443", "ftp": "21"}
# Schemes whose fragment is a place in what was fetched, and whose login is not part of what is fetched.
_FETCHED = frozenset(_PORTS)
# Most URLs are in normal form; a match of this says so at once.
_NORMAL = re.compile(
    r"(?!.*/\.)(?:https?|ftp)://[a-z0-9](?:[a-z0-9-]|\.(?!\.))*/[A-Za-z0-9\-._~:/?@!$&'()*+,;=\[\]]*", re.ASCII
)
# Section 3 of the RFC, appendix B.
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(?:(.*)@)?(\[[^\]]*\]|[^:]*)(?::([0-9]*))?", re.DOTALL)
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset((string.ascii_letters + string.digits + "-._~").encode())
_KEPT = "%:/?#[]@!$&'()*+,;="


def normal(url: str) -> str:
    """Returns the normal form of a URL, which is the same for all ways to write it; any other text as it is.

    Scheme and host are in lower case, the host in ASCII (UTS 46). Percent-encoding is dropped where it is not needed,
    in upper case elsewhere, and added where it is missing. Dot segments and, for http, https and ftp, the default port,
    an empty path, the login and the fragment are gone.
    """
    if _NORMAL.fullmatch(url):
        return url
    parts = _PARTS.fullmatch(url.strip())
    if not parts:
        return url
    scheme, authority, path, query, fragment = parts.groups()
    scheme, path, query = scheme.lower(), _escaped(path), _escaped(query or "")
    if authority is None:
        path = _without_dots(path) if path.startswith("/") else path
        return f"{scheme}:{path}{query}{_escaped(fragment or '')}"
    path = _without_dots(path)
    if scheme in _FETCHED:
        path, fragment = path or "/", ""
    return f"{scheme}://{_authority(authority, scheme)}{path}{query}{_escaped(fragment or '')}"


def _escaped(text: str) -> str:
    """Returns a part of a URL with the percent-encoding that it needs, in upper case, and no other."""
    data = text.encode("utf-8", "surrogatepass")
    # A percent sign that begins no escape stands for itself.
    data = re.sub(rb"%(?![0-9A-Fa-f]{2})", b"%25", data)
    return _ESCAPED.sub(_unescaped, quote_from_bytes(data, _KEPT).encode()).decode()


def _unescaped(match: "re.Match[bytes]") -> bytes:
    byte = int(match[1], 16)
    return bytes([byte]) if byte in _UNRESERVED else match[0].upper()


def _without_dots(path: str) -> str:
    """Returns an absolute path without `.` and `..` segments (section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")
    for place, segment in enumerate(segments):
        if segment == ".." and len(kept) > 1:
            kept.pop()
        if segment not in (".", ".."):
            kept.append(segment)
        elif place == len(segments) - 1:
            kept.append("")
    return "/".join(kept)


def _authority(text: str, scheme: str) -> str:
    match = _AUTHORITY.fullmatch(text)
    if not match:
        return _escaped(text)
    login, host, port = match.groups()
    login = "" if login is None or scheme in _FETCHED else f"{_escaped(login)}@"
    port = (port or "").lstrip("0")
    return login + _host(host) + (f":{port}" if port and port != _PORTS.get(scheme) else "")


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
        except ValueError:
            return text.lower()
    try:
        name = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode()).decode()
        if not set(name) & set(_KEPT):
            is_plain = name.isascii()
            name = name.lower() if is_plain else idna.uts46_remap(name, std3_rules=False, transitional=False)
            return _escaped(".".join(_ascii_label(label) for label in name.split(".")))
    except (idna.IDNAError, UnicodeError):
        pass
    return _escaped(text.lower())


def _ascii_label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
