"""The page at `/`: one document without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

HTML = (files("albert_act_fast.serve") / "page.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    content = HTML.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# Only this style and this script, and only to this service.
HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; img-src data:; "
    f"style-src 'sha256-{_hash_of('style')}'; script-src 'sha256-{_hash_of('script')}'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
