"""Sending a call and receiving its answer, over requests.

A call goes out through :meth:`requests.Session.send`, so that adapters, hooks and the tools that instrument requests keep working, and
its answer is always opened as a stream, so that deadlines, the translation of errors and closing exist once.
"""

import http.client
import logging
import os
import sys
import threading
from time import monotonic, time
from typing import Any, Dict, Iterator, List, Optional, Tuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import requote_uri
from urllib3.exceptions import LocationParseError
from urllib3.response import DeflateDecoder, GzipDecoder
from urllib3.util import parse_url

from recall_sdk._connections import Deadline, in_use, own_session, part_after_fork, timed_reader
from recall_sdk._decoding import unreadable
from recall_sdk._failures import TRANSPORT_ERRORS, CallContext, status_given_up_on, translate
from recall_sdk._messages import REQUEST_ID, Answer, Call
from recall_sdk._settings import Settings
from recall_sdk._version import __version__
from recall_sdk.errors import RecallError, RedirectError, one_line
from recall_sdk.retry import clock_offset, parse_retry_after

Session = requests.Session

_log = logging.getLogger("recall_sdk")
_log.addHandler(logging.NullHandler())  # silent, until the application says otherwise

USER_AGENT = "recall-sdk/{} requests/{} Python/{}.{}.{}".format(__version__, requests.__version__, *sys.version_info)

MAX_REDIRECTS = 10

READ_SIZE = 64 * 1024
"""Bytes asked for at a time. What is there is taken at once."""

_UNREADABLE = {"br", "zstd", "compress", "x-compress"}
"""The other encodings (RFC 9110, section 8.4.1). Under a name that is none, a body is read as it stands."""

_NO_BODY = (*range(100, 200), 204, 304)
"""Answers that have none, so that what a server sends with one all the same, or after it, would be the next call's answer."""

_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECTS_AS_IT_IS = (307, 308)


# ---------------------------------------------------------------------------------------------------------- one answer


