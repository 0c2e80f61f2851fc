"""Motion JPEG over HTTP: `multipart/x-mixed-replace`, one JPEG in each part."""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Iterator
from email.message import Message
from typing import TYPE_CHECKING, ClassVar, Literal

from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.pictures import PictureError, decode
from agent.vision.sources.live import LiveSource
from agent.vision.sources.network import NetworkConfig, auth_failed, not_found, timed_out, tls_failed

if TYPE_CHECKING:
    import httpx

MAX_PART = 32 * 1024 * 1024
MAX_HEADERS = 16 * 1024
BAD_PICTURES = 50


class MjpegConfig(NetworkConfig):
    """A camera that sends JPEG pictures over HTTP."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https")

    type: Literal["mjpeg"] = "mjpeg"


class MultipartParser:
    """Bodies of the parts of a multipart stream (RFC 2046, 5.1), fed in pieces of any size.

    A part with Content-Length ends there, any other at the next delimiter. Raises ValueError when a part or its headers grow
    beyond all measure.
    """

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"--" + boundary.removeprefix("--").encode("latin-1")
        self._buffer = bytearray()
        self._searched = 0
        self._length: int | None = None
        self._in_body = False

    def feed(self, data: bytes) -> list[bytes]:
        """The parts that `data` completes."""
        self._buffer += data
        parts: list[bytes] = []
        while True:
            if not self._in_body and not self._read_headers():
                return parts
            body = self._read_body()
            if body is None:
                return parts
            if body:
                parts.append(body)

    def _read_headers(self) -> bool:
        start = self._buffer.find(self._delimiter)
        end = self._buffer.find(b"\r\n\r\n", max(start, 0)) if start >= 0 else -1
        if end < 0:
            if len(self._buffer) > MAX_HEADERS:
                raise ValueError("no part begins where one should; this is no multipart stream")
            return False
        self._length = None
        for line in bytes(self._buffer[start:end]).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                self._length = int(value)
        if (self._length or 0) > MAX_PART:
            raise ValueError("a part is longer than 32 MiB")
        del self._buffer[: end + 4]
        self._searched, self._in_body = 0, True
        return True

    def _read_body(self) -> bytes | None:
        if self._length is not None:
            end = self._length if len(self._buffer) >= self._length else -1
        else:
            end = self._buffer.find(b"\r\n" + self._delimiter, self._searched)
            self._searched = max(0, len(self._buffer) - len(self._delimiter) - 2)
        if end < 0:
            if len(self._buffer) > MAX_PART:
                raise ValueError("a part is longer than 32 MiB")
            return None
        body = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._in_body = False
        return body


class MjpegSource(LiveSource):
    """Pictures of an HTTP stream; basic and digest authentication, whichever the server asks for."""

    Config = MjpegConfig
    config: MjpegConfig

    def __init__(self, config: MjpegConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._client: httpx.Client | None = None
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._parser = MultipartParser("")
        self._parts: deque[bytes] = deque()

    def open(self) -> None:
        import httpx

        # Its lines would hold the query of the address, in which some cameras take a token.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.Client(verify=self.config.ssl_context(), timeout=self.config.timeout_s, trust_env=False, follow_redirects=True)
        try:
            self._response = self._request(self._client)
        except httpx.HTTPError as error:
            raise self._explain(error) from None
        self._parser = MultipartParser(self._boundary(self._response))
        self._parts.clear()
        self._chunks = self._response.iter_bytes()

    def read(self) -> Frame:
        reason = ""
        for _ in range(BAD_PICTURES):
            try:
                return self._frame(decode(self._next_part()))
            except PictureError as error:
                reason = str(error)
                self._leave_out(reason)
        raise SourceError(
            "STREAM_DAMAGED", f"{self.config.shown}: {BAD_PICTURES} pictures in a row cannot be decoded, the last one: {reason}"
        )

    def close(self) -> None:
        self._chunks = iter(())
        if self._response is not None:
            self._response.close()
            self._response = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def _request(self, client: httpx.Client) -> httpx.Response:
        import httpx

        response = client.send(client.build_request("GET", self.config.url), stream=True)
        if response.status_code == 401 and self.config.username:
            wanted = response.headers.get("www-authenticate", "").lower()
            response.close()
            kind = httpx.DigestAuth if "digest" in wanted else httpx.BasicAuth
            auth = kind(self.config.username, self.config.secret())
            response = client.send(client.build_request("GET", self.config.url), auth=auth, stream=True)
        if response.status_code == 200:
            return response
        response.close()
        if response.status_code in (401, 403):
            raise auth_failed(self.config.shown)
        if response.status_code in (404, 410):
            raise not_found(self.config.shown, "the server has no such path")
        raise SourceError("STREAM_LOST", f"{self.config.shown}: the server answers {response.status_code}")

    def _boundary(self, response: httpx.Response) -> str:
        header = Message()
        header["content-type"] = response.headers.get("content-type", "")
        boundary = header.get_param("boundary")
        if header.get_content_maintype() != "multipart" or not isinstance(boundary, str):
            raise SourceError(
                "STREAM_CODEC_UNSUPPORTED",
                f"{self.config.shown}: sends {header.get_content_type()}, not multipart/x-mixed-replace; look up the MJPEG address",
            )
        return boundary

    def _next_part(self) -> bytes:
        import httpx

        deadline = time.monotonic() + self.config.timeout_s
        while not self._parts:
            if time.monotonic() > deadline:
                raise timed_out(self.config.shown, self.config.timeout_s)
            try:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise SourceError("STREAM_LOST", f"{self.config.shown}: the server ended the stream")
                self._parts.extend(self._parser.feed(chunk))
            except httpx.HTTPError as error:
                raise self._explain(error) from None
            except ValueError as error:
                raise SourceError("STREAM_DAMAGED", f"{self.config.shown}: {error}") from None
        return self._parts.popleft()

    def _explain(self, error: httpx.HTTPError) -> SourceError:
        import httpx

        shown = self.config.shown
        if isinstance(error, httpx.TimeoutException):
            return timed_out(shown, self.config.timeout_s)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return tls_failed(shown, cause.verify_message)
            if isinstance(cause, ssl.SSLError):
                return tls_failed(shown, cause.reason or "no TLS there")
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.ConnectError):
            return not_found(shown, "no connection")
        return SourceError("STREAM_LOST", f"{shown}: the connection broke ({type(error).__name__})")
