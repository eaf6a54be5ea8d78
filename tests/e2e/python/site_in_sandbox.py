"""What runs in the sandbox: a page with assets, a WebSocket echo, an event stream, a download.

Only the standard library, so that it runs wherever there is a Python. `/seen` tells every request
that came, as it came, so that a test can see what a sandbox is shown.
"""

import base64
import hashlib
import json
import os
import socketserver
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler

DOWNLOAD = 64 * 1024 * 1024
BLOCK = bytes((index * 31 + 7) & 255 for index in range(65536))

PAGE = b"""<!doctype html>
<title>site</title>
<link rel="stylesheet" href="assets/site.css">
<img id="picture" src="assets/picture.svg" alt="">
<p id="text">hello from inside</p>
<script src="assets/site.js"></script>
"""
STYLE = b"#text { color: rgb(1, 2, 3) }"
PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" width="17" height="9"></svg>'
SCRIPT = rb"""
window.checks = {
  style: async () => getComputedStyle(document.getElementById('text')).color,
  picture: async () => {
    const picture = document.getElementById('picture')
    await picture.decode()
    return picture.naturalWidth
  },
  data: async () => (await (await fetch('data.json?x=%2F')).json()).path,
  posted: async () =>
    (await fetch('echo', { method: 'POST', body: 'x'.repeat(100000) })).text(),
  socket: () => new Promise((done, fail) => {
    const address = new URL('socket', location.href)
    address.protocol = address.protocol.replace('http', 'ws')
    const socket = new WebSocket(address)
    socket.onopen = () => socket.send('ping \u00e9')
    socket.onmessage = (message) => { done(message.data); socket.close() }
    socket.onerror = () => fail(new Error('the socket failed'))
  }),
  events: () => new Promise((done, fail) => {
    const heard = []
    const events = new EventSource('events')
    events.onmessage = (event) => {
      heard.push(event.data)
      if (heard.length === 3) { events.close(); done(heard.join()) }
    }
    events.onerror = () => fail(new Error('the events failed'))
  }),
  download: async () => {
    const reader = (await fetch('download')).body.getReader()
    let length = 0
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return length
      for (let index = 0; index < value.length; index++) {
        if (value[index] !== ((((length + index) % 65536) * 31 + 7) & 255)) {
          throw new Error('byte ' + (length + index) + ' is another one')
        }
      }
      length += value.length
    }
  },
}
"""

seen = []
lock = threading.Lock()
heard = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def note(self):
        with lock:
            seen.append({"line": self.requestline, "headers": list(self.headers.items())})

    def answer(self, body, content_type="text/plain", status=200, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/seen":
            with lock:
                body = json.dumps(seen).encode()
            return self.answer(body, "application/json")
        self.note()
        if path == "/":
            return self.answer(PAGE, "text/html")
        if path == "/assets/site.css":
            return self.answer(STYLE, "text/css")
        if path == "/assets/site.js":
            return self.answer(SCRIPT, "text/javascript")
        if path == "/assets/picture.svg":
            return self.answer(PICTURE, "image/svg+xml")
        if path == "/data.json":
            return self.answer(json.dumps({"path": self.path}).encode(), "application/json")
        if path == "/empty":
            return self.answer(b"<!doctype html><title>empty</title>", "text/html")
        if path == "/cookies":
            cookies = ["wide=1; Domain=localhost; Path=/", "own=1; Path=/"]
            return self.answer(b"set", headers=[("Set-Cookie", cookie) for cookie in cookies])
        if path == "/download":
            return self.download()
        if path == "/events":
            return self.events()
        if path == "/socket":
            return self.socket()
        return self.answer(b"nothing here", status=404)

    def do_POST(self):
        self.note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(str(len(body)).encode())

    def download(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(DOWNLOAD))
        self.end_headers()
        for _ in range(DOWNLOAD // len(BLOCK)):
            self.wfile.write(BLOCK)

    def events(self):
        # Each is sent when the one before has been fetched over, so they cannot come in one piece.
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(3):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
        heard.wait(30)
        self.close_connection = True

    def socket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            length = head[1] & 127
            if length == 126:
                (length,) = struct.unpack("!H", self.rfile.read(2))
            mask = self.rfile.read(4)
            data = bytes(
                byte ^ mask[index % 4] for index, byte in enumerate(self.rfile.read(length))
            )
            kind = head[0] & 15
            if kind == 8:
                self.wfile.write(bytes([0x88, len(data)]) + data)
                return
            if kind == 1:
                self.wfile.write(bytes([0x81, len(data)]) + data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    with open(sys.argv[2] + ".new", "w") as file:
        file.write(str(server.server_address[1]))
    os.rename(sys.argv[2] + ".new", sys.argv[2])
    server.serve_forever()