class OpenResponse:
    """An answer whose head is here, and whose body is still to come. Whoever gets one closes it."""

    def __init__(self, call: Call, response: Any, circumstances: CallContext, until: Optional[float]) -> None:
        headers = response.headers
        now = time()
        offset = clock_offset(headers.get("Date"), now)
        header = headers.get("Retry-After")
        retry_after = None if header is None else parse_retry_after(header, now + offset)
        self.head: Answer = Answer(call, response.status_code, headers, b"", now, retry_after, offset)
        self._response = response
        self._circumstances = circumstances
        self._thread = threading.get_ident()
        self._reader = timed_reader(getattr(response.raw, "_original_response", None))
        self._process = os.getpid()
        if self._reader is not None:
            self._reader.until = until
        in_use(self._thread, self._reader)

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events."""
        status, kind = self.head.status, self.head.headers.get("Content-Type", "")
        return 200 <= status < 300 and status not in _NO_BODY and kind.partition(";")[0].strip().lower() == "text/event-stream"

    def read(self) -> Answer:
        """Read the whole body within the time that is left, and close."""
        try:
            body = b"".join(self._decoded())
        except TRANSPORT_ERRORS as error:
            raise translate(error, self._circumstances) from error
        finally:
            self.close()
        return self.head._replace(body=body)

    def iter_bytes(self) -> Iterator[bytes]:
        """Give the body's bytes as they arrive. Where a stream was asked for, each silence may take the call's timeout."""
        if _UNREADABLE.intersection(self._encodings):
            raise unreadable(self.head, f"is encoded in a way that can't be read ({', '.join(self._encodings)})")
        try:
            if self._reader is not None and self.head.call.stream:
                self._reader.set_read_timeout(self._circumstances.timeout)
            yield from self._decoded()
        except TRANSPORT_ERRORS as error:
            raise translate(error, self._circumstances._replace(streaming=self.head.call.stream)) from error

    def _decoded(self) -> Iterator[bytes]:
        if self._response.raw is None:  # made up by an adapter of the user's
            return iter([self._response.content or b""])
        if self._reader is None:
            # Without a socket, or read by a hook of the user's session, the body is with the response.
            whole: Iterator[bytes] = self._response.iter_content(READ_SIZE)
            return whole
        arriving = _arriving(self._response.raw._original_response)  # requests itself looks there for cookies
        for encoding in reversed(self._encodings):
            if encoding in _DECODERS:
                arriving = map(_DECODERS[encoding]().decompress, arriving)
        return arriving

    @property
    def _encodings(self) -> List[str]:
        return [each.strip().lower() for each in self.head.headers.get("Content-Encoding", "").split(",")]

    def set_deadline(self, seconds: float) -> None:
        """Bound what is still to come, once it is known that nothing of worth comes."""
        if self._reader is not None:
            self._reader.until = monotonic() + seconds

    def abort(self) -> None:
        """Break the connection, from another thread than the one that reads."""
        if self._reader is not None and self._process == os.getpid():
            self._reader.abort()

    def close(self) -> None:
        """Give the connection up: to the pool where the body was read to its end, else for good."""
        if self._process != os.getpid():
            return  # the connection is the parent's, and out of this process's reach already
        in_use(self._thread, None)  # before anybody else can get the connection
        raw = self._response.raw
        original = getattr(raw, "_original_response", None)
        if isinstance(original, http.client.HTTPResponse) and original.isclosed() and self.head.status not in _NO_BODY:
            raw.release_conn()
        if raw is not None:
            self._response.close()


_DECODERS: Dict[str, Any] = {"gzip": GzipDecoder, "x-gzip": GzipDecoder, "deflate": DeflateDecoder}


def _arriving(response: http.client.HTTPResponse) -> Iterator[bytes]:
    # Straight from http.client, whose read1() is prompt under every framing; urllib3 1.26 has none, and what requests offers
    # waits for a whole chunk, or for the end.
    left = None if response.chunked else response.length
    while left is None or left > 0:
        data = response.read1(READ_SIZE if left is None else min(left, READ_SIZE))
        if not data:
            break
        if left is not None:
            left -= len(data)
        yield data
    response.close()
    if left:
        raise http.client.IncompleteRead(b"", left)


# ---------------------------------------------------------------------------------------------------------- sending


class Target:
    """Where a client's requests go: its settings, and what requests makes of them, resolved once.

    Raises:
        ValueError: requests can't prepare the base URL.
    """

    def __init__(self, settings: Settings) -> None:
        prepared: Any = requests.PreparedRequest()
        prepared.prepare_url(settings.base_url, None)
        self.settings = settings
        self.base_url: str = prepared.url.rstrip("/")
        self.origin = _origin(self.base_url)
        self.name = "{0.scheme}://{0.netloc}".format(urlsplit(settings.base_url))
        self.templates: Dict[Tuple[str, bool, bool], Any] = {}
        self.sending: Dict[str, Any] = {}


class Transport:
    """Sends calls over one session.

    Args:
        session: The user's own session, or ``None`` for one of the transport's.

    Raises:
        TypeError: It is no session of requests.
    """

    def __init__(self, session: Optional[Session]) -> None:
        if not isinstance(session, (requests.Session, type(None))):
            raise TypeError(f"session must be a requests.Session, not {type(session).__name__}")
        self.owns_session = session is None
        self._session: Any = session or own_session()
        part_after_fork(self._session)

    def open(self, call: Call, target: Target, timeout: Optional[float]) -> OpenResponse:
        """Send a call, follow the redirects that are safe, and return when the head of the answer is here.

        Args:
            call: What to send.
            target: Where to.
            timeout: Seconds for the whole call, or ``None``.

        Raises:
            RecallError: No answer came, or a redirect that is not followed.
        """
        try:
            return self._open(call, target, timeout)
        except RecallError:
            in_use(threading.get_ident(), None)
            raise

    def _open(self, call: Call, target: Target, timeout: Optional[float]) -> OpenResponse:
        until = None if timeout is None else monotonic() + timeout
        circumstances = CallContext(target.name, call.executes, timeout)
        request = self._prepare(call, target)
        redirects = 0
        while True:
            response = self._send(request, call, target, until, circumstances)
            location = getattr(response, _LOCATION, None)
            if location is None:
                return OpenResponse(call, response, circumstances, until)
            response.close()
            request.url = _redirected(request.url, response.status_code, location, call, target)
            request.headers.pop("Cookie", None)
            request.prepare_cookies(self._session.cookies)  # the redirect may have set some
            redirects += 1
            if redirects > MAX_REDIRECTS:
                message = f"the server redirects without end, at last to {request.url}: check the base_url"
                raise _redirect_error(message, call, response.status_code)

    def _prepare(self, call: Call, target: Target) -> Any:
        if not self.owns_session:
            return self._prepare_anew(call, target)
        kind = (call.method, call.stream, call.asynchronous)
        template = target.templates.get(kind)
        if template is None:
            template = self._prepare_anew(call, target)
            template.headers.pop("Cookie", None)
            target.templates[kind] = template
        request: Any = requests.PreparedRequest()
        request.__dict__.update(template.__dict__)
        request.headers = template.headers.copy()
        request.url = target.base_url + call.path
        if call.body is not None:
            request.body = call.body
            request.headers["Content-Length"] = str(len(call.body))
        if self._session.cookies._cookies:  # to count them is not safe while another thread adds one
            request.prepare_cookies(self._session.cookies)
        return request

    def _prepare_anew(self, call: Call, target: Target) -> Any:
        headers = {"X-API-Key": target.settings.api_key, "User-Agent": USER_AGENT, **call.headers}
        auth = self._session.auth or _leave_as_it_is  # with none at all, requests would consult ~/.netrc
        request = requests.Request(call.method, target.base_url + call.path, headers, data=call.body, auth=auth)
        prepared = self._session.prepare_request(request)
        prepared.hooks["response"] = [*prepared.hooks["response"], _take_location]
        return prepared

    def _send(self, request: Any, call: Call, target: Target, until: Optional[float], circumstances: CallContext) -> Any:
        start = monotonic()
        outcome: Any = "failed"
        try:
            response = self._session.send(request, timeout=Deadline(until), allow_redirects=False, **self._sending(request, target))
            outcome = _outcome(response)
            return response
        except TRANSPORT_ERRORS as error:
            status = status_given_up_on(error)
            if status is not None:
                outcome = str(status)
                given_up = requests.Response()  # its body is gone; what the status means is said by our errors
                given_up.status_code = status
                return given_up
            refused: Any = getattr(error, "response", None)
            if getattr(refused, "request", None) is not request or refused.status_code < http.client.BAD_REQUEST:
                raise translate(error, circumstances) from error
            outcome = _outcome(refused)
            return refused  # a hook of the user's session called raise_for_status(): what that means is said by our errors
        finally:
            _log.debug("%s %s %s %.0f ms", call.method, call.path, outcome, (monotonic() - start) * 1000)

    def _sending(self, request: Any, target: Target) -> Dict[str, Any]:
        sending = target.sending
        if not sending:
            sending = self._session.merge_environment_settings(request.url, proxies={}, stream=True, verify=None, cert=None)
            if self.owns_session:
                target.sending = sending
        return sending

    def forget_cookies(self) -> None:
        """Drop the cookies that servers have set, unless the session is the user's own."""
        if self.owns_session:
            self._session.cookies.clear()

    def close(self) -> None:
        """Close the idle connections, unless the session is the user's own."""
        if self.owns_session:
            self._session.close()


