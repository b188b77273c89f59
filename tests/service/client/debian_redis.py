"""Debian's redis-server, which speaks TLS as the embedded one does not."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from rlkv_service.redis_errors import RedisError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection


def make_certificates(folder: Path) -> None:
    """An authority, and certificates for ``localhost`` and for a client that it has signed."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        "-subj", "/CN=test authority",
    )  # fmt: skip
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl(
            "req", "-new", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}",
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext",
        )  # fmt: skip


class DebianRedis:
    """A server with TLS on a port of its own, and without on a socket."""

    def __init__(self, folder: Path) -> None:
        for name in ("redis-server", "openssl"):
            if shutil.which(name) is None:
                pytest.skip(f"there is no {name}: apt-get install redis-server openssl")
        make_certificates(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self.url = RedisURL(path=str(folder / "redis.sock"))
        options = {
            "port": "0", "tls-port": str(self._port), "bind": "127.0.0.1",
            "unixsocket": self.url.path, "tls-cert-file": "server.pem",
            "tls-key-file": "server.key", "tls-ca-cert-file": "ca.pem", "tls-auth-clients": "yes",
            "save": "", "dir": str(folder),
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            ["redis-server", *words], cwd=folder, stdout=subprocess.DEVNULL
        )

    def __enter__(self) -> Self:
        deadline_s = time.monotonic() + 10.0
        while True:
            try:
                with RespConnection(self.url):
                    return self
            except RedisError:
                assert time.monotonic() < deadline_s and self._process.poll() is None
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def tls_url(self, host: str = "localhost", authority: str = "ca.pem", user: str = "") -> str:
        return (
            f"rediss://{user}{host}:{self._port}?ssl_ca_certs={self._folder / authority}"
            f"&ssl_certfile={self._folder / 'client.pem'}"
            f"&ssl_keyfile={self._folder / 'client.key'}"
        )
