"""Proxies of the environment, which must not stand between a client and a server on its own machine."""

import os
from typing import List
from urllib.parse import urlsplit
from urllib.request import getproxies


def no_proxy(host: str) -> str:
    """Give the value of the variable ``no_proxy`` with which this host is spoken to directly, and all are that were before."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return f"{others},{host}" if others else host


def exports(api_key: str, base_url: str) -> List[str]:
    """Return the lines for a shell in which a client of this server is to run."""
    host = str(urlsplit(base_url).hostname)
    lines = [f"export RECALL_API_KEY={api_key}", f"export RECALL_BASE_URL={base_url}"]
    return [*lines, f"export no_proxy={no_proxy(host)}"] if "http" in getproxies() else lines
