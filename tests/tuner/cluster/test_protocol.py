"""Questions and answers between worker and chief, over real sockets."""

import threading
import time

import pytest

from cxr.errors import InputError
from tuner.cluster.protocol import ChiefClient, ChiefLost, ChiefRefused, is_loopback, parse_address, serve


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


def test_numbers_arrive_as_they_were_sent(echo):
    client = ChiefClient(echo, 5.0)
    question = {"score": 0.1 + 0.2, "nothing": None, "rows": [{"epoch": 3, "val_auc": 0.995931}], "ä": "\n"}
    assert client.ask("echo", **question) == question
    nan = client.ask("echo", value=float("nan"))["value"]
    assert nan != nan
    client.close()


def test_many_ask_at_once(echo):
    answers = {}

    def ask(number):
        client = ChiefClient(echo, 5.0)
        answers[number] = [client.ask("echo", number=number, turn=turn) for turn in range(20)]
        client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [{"number": n, "turn": turn} for turn in range(20)] for n in range(16)}


def test_a_refusal_says_why(echo):
    client = ChiefClient(echo, 5.0)
    with pytest.raises(ChiefRefused, match="refused: not you"):
        client.ask("refuse")
    client.close()


def test_a_question_that_nobody_knows_is_not_asked_for_ever(echo):
    client = ChiefClient(echo, 60.0)
    with pytest.raises(ChiefLost):
        client.ask("unknown")
    client.close()


def test_a_chief_that_is_not_there_is_waited_for_as_long_as_one_is_patient():
    client = ChiefClient("127.0.0.1:9", 0.5)
    begun = time.monotonic()
    with pytest.raises(ChiefLost, match=r"no chief answers at 127\.0\.0\.1:9"):
        client.ask("echo")
    assert time.monotonic() - begun < 20
    client.close()


def test_who_gives_up_does_not_wait():
    client = ChiefClient("127.0.0.1:9", 3600.0, lambda: True)
    with pytest.raises(ChiefLost):
        client.ask("echo")
    client.close()


def test_a_chief_that_comes_back_is_found(echo):
    port = int(echo.rpartition(":")[2])
    free, other = serve("127.0.0.1:0", {})
    free.stop(0).wait()
    assert port != other
    client = ChiefClient(f"127.0.0.1:{other}", 30.0)
    servers = []
    methods = {"echo": lambda: {"late": True}}
    starter = threading.Timer(1.0, lambda: servers.append(serve(f"127.0.0.1:{other}", methods)))
    starter.start()
    assert client.ask("echo") == {"late": True}
    client.close()
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
