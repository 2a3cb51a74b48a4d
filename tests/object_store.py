"""A store that speaks S3 on this machine, and can kill whoever writes to it at a chosen request."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

READING = ("GET", "HEAD")


class ObjectStore:
    """moto's server on 127.0.0.1; `writes` are the requests that changed something, as `PUT bucket/name`."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
        self.writes: list[str] = []
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._app: Callable[..., Iterable[bytes]] = self._server._server.app
        self._server._server.app = self._serve
        self._moment: tuple[int, bool] | None = None
        self._victim, self._known = 0, threading.Event()
        host, port = self._server.get_host_and_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """End the server."""
        self._server.stop()

    def kill_at(self, write: int, *, before: bool) -> None:
        """Kill the process that `victim` names at its n-th write, before or after that took effect."""
        self.writes.clear()
        self._known.clear()
        self._moment = (write, before)

    def victim(self, pid: int) -> None:
        """Say which process is to be killed."""
        self._victim = pid
        self._known.set()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return self._app(environ, start_response)
        self.writes.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].lstrip('/')}")
        if self._moment is None or len(self.writes) <= self._moment[0]:
            return self._app(environ, start_response)
        self._known.wait()
        if self._moment[1]:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            os.kill(self._victim, signal.SIGKILL)
            start_response("500 Internal Server Error", [])
            return []
        answer = list(self._app(environ, start_response))
        os.kill(self._victim, signal.SIGKILL)
        return answer


class Bucket:
    """One bucket of the store, read and written past fairbench."""

    def __init__(self, server: ObjectStore, bucket: str) -> None:
        import boto3

        self.server, self._bucket = server, bucket
        self.url = f"s3://{bucket}/dir"
        self._client = boto3.client("s3")
        self._client.create_bucket(Bucket=bucket)

    def content(self) -> dict[str, bytes]:
        """All objects below the URL by name."""
        listed = self._client.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        return {entry["Key"].removeprefix("dir/"): self.read(entry["Key"]) for entry in listed}

    def read(self, key: str) -> bytes:
        """One object."""
        body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return body

    def damage(self, name: str) -> None:
        """Change one bit in the middle of an object."""
        content = bytearray(self.read(f"dir/{name}"))
        content[len(content) // 2] ^= 1
        self._client.put_object(Bucket=self._bucket, Key=f"dir/{name}", Body=bytes(content))


def push(url: str, folder: str, environment: dict[str, str]) -> None:
    """What a process does that may be killed: copy the finished runs of a working directory to a URL."""
    os.environ.update(environment)
    os.chdir(folder)
    from fairbench.results.remote import Mirror

    mirror = Mirror(url)
    mirror.pull()
    mirror.push_runs()
