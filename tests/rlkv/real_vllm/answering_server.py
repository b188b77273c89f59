"""Answers completions as vLLM streams them; what it was asked is remembered."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

#: Of every prompt, that it says it had.
CACHED_TOKENS = 3


class AnsweringServer:
    """Answers with tokens 100, 101 and so on; refuses where it is told to."""

    def __init__(self, refuses: bool = False) -> None:
        self.asked: list[dict[str, Any]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append(body)
                self.send_response(400 if refuses else 200)
                self.end_headers()
                if refuses:
                    self.wfile.write(b'{"error": {"message": "no"}}')
                    return
                for i in range(body["max_tokens"]):
                    self._event({"choices": [{"token_ids": [100 + i]}]})
                details = {"cached_tokens": CACHED_TOKENS}
                self._event({"choices": [], "usage": {"prompt_tokens_details": details}})
                self.wfile.write(b"data: [DONE]\n\n")

            def _event(self, event: dict[str, Any]) -> None:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
