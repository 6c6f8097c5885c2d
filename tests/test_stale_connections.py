"""Idle connections that the server closes: replaced if that is known before sending, else reported; nothing is sent twice."""

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from rawserver import PATIENCE, answers, envelope, http
from recall_sdk import RecallConnectionError
from recall_sdk.testing import RecallServer

THREADS = 16

CALLS = {
    "execute_workflow": lambda client: client.execute_workflow("w"),
    "execute_with_retry": lambda client: client.execute_with_retry("w"),
    "execute_workflow of a stream": lambda client: client.execute_workflow("w", stream=True),
    "stream_workflow": lambda client: client.stream_workflow("w").result,
    "execute_batch": lambda client: [_result_of(item) for item in client.execute_batch([("w", None)])],
}
QUESTIONS = {
    "get_workflow_status": lambda client: client.get_workflow_status("w"),
    "get_job_status": lambda client: client.get_job_status("t"),
    "get_usage_limits": lambda client: client.get_usage_limits(),
}


def _result_of(item):
    if item.error is not None:
        raise item.error
    return item.result


GOODBYES = {
    "without a word": b"",
    "with a 408": http({"error": "you were idle for too long"}, "Connection: close", status="408 Request Timeout"),
}


@pytest.mark.parametrize("goodbye", GOODBYES)
def test_idle_connection_closed_by_server_is_replaced(goodbye, session, serve, connect):
    """After a server closes all idle connections, like a load balancer, each thread's next call is sent once, on a new one."""
    everybody = threading.Barrier(THREADS, timeout=PATIENCE)

    def handler(connection):
        number = connection.request().json["number"]
        everybody.wait()  # so that each thread needs a connection of its own
        connection.send(http(envelope(number)))
        connection.wait_for_go()
        connection.send(GOODBYES[goodbye])
        connection.sock.shutdown(socket.SHUT_WR)
        connection.server.client_closed.release()
        connection.idle()

    server = serve(handler)
    client = connect(server, session=session, timeout=60)

    def call(number):
        return client.execute_workflow("w", {"number": number}).output

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(call, range(THREADS))) == list(range(THREADS))
        for _ in range(THREADS):
            server.go()
        for _ in range(THREADS):
            server.wait_for_hang_up()  # here: this connection is at its end
        again = range(THREADS, 2 * THREADS)
        assert list(pool.map(call, again)) == list(again)
    assert Counter(request.json["number"] for request in server.requests) == Counter(range(2 * THREADS))
    assert server.connections == 2 * THREADS


def test_server_restart_is_survived(session, connect):
    """The caller does not notice a restart of the server between two calls."""
    server = RecallServer()
    server.workflow("w")(lambda _: "hello")
    with server:
        client = connect(server.base_url, session=session)
        client.set_api_key(server.api_key)
        assert client.execute_workflow("w").output == "hello"
        port = server.port
    with server:
        assert server.port == port
        assert client.execute_workflow("w").output == "hello"
    assert server.executions == {"w": 2}


@pytest.mark.parametrize("ending", ["closed", "reset"])
@pytest.mark.parametrize("call", [*CALLS, *QUESTIONS])
def test_connection_closed_while_sending_may_have_executed(call, ending, session, serve, connect):
    """A request whose connection closed is sent once, and the error says whether the workflow may have run."""

    def handler(connection):
        if connection.number == 1:
            connection.request()
            connection.send(http(envelope()))
        connection.request()
        if ending == "reset":
            connection.reset()

    server = serve(handler)
    client = connect(server, session=session)
    client.execute_workflow("w")
    with pytest.raises(RecallConnectionError) as caught:
        {**CALLS, **QUESTIONS}[call](client)
    assert caught.value.may_have_executed is (call in CALLS)
    assert len(server.requests) == 2
    assert server.connections == 1


def test_connection_close_is_respected(session, serve, connect):
    """After an answer with ``Connection: close`` the next call uses a new connection."""
    server = serve(answers(http(envelope(), "Connection: close")))
    client = connect(server, session=session)
    for _ in range(3):
        assert client.execute_workflow("w").output == "hello"
    assert (len(server.requests), server.connections) == (3, 3)
