"""Questions and answers between worker and chief, over real sockets."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxr.errors import InputError
from tuner.cluster.protocol import ChiefClient, ChiefLost, ChiefRefused, is_loopback, serve
from tuner.search_config import parse_address


@pytest.fixture
def echo():
    """A server that returns what it is asked, and its address."""

    def answer(**fields):
        return fields

    def refuse(**fields):
        raise InputError("not you")

    server, port = serve("127.0.0.1:0", {"echo": answer, "refuse": refuse})
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def ask():
    """`ask(address, patience, gives_up)`: a client that is closed afterwards."""
    with contextlib.ExitStack() as clients:
        yield lambda *options: clients.enter_context(contextlib.closing(ChiefClient(*options))).ask


def test_numbers_arrive_as_they_were_sent(echo, ask):
    question = {"score": 0.1 + 0.2, "nothing": None, "rows": [{"epoch": 3, "val_auc": 0.995931}], "ä": "\n"}
    client = ask(echo, 5.0)
    assert client("echo", **question) == question
    nan = client("echo", value=float("nan"))["value"]
    assert nan != nan


def test_many_ask_at_once(echo):
    def talk(number):
        with contextlib.closing(ChiefClient(echo, 5.0)) as client:
            return [client.ask("echo", number=number, turn=turn) for turn in range(20)]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(talk, range(16)))
    assert answers == [[{"number": number, "turn": turn} for turn in range(20)] for number in range(16)]


@pytest.mark.parametrize(
    "method, options, error, message",
    [
        ("refuse", ["ECHO", 5.0], ChiefRefused, "refused: not you"),
        ("unknown", ["ECHO", 60.0], ChiefLost, "failed"),
        ("echo", ["127.0.0.1:9", 0.5], ChiefLost, r"no chief answers at 127\.0\.0\.1:9"),
        ("echo", ["127.0.0.1:9", 3600.0, lambda: True], ChiefLost, "no chief answers"),
    ],
    ids=["refused", "unknown question", "nobody there", "given up"],
)
def test_a_question_without_an_answer_says_why(echo, ask, method, options, error, message):
    with pytest.raises(error, match=message):
        ask(*(echo if option == "ECHO" else option for option in options))(method)


def test_a_chief_that_comes_back_is_found(ask):
    free, port = serve("127.0.0.1:0", {})
    free.stop(0).wait()
    servers = []
    methods = {"echo": lambda: {"late": True}}
    starter = threading.Timer(0.3, lambda: servers.append(serve(f"127.0.0.1:{port}", methods)))
    starter.start()
    assert ask(f"127.0.0.1:{port}", 120.0)("echo") == {"late": True}
    starter.join()
    servers[0][0].stop(0).wait()


def test_a_port_that_is_taken_is_an_error(echo):
    with pytest.raises(InputError, match="cannot listen on"):
        serve(echo, {})


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:port", "host:70000"])
def test_addresses_are_checked(text):
    with pytest.raises(InputError, match="expected HOST:PORT"):
        parse_address(text)


def test_loopback_is_told_from_other_addresses():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "host", "[::]"))
