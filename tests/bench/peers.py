"""The contenders: one call, and the loop over one stream, each written as its users write it.

A library that is not installed is ``None`` here, and the report says so.
"""

import importlib
import json
from typing import Any, Callable, Dict, Iterator, Optional

import requests
import urllib3

from recall_sdk import RecallClient

KEY = "test-key"
HEADERS = {"X-API-Key": KEY}
INPUT: Dict[str, Any] = {"question": "Where is my order?", "customer": {"id": 4711, "name": "Ada Lovelace"}, "tags": ["shop", "shipping"]}

SDK = "recall-sdk"
USUAL = "requests, iter_lines"
DOCUMENTED = "the documented loop"


def installed(name: str) -> Any:
    """Return a module, or ``None`` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


httpx = installed("httpx")
httpx_sse = installed("httpx_sse")
sseclient = installed("sseclient")
openai = installed("openai")

Call = Callable[[], Any]
Payloads = Iterator[Dict[str, Any]]
Stream = Callable[[str], Payloads]


def path_of(workflow: str) -> str:
    """Return the path that executes a workflow."""
    return f"/api/workflows/{workflow}/execute"


def calls(base_url: str, workflow: str) -> Dict[str, Optional[Call]]:
    """Return one function for each contender: a POST of ``INPUT`` on a kept-alive connection, with the parsed response."""
    path = path_of(workflow)
    url = base_url + path

    client = RecallClient(KEY, base_url)
    session = requests.Session()
    session.headers.update(HEADERS)
    pool = urllib3.PoolManager(headers={**HEADERS, "Content-Type": "application/json"})
    contenders: Dict[str, Optional[Call]] = {
        SDK: lambda: client.execute_workflow(workflow, INPUT),
        "requests": lambda: session.post(url, json=INPUT).json(),
        "urllib3's pool": lambda: json.loads(pool.request("POST", url, body=json.dumps(INPUT)).data),
        "httpx": None,
        "openai": None,
    }
    if httpx is not None:
        httpx_client = httpx.Client(headers=HEADERS)
        contenders["httpx"] = lambda: httpx_client.post(url, json=INPUT).json()
    if openai is not None:
        openai_client = openai.OpenAI(api_key=KEY, base_url=base_url, default_headers=HEADERS)
        contenders["openai"] = lambda: openai_client.post(path, body=INPUT, cast_to=object)
    return contenders


def sdk_stream(base_url: str) -> Stream:
    """Read a stream with this library: typed events."""
    client = RecallClient(KEY, base_url)

    def stream(workflow: str) -> Payloads:
        with client.stream_workflow(workflow, INPUT) as events:
            for event in events:
                yield event.data

    return stream


def usual_stream(base_url: str) -> Stream:
    """Read a stream with the usual loop: no typed events, not fully conforming."""
    session = requests.Session()
    session.headers.update(HEADERS)

    def stream(workflow: str) -> Payloads:
        with session.post(base_url + path_of(workflow), json=INPUT, stream=True) as response:
            for line in response.iter_lines():
                if line.startswith(b"data: "):
                    if line == b"data: [DONE]":
                        break
                    yield json.loads(line[6:])

    return stream


def documented_stream(base_url: str) -> Stream:
    """Read a stream with the loop that Recall's own documentation shows."""
    session = requests.Session()
    session.headers.update(HEADERS)

    def stream(workflow: str) -> Payloads:
        with session.post(base_url + path_of(workflow), json=INPUT, stream=True) as response:
            for line in response.iter_lines():
                if line:
                    decoded_line = line.decode("utf-8")
                    if decoded_line.startswith("data: "):
                        data = decoded_line[6:]
                        if data == "[DONE]":
                            break
                        try:
                            parsed = json.loads(data)
                        except json.JSONDecodeError:
                            continue
                        if "chunk" in parsed or parsed.get("event") == "done":
                            yield parsed

    return stream


def httpx_sse_stream(base_url: str) -> Stream:
    """httpx-sse's ``connect_sse``."""
    client = httpx.Client(headers=HEADERS)

    def stream(workflow: str) -> Payloads:
        with httpx_sse.connect_sse(client, "POST", base_url + path_of(workflow), json=INPUT) as source:
            for event in source.iter_sse():
                if event.data == "[DONE]":
                    break
                yield json.loads(event.data)

    return stream


def sseclient_stream(base_url: str) -> Stream:
    """sseclient-py over requests."""
    session = requests.Session()
    session.headers.update(HEADERS)

    def stream(workflow: str) -> Payloads:
        with session.post(base_url + path_of(workflow), json=INPUT, stream=True) as response:
            for event in sseclient.SSEClient(response).events():
                if event.data == "[DONE]":
                    break
                yield json.loads(event.data)

    return stream


def openai_stream(base_url: str) -> Stream:
    """openai-python's ``Stream`` of plain objects."""
    client = openai.OpenAI(api_key=KEY, base_url=base_url, default_headers=HEADERS)

    def stream(workflow: str) -> Payloads:
        with client.post(path_of(workflow), body=INPUT, cast_to=object, stream=True, stream_cls=openai.Stream[object]) as events:
            yield from events

    return stream


def streams(base_url: str) -> Dict[str, Optional[Stream]]:
    """Return one function for each contender: the parsed payloads of a stream."""
    return {
        SDK: sdk_stream(base_url),
        USUAL: usual_stream(base_url),
        DOCUMENTED: documented_stream(base_url),
        "httpx-sse": httpx_sse_stream(base_url) if httpx is not None and httpx_sse is not None else None,
        "sseclient-py": sseclient_stream(base_url) if sseclient is not None else None,
        "openai": openai_stream(base_url) if openai is not None else None,
    }
