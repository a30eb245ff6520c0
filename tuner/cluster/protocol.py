"""The protocol between workers and chief: four questions over gRPC, with JSON as their content.

    join    a worker's first question; the answer is what all trials have in common
    next    asks for a trial; the answer is a trial, or to wait, or that the search is over
    report  a heartbeat with the progress and each epoch's metrics; the answer is whether to continue
    end     the result of a trial

KerasTuner's own protocol has no reasons, no heartbeats and no names of processes, rounds metrics to float32, and its
clients wait an hour for a chief that is gone. So the chief keeps KerasTuner's oracle, and workers talk to the chief.
All four questions may be repeated where an answer was lost. There is no encryption and no authentication: anybody who
reaches the port can take trials and report scores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import grpc

from cxr.errors import CxrError, InputError
from tuner.search_config import parse_address

VERSION = 1
BEAT_SECONDS = 5.0
"""Longest time between two heartbeats of a worker."""
QUESTIONS = ("join", "next", "report", "end")
_SERVICE = "cxr.Search"
_THREADS = 8
_RETRY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
Method = Callable[..., dict[str, Any]]


class ChiefRefused(CxrError):
    """The chief refused, and said why."""


class ChiefLost(CxrError):
    """The chief did not answer in time."""


def is_loopback(host: str) -> bool:
    """Whether only processes of this host can reach it."""
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")


def serve(address: str, methods: Mapping[str, Method]) -> tuple[grpc.Server, int]:
    """Starts a server that answers in threads of its own.

    Args:
      address: HOST:PORT to listen on.
      methods: by name; each gets the fields of a question as keyword arguments and returns those of the answer. The
        message of a CxrError is sent to the client.

    Returns:
      The server, and its port.

    Raises:
      InputError: the address is invalid, or taken.
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
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        why = f"the port is taken, or {host} is no address of this host"
        raise InputError(f"cannot listen on {address}: {why}") from error
    server.start()
    return server, port


class ChiefClient:
    """Asks the chief; waits where it is not there yet, or restarts.

    Args:
      address: HOST:PORT of the chief.
      patience: seconds of retries before `ChiefLost`.
      gives_up: called between two tries; true ends them.
      answer_seconds: timeout of one try.
    """

    def __init__(
        self, address: str, patience: float, gives_up: Callable[[], bool] = lambda: False, answer_seconds: float = 60.0
    ):
        parse_address(address)
        self.address, self.patience, self.answer_seconds = address, patience, answer_seconds
        self._gives_up = gives_up
        options = [("grpc.max_reconnect_backoff_ms", 2000), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(address, options)

    def ask(self, method: str, **fields: Any) -> dict[str, Any]:
        """The answer to a question.

        Raises:
          ChiefLost: there was none.
          ChiefRefused: the chief refused.
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
        """Closes the connection."""
        self._channel.close()


def _encode(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _decode(text: bytes) -> dict[str, Any]:
    return dict(json.loads(text))
