"""RTSP over TCP, by PyAV (FFmpeg)."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.sources.live import LiveSource, announced
from agent.vision.sources.network import NetworkConfig, auth_failed, not_found, timed_out, tls_failed

RTSPS_PORT = 322
BAD_PACKETS = 100


class RtspConfig(NetworkConfig):
    """An RTSP camera."""

    schemes: ClassVar[tuple[str, ...]] = ("rtsp", "rtsps")

    type: Literal["rtsp"] = "rtsp"


class RtspSource(LiveSource):
    """Frames of the first video stream of an RTSP presentation, decoded by slices: threads by frame would add delay."""

    Config = RtspConfig
    config: RtspConfig

    def __init__(self, config: RtspConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._container: Any = None
        self._pictures: Iterator[Any] = iter(())
        self._rate: float | None = None

    @property
    def expected_per_second(self) -> float | None:
        return self._rate

    def open(self) -> None:
        try:
            import av
        except ImportError:
            raise SourceError("STREAM_LIBRARY_MISSING", "RTSP needs PyAV: pip install 'almena[rtsp]'") from None
        started = time.monotonic()
        try:
            self._container = av.open(self.config.full_url(), options=self._options(), timeout=self.config.timeout_s)
        except av.FFmpegError as error:
            raise self._explain(error, time.monotonic() - started) from None
        videos = self._container.streams.video
        if not videos or videos[0].codec_context is None:
            self.close()
            raise SourceError("STREAM_CODEC_UNSUPPORTED", f"{self.config.shown}: no video that can be decoded; set the camera to H.264")
        videos[0].thread_type = "SLICE"
        self._rate = announced(float(videos[0].average_rate or 0))
        self._pictures = self._decode(videos[0])

    def read(self) -> Frame:
        import av

        started = time.monotonic()
        try:
            picture = next(self._pictures, None)
        except av.FFmpegError as error:
            raise self._explain(error, time.monotonic() - started) from None
        if picture is None:
            raise SourceError("STREAM_LOST", f"{self.config.shown}: the server ended the stream")
        return self._frame(picture.to_ndarray(format="bgr24"))

    def close(self) -> None:
        self._pictures = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def _options(self) -> dict[str, str]:
        options = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}
        if urlsplit(self.config.url).scheme == "rtsps":
            options["tls_verify"] = "1" if self.config.tls_verify else "0"
            options["ca_file"] = str(self.config.ca_bundle())
        return options

    def _decode(self, video: Any) -> Iterator[Any]:
        """Pictures of `video`. A packet that cannot be decoded is left out (before the first key picture that is no damage), 100 in a
        row are an error, and so is a connection that lives without a picture (sound alone, say) for the time-out."""
        import av

        bad, since, begun = 0, time.monotonic(), False
        for packet in self._container.demux():
            if time.monotonic() - since > self.config.timeout_s:
                raise timed_out(self.config.shown, self.config.timeout_s)
            if packet.stream.index != video.index:
                continue
            try:
                pictures = packet.decode()
            except av.InvalidDataError:
                bad += 1
                if begun:
                    self._leave_out("the packet cannot be decoded")
                if bad >= BAD_PACKETS:
                    raise SourceError("STREAM_DAMAGED", f"{self.config.shown}: {bad} packets in a row cannot be decoded") from None
                continue
            for picture in pictures:
                yield picture
                bad, since, begun = 0, time.monotonic(), True

    def _explain(self, error: Any, took_s: float) -> SourceError:
        """What an FFmpeg error means. Its own text holds the address with the password, so it goes no further."""
        import av

        shown = self.config.shown
        if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
            return auth_failed(shown)
        if isinstance(error, av.error.HTTPNotFoundError):
            return not_found(shown, "the server has no such path")
        if isinstance(error, (av.error.ExitError, TimeoutError)) or took_s >= self.config.timeout_s:
            return timed_out(shown, self.config.timeout_s)
        if isinstance(error, ConnectionRefusedError):
            return not_found(shown, "connection refused")
        if isinstance(error, (av.error.DecoderNotFoundError, av.error.PatchWelcomeError)):
            return SourceError("STREAM_CODEC_UNSUPPORTED", f"{shown}: the codec is not supported; set the camera to H.264")
        if isinstance(error, av.error.HTTPServerError):
            return SourceError("STREAM_LOST", f"{shown}: the server reports an error of its own; look into its log")
        return self._diagnose() or SourceError("STREAM_LOST", f"{shown}: the connection broke ({type(error).__name__})")

    def _diagnose(self) -> SourceError | None:
        """What FFmpeg reports as a plain input/output error: a host name that nobody knows, or a certificate."""
        parts = urlsplit(self.config.url)
        try:
            connection = socket.create_connection((parts.hostname or "", parts.port or (RTSPS_PORT if parts.scheme == "rtsps" else 554)), 3)
        except socket.gaierror:
            return not_found(self.config.shown, f"the host name {parts.hostname} is not known")
        except OSError as error:
            return not_found(self.config.shown, str(error.strerror or error))
        with connection:
            if parts.scheme != "rtsps":
                return None
            try:
                with self.config.ssl_context().wrap_socket(connection, server_hostname=parts.hostname):
                    return None
            except ssl.SSLCertVerificationError as error:
                return tls_failed(self.config.shown, error.verify_message)
            except OSError as error:
                return tls_failed(self.config.shown, type(error).__name__)
