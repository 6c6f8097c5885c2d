"""Send a request with requests, and open its response.

A session of requests sends each request, so that adapters, hooks and instrumentation of requests work. The response is always opened as a
stream, so that deadlines, the translation of errors and closing are implemented once.
"""

from __future__ import annotations

import copy
import http.client
import logging
import os
import re
import sys
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import urljoin, urlsplit
from weakref import finalize

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import default_user_agent, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import Timeout, parse_url

from recall_sdk._arguments import Settings
from recall_sdk._connections import KEPT_LOCATION, REDIRECTS, STANDARD_SESSION, keep_redirect, new_session, remaining
from recall_sdk._requests import Request
from recall_sdk._response import Response
from recall_sdk._translation import SENDING_ERRORS, Exchange, status_given_up_on, translate_sending, unusable_proxy
from recall_sdk._version import __version__
from recall_sdk.errors import InvalidRequestError, RecallError, RedirectError, build_error, masked_text, without_key

Session = STANDARD_SESSION

_log = logging.getLogger("recall_sdk")
_log.addHandler(logging.NullHandler())  # print nothing until the application configures logging

USER_AGENT = "recall-sdk/{} requests/{} Python/{}.{}.{}".format(__version__, requests.__version__, *sys.version_info)

MAX_REDIRECTS = 10

REQUEST_ID = "X-Request-Id"
"""The header with the id of a response in the server's logs."""

_KEEPING_METHOD = (307, 308)

_NAMES = {"GET": "get", "POST": "post"}
"""The session's methods. A name that is made anew for each call would fill Python's cache of attributes."""

_STANDARD_METHODS = {name: getattr(Session, name) for name in ("request", *_NAMES.values())}

_NO_HOOKS: Any = {"response": []}

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


class Target(NamedTuple):
    """Where a client's requests go.

    Attributes:
        settings: The key and the base URL.
        base_url: The base URL as requests prepares it.
        origin: Its scheme, host and port.
        name: Its scheme and host, for messages.
        session_settings: Proxies and certificates, resolved once; empty with the user's own session or an unusable proxy.
    """

    settings: Settings
    base_url: str
    origin: Tuple[str, str, int]
    name: str
    session_settings: Dict[str, Any]


