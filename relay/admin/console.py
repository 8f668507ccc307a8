"""The console: one static page that fetches the status with the operator's token.

Owns how the page is served, never what it shows; the page itself is console.html beside this file.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from aiohttp import web

_PAGE = files("relay.admin").joinpath("console.html").read_bytes()


def _inline(element: bytes) -> str:
    """The CSP source expression that allows exactly the one inline *element* of the page."""
    found = re.search(rb"<%b>(.*?)</%b>" % (element, element), _PAGE, re.DOTALL)
    digest = sha256(found.group(1) if found else b"").digest()
    return f"'sha256-{b64encode(digest).decode()}'"


_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; connect-src 'self'; script-src {_inline(b'script')}; "
        f"style-src {_inline(b'style')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


async def page(_: web.Request) -> web.Response:
    """Serve the page."""
    return web.Response(body=_PAGE, headers=_HEADERS)