def _outcome(response: Any) -> str:
    request_id = response.headers.get(REQUEST_ID)
    return f"{response.status_code} [{request_id}]" if request_id else str(response.status_code)


_LOCATION = "recall_sdk_location"


def _take_location(response: Any, **_: Any) -> None:
    """Take a redirect out of requests' sight, which reads its body without a deadline even where it is told not to follow."""
    if response.status_code in _REDIRECTS:
        setattr(response, _LOCATION, response.headers.pop("Location", None))


def _leave_as_it_is(request: Any) -> Any:
    return request


# ------------------------------------------------------------------------------------------------------------ redirects


def _origin(url: str) -> Tuple[str, str, int]:
    """Give scheme, host and port; refuse a URL of which the parser of urllib3, which connects, and that of Python have another view."""
    parts = urlsplit(url)
    seen: Any = parse_url(url)
    if (seen.scheme, seen.auth, (seen.host or "").strip("[]"), seen.port) != (parts.scheme, None, parts.hostname, parts.port):
        raise ValueError(f"ambiguous URL: {url!r}")
    return parts.scheme, str(parts.hostname), parts.port or {"https": 443}.get(parts.scheme, 80)


def _redirected(url: str, status: int, location: str, call: Call, target: Target) -> str:
    """Give the URL to follow to; refuse where the key would leave its origin, or the call would not arrive as it is."""
    try:
        redirected = urljoin(url, requote_uri(location.encode("latin-1").decode("utf-8", "replace")))
        origin = _origin(redirected)
    except (ValueError, LocationParseError):
        raise _redirect_error(f"the server redirects to {location!r}, which is no clear URL: check the base_url", call, status) from None
    parts = urlsplit(redirected)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    base_url = shown[: -len(call.path)] if shown.endswith(call.path) else shown
    if origin != target.origin:
        reason = "the API key goes to the base_url's own origin alone; if you trust the other"
    elif call.method != "GET" and status not in _REDIRECTS_AS_IT_IS:
        reason = "a POST would arrive there as a GET, and execute nothing; if that is the API"
    else:
        return redirected
    raise _redirect_error(f"the server redirects to {shown} (HTTP {status}): {reason}, set base_url={base_url!r}", call, status)


def _redirect_error(message: str, call: Call, status: int) -> RedirectError:
    error = RedirectError(one_line(message), "REDIRECT_REFUSED", status)
    error.may_have_executed = (
        call.executes and status == http.client.SEE_OTHER
    )  # the answer to a POST that was carried out (RFC 9110, 15.4.4)
    return error