class Transport:
    """Sends requests over one session.

    Args:
        session: The user's own session, or ``None`` for one of the transport's.

    Raises:
        TypeError: It is not a session of requests.
    """

    def __init__(self, session: Optional[Session]) -> None:
        classes: Any = (Session, requests.Session, type(None))  # a tool may have put another class, or a mock, in the place of the latter
        if not isinstance(session, tuple(kind for kind in classes if isinstance(kind, type))):
            raise TypeError(f"session must be a requests.Session, not {type(session).__name__}")
        self.owns_session = session is None
        self._session: Any = new_session() if session is None else session
        self._pid = os.getpid()
        self._left_to_parent: List[Any] = []
        if self.owns_session:
            finalize(self, _close, self._session, self._pid).atexit = False

    def target(self, settings: Settings) -> Target:
        """Prepare everything that depends only on the settings.

        Raises:
            ValueError: requests can't prepare the base URL.
        """
        base_url = _prepared_url(settings.base_url).rstrip("/")
        name = "{0.scheme}://{0.netloc}".format(urlsplit(settings.base_url))
        session_settings = self._session_settings(base_url) if self.owns_session else {}
        return Target(settings, base_url, _origin(base_url), name, session_settings)

    def open(self, request: Request, target: Target, timeout: Optional[float]) -> Response:
        """Send a request, follow safe redirects, and return when the head of the response is there.

        Args:
            request: What to send.
            target: Where to.
            timeout: Seconds for the whole exchange, or ``None``.

        Raises:
            RecallError: There is no response, or it is a redirect that is not safe.
        """
        if self._pid != os.getpid():
            self._leave_connections_to_parent()
        deadline = None if timeout is None else monotonic() + timeout
        settings = target.session_settings or self._session_settings(target.base_url)
        url = target.base_url + request.path
        may_repeat = not self.owns_session and self._may_repeat(request, url)
        exchange = Exchange(request, url, target.name, target.settings.api_key, timeout, settings, may_repeat)
        try:
            if not settings:
                raise unusable_proxy(exchange)
            seconds, redirects = timeout, 0
            while True:
                response = Response(exchange, self._send(exchange, seconds), deadline)
                location: Optional[str] = response.headers.get(KEPT_LOCATION) or response.headers.get("Location")
                if response.status not in REDIRECTS or not location:
                    return response
                with response:
                    if redirects == MAX_REDIRECTS:
                        message = f"the server redirects too often, the last time to {exchange.url}: check the base_url"
                        raise _redirect_error(message, response)
                    exchange = exchange._replace(url=_checked_redirect(response, location, target))
                    if response.headers.get("Content-Length") == "0":
                        response.read()  # makes the connection fit for the next request
                seconds, redirects = deadline and remaining(deadline), redirects + 1
        except RecallError as error:
            without_key(error, exchange.api_key)
            raise

    def _send(self, exchange: Exchange, seconds: Optional[float]) -> Any:
        start = monotonic()
        request, session, response = exchange.request, self._session, None
        # With the user's session, the timeout also bounds each silence of a stream, if its socket is not accessible.
        is_own_bound = self.owns_session or not request.stream
        timeout = Timeout(seconds, seconds, seconds) if is_own_bound else Timeout(connect=seconds, read=exchange.timeout)
        arguments = {"timeout": timeout, "allow_redirects": False, "stream": True}
        try:
            method = self._replaced_method(request.method)
            if method is None:
                response = session.send(self._prepared(exchange), **arguments, **exchange.settings)
            else:
                response = method(**self._as_arguments(exchange), **arguments)
        except SENDING_ERRORS as error:
            response = _response_in(error, exchange.url)
            if response is None:
                translated = translate_sending(error, exchange)
                if translated is error:
                    raise
                raise translated from error
        finally:
            if _log.isEnabledFor(logging.DEBUG):
                line = f"{request.method} {request.path} {_outcome(response)} {(monotonic() - start) * 1000:.0f} ms"
                _log.debug("%s", masked_text(line, exchange.api_key))
        return response

    def _replaced_method(self, method: str) -> Any:
        """Return the session's method for this request, if it is the user's session or somebody has changed how it sends."""
        session: Any = self._session
        kind: Any = session.__class__
        name = _NAMES[method]
        if getattr(kind, name) is not _STANDARD_METHODS[name] or name in vars(session):
            return getattr(session, name)
        if not self.owns_session or kind.request is not _STANDARD_METHODS["request"] or "request" in vars(session):
            return partial(session.request, method=method)
        return None

    def _may_repeat(self, request: Request, url: str) -> bool:
        """Return whether the user's adapter may send the request again after it reached the server."""
        with suppress(requests.exceptions.InvalidSchema):  # sending raises it again
            retries: Any = getattr(self._session.get_adapter(url), "max_retries", None)
            methods = getattr(retries, "allowed_methods", ())
            return methods != () and retries.total != 0 and (not methods or request.method in methods)
        return False

    def _prepared(self, exchange: Exchange) -> Any:
        request = exchange.request
        prepared: Any = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = request.method, exchange.url, request.body
        headers = {"X-API-Key": exchange.api_key, "User-Agent": USER_AGENT, **request.headers}
        if request.body is not None:
            headers["Content-Length"] = str(len(request.body))
        prepared.headers = CaseInsensitiveDict(headers)
        return prepared

    def _as_arguments(self, exchange: Exchange) -> Dict[str, Any]:
        """Return the arguments for a method of the session, which a subclass may override."""
        session, request = self._session, exchange.request
        agent = session.headers.get("User-Agent")
        agents = [USER_AGENT] if agent in (None, default_user_agent()) else [agent, USER_AGENT]
        headers = {**request.headers, "X-API-Key": exchange.api_key, "User-Agent": " ".join(agents)}
        _check_headers(session.headers)
        hooks: Any = (session.hooks or _NO_HOOKS).get("response") or []
        return {
            "url": exchange.url,
            "data": request.body,
            "headers": headers,
            "auth": session.auth or _unchanged,  # otherwise requests would read ~/.netrc
            "hooks": {"response": [*([hooks] if callable(hooks) else hooks), keep_redirect]},
        }

    def _session_settings(self, url: str) -> Dict[str, Any]:
        """Return proxies and certificates, or nothing if the proxy is not usable."""
        settings: Dict[str, Any] = self._session.merge_environment_settings(url, proxies={}, stream=True, verify=None, cert=None)
        del settings["stream"]
        return settings if _is_usable(select_proxy(url, settings["proxies"])) else {}

    def _leave_connections_to_parent(self) -> None:
        """In a child of a fork, start with new connections, without touching those of the parent or their locks."""
        adapters: List[Any] = list(self._session.adapters.values())
        for adapter in adapters:
            # Keep a reference, so that the parent's connections are not closed here.
            self._left_to_parent += [getattr(adapter, name, None) for name in ("poolmanager", "proxy_manager")]
            with suppress(AttributeError):  # not an adapter of requests
                adapter.__setstate__(adapter.__getstate__())  # as after pickling: the same configuration, without connections
        session: Any = self._session
        session.cookies = copy.copy(session.cookies)  # with a new lock
        # On a free-threaded Python a dict has a lock too, which its methods take, but a subscript does not.
        session.hooks = {event: session.hooks[event] for event in session.hooks or ()}
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the idle connections, except those of the user's own session."""
        if self.owns_session:
            _close(self._session, self._pid)


