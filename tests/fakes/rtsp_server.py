"""A real RTSP server with a moving test picture. Run by /usr/bin/python3 (Debian's python3-gi).

usage: rtsp_server.py PORT [--encoder h264|jpeg|unknown|audio] [--pattern NAME] [--user NAME --password TEXT] [--tls CERT KEY]

It serves rtsp://127.0.0.1:PORT/camera and prints `ready` once it listens.
"""

from __future__ import annotations

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PICTURES = "videotestsrc is-live=true pattern={pattern} ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
STREAMS = {
    "h264": PICTURES + " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 config-interval=1",
    "jpeg": PICTURES + " ! jpegenc ! rtpjpegpay name=pay0",
    "unknown": PICTURES + " ! rtpgstpay name=pay0",
    "audio": "audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--encoder", choices=sorted(STREAMS), default="h264")
    parser.add_argument("--pattern", default="ball")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {STREAMS[options.encoder].format(pattern=options.pattern)} )")
    factory.set_shared(True)
    if options.user or options.tls:
        auth = GstRtspServer.RTSPAuth()
        server.set_auth(auth)
    if options.tls:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*options.tls))
    if options.user:
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
    server.get_mount_points().add_factory("/camera", factory)
    if server.attach(None) == 0:
        raise SystemExit(f"port {options.port} cannot be bound")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
