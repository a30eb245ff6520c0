"""How a worker talks to the chief: four questions, asked by gRPC, put and answered as JSON.

    join    a worker's first word; the answer is what every trial has in common
    next    asks for a trial; the answer is one, or to wait, or that the search is over
    report  still at it, with how far, and each epoch's metrics; the answer is whether to go on
    end     what became of a trial

KerasTuner's own protocol has no word for a reason, a sign of life or which process of a worker asks, rounds metrics to
float32, and its clients wait an hour for a chief that is gone. So the chief keeps KerasTuner's oracle, and this
is between it and the workers. All four may be asked again where an answer was lost. Nothing is encrypted, and nobody
is asked who he is: whoever reaches the port can take trials and report scores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import grpc

from cxr.errors import CxrError, InputError

VERSION = 1
BEAT_SECONDS = 5.0
"""Between two signs of life of a worker, at most."""
QUESTIONS = ("join", "next", "report", "end")
_SERVICE = "cxr.Search"
_THREADS = 8
_RETRY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_ANSWER_SECONDS = 60.0
Method = Callable[..., dict[str, Any]]


class ChiefRefused(CxrError):
    """The chief answered that it will not, and why."""


class ChiefLost(CxrError):
    """The chief did not answer for as long as one was willing to wait."""


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT; a port of 0 is any that is free.

    Raises:
      InputError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"'{text}': expected HOST:PORT, such as 127.0.0.1:7171")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only processes of this host reach it."""
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")


def serve(address: str, methods: Mapping[str, Method]) -> tuple[grpc.Server, int]:
    """Starts to answer, in threads of its own.

    Args:
      address: HOST:PORT to listen on.
      methods: by name; each gets the fields of the question by name and returns those of the answer. A CxrError is
        told to who asked.

    Returns:
      The server, and its port.

    Raises:
      InputError: the address is none, or taken.
    """
    host, _ = parse_address(address)

    def handler(method: Method) -> grpc.RpcMethodHandler:
        def answer(question: dict[str, Any], context: grpc.ServicerContext) -> dict[str, Any]:
            try:
                return method(**question)
            except CxrError as error:
                return context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

        return grpc.unary_unary_rpc_method_handler(answer, _decode, _encode)

    server = grpc.server(futures.ThreadPoolExecutor(_THREADS, "chief"), options=[("grpc.so_reuseport", 0)])
    handlers = {name: handler(method) for name, method in methods.items()}
    server.add_registered_method_handlers(_SERVICE, handlers)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise InputError(f"cannot listen on {address}: the port is taken, or {host} is none of this host's") from error
    server.start()
    return server, port


class ChiefClient:
    """Asks the chief; waits for one that is not there yet, or not there for a while.

    Args:
      address: HOST:PORT of the chief.
      patience: seconds for which it is tried again before `ChiefLost`.
      gives_up: asked between two tries; true ends them.
      answer_seconds: for which one try waits.
    """

    def __init__(
        self,
        address: str,
        patience: float,
        gives_up: Callable[[], bool] = lambda: False,
        answer_seconds: float = _ANSWER_SECONDS,
    ):
        parse_address(address)
        self.address, self.patience, self.answer_seconds = address, patience, answer_seconds
        self._gives_up = gives_up
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.max_reconnect_backoff_ms", 2000), ("grpc.enable_http_proxy", 0)]
        )

    def ask(self, method: str, **fields: Any) -> dict[str, Any]:
        """The answer to a question.

        Raises:
          ChiefLost: there was none.
          ChiefRefused: the chief will not.
        """
        call = self._channel.unary_unary(f"/{_SERVICE}/{method}", _encode, _decode)
        begun = time.monotonic()
        while True:
            try:
                return call(fields, timeout=self.answer_seconds)
            except grpc.RpcError as error:
                code = error.code()
                if code == grpc.StatusCode.FAILED_PRECONDITION:
                    raise ChiefRefused(f"the chief at {self.address} refused: {error.details()}") from error
                if code not in _RETRY:
                    raise ChiefLost(f"the chief at {self.address} failed: {error.details()}") from error
            if self._gives_up() or time.monotonic() - begun > self.patience:
                raise ChiefLost(
                    f"no chief answers at {self.address} for {time.monotonic() - begun:.0f} s; "
                    "is `cxr tune` running there, and is the port open?"
                )
            time.sleep(min(0.5, self.patience / 10))

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


def _encode(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _decode(text: bytes) -> dict[str, Any]:
    return dict(json.loads(text))