def _close(session: Session, pid: int) -> None:
    if pid == os.getpid():
        session.close()


def _unchanged(request: Any) -> Any:
    return request


def _prepared_url(url: str) -> str:
    prepared: Any = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    return str(prepared.url)


def _outcome(response: Any) -> str:
    if response is None:
        return "failed"
    request_id = response.headers.get(REQUEST_ID)
    return f"{response.status_code} [{request_id}]" if request_id else str(response.status_code)


def _response_in(error: Any, url: str) -> Any:
    """Return the response from which the user's session made an error of its own, or ``None``."""
    status = status_given_up_on(error)
    if status is not None:
        given_up = requests.Response()  # its body is lost
        given_up.status_code = status
        return given_up
    response: Any = getattr(error, "response", None)  # from raise_for_status() in a hook
    sent_to: str = getattr(getattr(response, "request", None), "url", "")
    return response if sent_to.startswith(url) and response.status_code >= http.client.BAD_REQUEST else None


def _check_headers(headers: Any) -> None:
    """Reject a header of the user's session that http.client can't send."""
    for name, value in headers.items():
        if isinstance(value, str) and not re.fullmatch(r"[^\r\n\u0100-\U0010ffff]*", value):  # requests rejects what is no text
            message = f"the header {name} can't be sent, because it holds a line break or no Latin-1: check the headers of your session"
            raise build_error(InvalidRequestError, message, may_have_executed=False)


def _is_usable(proxy: Optional[str]) -> bool:
    if not proxy:
        return True
    try:
        parts = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except LocationParseError:
        return False
    # An "@" in the rest means that the user name or the password holds a character that ends the host.
    return bool(parts.host) and parts.scheme in _PROXY_SCHEMES and "@" not in f"{parts.path}{parts.query}{parts.fragment}"


# ------------------------------------------------------------------------------------------------------------ redirects


def _origin(url: str) -> Tuple[str, str, int]:
    """Return scheme, host and port; reject a URL that urllib3, which connects, and Python parse differently."""
    parts = urlsplit(url)
    seen: Any = parse_url(url)
    if (seen.scheme, seen.auth, (seen.host or "").strip("[]"), seen.port) != (parts.scheme, None, parts.hostname, parts.port):
        raise ValueError(f"ambiguous URL: {url!r}")
    return parts.scheme, str(parts.hostname), parts.port or {"https": 443}.get(parts.scheme, 80)


def _checked_redirect(response: Response, location: str, target: Target) -> str:
    """Return the URL of a redirect; reject it if the key would leave its origin, or the request would be changed."""
    path = response.request.path
    try:
        with suppress(UnicodeError):  # http.client reads headers as Latin-1, but URLs are sent as UTF-8
            location = location.encode("latin-1").decode()
        url = _prepared_url(urljoin(response.exchange.url, location))
        origin = _origin(url)
    except (ValueError, LocationParseError):
        message = f"the server redirects to {location!r}, which is not a valid URL: check the base_url"
        raise _redirect_error(message, response) from None
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    base_url = shown[: -len(path)] if shown.endswith(path) else shown
    if origin != target.origin:
        reason = "the API key is sent only to the origin of the base_url; if you trust the other origin"
    elif response.request.method == "POST" and response.status not in _KEEPING_METHOD:
        reason = "a POST would become a GET and execute nothing; if that is the API"
    else:
        return url
    raise _redirect_error(f"the server redirects to {shown} (HTTP {response.status}): {reason}, set base_url={base_url!r}", response)


def _redirect_error(message: str, response: Response) -> RedirectError:
    # A 303 is the response to a POST that was carried out (RFC 9110, section 15.4.4).
    may_have_executed = response.request.executes and (response.exchange.may_repeat or response.status == http.client.SEE_OTHER)
    return build_error(RedirectError, message, may_have_executed=may_have_executed, status=response.status)
