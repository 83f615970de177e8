"""A network camera: pictures as MJPEG over HTTP, as IP cameras send them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import cv2
import numpy as np


@contextmanager
def network_camera(pictures: list[np.ndarray], rate_hz: float) -> Iterator[str]:
    """Send (H, W, 3) BGR pictures over and over to whoever asks; yields the address."""
    parts = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Send pictures until the other side has enough."""
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            try:
                for number in range(int(60 * rate_hz)):
                    part = parts[number % len(parts)]
                    head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                    self.wfile.write(head.encode() + part + b"\r\n")
                    time.sleep(1 / rate_hz)
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/camera.mjpg"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
