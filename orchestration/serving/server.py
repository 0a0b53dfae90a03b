"""The HTTP side of `cola serve-model`: OpenAI's `/v1/completions` and `/v1/models` on loopback."""

from __future__ import annotations

import functools
import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from cola.data import TextTokenizer
from orchestration.serving.answers import Answer, error_body, refusal
from orchestration.serving.completion_request import RequestError, ServedModel, parse_request
from orchestration.serving.engine import BusyError, Engine, Job, Piece, StoppedError
from orchestration.web.access_token import SERVE_TOKEN, AccessToken
from orchestration.web.local_server import LocalHandler, LocalServer, is_closed

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20  # of a request's body; chosen: far above any context here
LOOK_SECONDS = 0.5  # between two looks whether the client is still there; a chosen value
MODELS, COMPLETIONS = "/v1/models", "/v1/completions"
ENDS = "the server stops; send the request again once it runs"
KINDS = {401: "invalid_request_error", 429: "rate_limit_error", 500: "server_error",
         503: "server_error"}  # fmt: skip


@dataclass(frozen=True)
class Service:
    """What the handler of every request needs."""

    model: ServedModel
    tokenizer: TextTokenizer
    engine: Engine
    token: AccessToken
    started: int = field(default_factory=lambda: int(time.time()))

    def about(self) -> dict[str, Any]:
        """The model as `/v1/models` lists it, with what is not OpenAI's: family, context and the
        settings that requests may change."""
        served = self.model
        return {
            "id": served.name,
            "object": "model",
            "created": self.started,
            "owned_by": "local",
            "family": served.definition.name,
            "max_model_len": served.context,
            "generation": served.read_settings(served.defaults),
            "suffix": served.fills_gaps,
            "logprobs": served.gives_logprobs,
        }


def serve(server: LocalServer, service: Service, stop: threading.Event) -> None:
    """Answer until `stop` is set; requests in work end then with an error."""
    engine = service.engine

    def stop_engine() -> None:
        stop.wait()
        engine.stop()

    engine_stopped = threading.Thread(target=stop_engine, daemon=True)
    engine_stopped.start()
    server.serve(functools.partial(CompletionsHandler, service), stop)
    engine_stopped.join()


class CompletionsHandler(LocalHandler):
    """One connection of a client."""

    methods = ("GET", "POST")

    def __init__(self, service: Service, *arguments: Any) -> None:
        self.service = service
        super().__init__(*arguments)

    def refuse(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        """See `LocalHandler.refuse`: in OpenAI's form."""
        kind = KINDS.get(status, "invalid_request_error")
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        self.send_json(error_body(message, kind=kind, param=param, code=code), status, headers)

    def answer(self) -> None:
        """Answer one request."""
        content = self._body()
        if content is None:
            return
        if self.place == "/health":
            self.send_json({"status": "ok"})
        elif not self.service.token.accepts(self.headers.get("Authorization")):
            self.refuse(
                401,
                "Authorization: is not `Bearer TOKEN` with the token that `cola serve-model` "
                f"printed, or was given by {SERVE_TOKEN} or --token-file",
                code="invalid_api_key",
            )
        elif self.place == COMPLETIONS and self.command == "POST":
            self._complete(content)
        elif self.command == "GET" and self.place == MODELS:
            self.send_json({"object": "list", "data": [self.service.about()]})
        elif self.command == "GET" and self.place.startswith(f"{MODELS}/"):
            self._model(unquote(self.place.removeprefix(f"{MODELS}/")))
        elif self.place in (COMPLETIONS, MODELS):
            method = "POST" if self.place == COMPLETIONS else "GET"
            self.refuse(405, f"{self.place}: takes {method}")
        elif self.place == "/v1/chat/completions":
            self.refuse(404, "base models have no chat template; use /v1/completions")
        else:
            self.refuse(404, f"no such address; there are POST {COMPLETIONS} and GET {MODELS}")

    def _model(self, name: str) -> None:
        if name == self.service.model.name:
            self.send_json(self.service.about())
        else:
            served = self.service.model.name
            self.refuse(404, f"model: no such model is served here; {served} is", param="model",
                        code="model_not_found")  # fmt: skip

    def _body(self) -> bytes | None:
        """The request's body; None where it was refused."""
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self.refuse(411, "Transfer-Encoding: is not supported; send Content-Length")
            return None
        given = self.headers.get("Content-Length") or "0"
        if not (given.isascii() and given.isdigit() and len(given) < 20):
            self.close_connection = True
            self.refuse(400, "Content-Length: is no number of bytes")
            return None
        if int(given) > MOST_BYTES:
            self.close_connection = True  # the body is not read
            self.refuse(413, f"the body has {int(given):,} bytes; {MOST_BYTES:,} at most are read")
            return None
        return self.rfile.read(int(given))

    def _complete(self, content: bytes) -> None:
        service = self.service
        try:
            request = parse_request(content, service.model)
            job = service.engine.submit(request)
        except RequestError as error:
            self.send_json(refusal(error), error.status)
            return
        except BusyError:
            self.refuse(429, "too many requests wait; send it again later",
                        code="rate_limit_exceeded")  # fmt: skip
            return
        except StoppedError:
            self.refuse(503, ENDS)
            return
        answer = Answer(request, service.model, service.tokenizer)
        pieces = self._pieces(job)
        try:
            if request.stream:
                self._stream(answer, pieces)
            else:
                self.send_json(answer.whole(list(pieces)))
        except StoppedError:
            self.refuse(503, ENDS)
        except RuntimeError as error:
            self.refuse(500, str(error))
        finally:
            job.cancelled.set()  # where the client is gone

    def _pieces(self, job: Job) -> Iterator[Piece]:
        """The job's pieces as they come.

        Raises:
            StoppedError: the server stops.
            RuntimeError: generation fails.
            ConnectionError: the client is gone.
        """
        while True:
            try:
                piece = job.pieces.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if is_closed(self.connection):
                    self.close_connection = True
                    raise ConnectionAbortedError("the client is gone") from None
                continue
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def _stream(self, answer: Answer, pieces: Iterator[Piece]) -> None:
        """Send the pieces as server-sent events, each in a chunk of HTTP/1.1."""
        first = next(pieces)  # what fails at once has an HTTP status
        self.begin(200, {"Content-Type": "text/event-stream; charset=utf-8",
                         "Transfer-Encoding": "chunked"})  # fmt: skip
        try:
            self._event(answer.chunk(first))
            for piece in pieces:
                self._event(answer.chunk(piece))
            if answer.request.usage_at_end:
                self._event(answer.usage_chunk())
            self._chunk(b"data: [DONE]\n\n")
        except (StoppedError, RuntimeError) as error:
            message = ENDS if isinstance(error, StoppedError) else str(error)
            self._event(error_body(message, kind="server_error", param=None, code=None))
        self._chunk(b"")

    def _event(self, values: dict[str, Any]) -> None:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        self._chunk(f"data: {text}\n\n".encode("utf-8", "replace"))

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
