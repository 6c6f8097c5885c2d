"""Keep proxies of the environment out of the way between a client and a server on the same machine."""

import os
from typing import List
from urllib.parse import urlsplit
from urllib.request import getproxies


def no_proxy(host: str) -> str:
    """Return a value of the variable ``no_proxy`` that adds this host to the current ones."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return f"{others},{host}" if others else host


def exports(api_key: str, base_url: str) -> List[str]:
    """Return the shell lines to run before a client of this server."""
    host = str(urlsplit(base_url).hostname)
    lines = [f"export RECALL_API_KEY={api_key}", f"export RECALL_BASE_URL={base_url}"]
    return [*lines, f"export no_proxy={no_proxy(host)}"] if "http" in getproxies() else lines
