#!/usr/bin/env bash
# docker-registry (Debian's 2.8.2+ds1-1) and a range that begins where a blob ends.
#
# A client that resumes a download whose last byte is on disk already asks for `bytes=SIZE-`. One expects
# 416 with the length of its own short body (RFC 9110, 15.5.17: the size stands in Content-Range).
# Seen: 416 whose Content-Length is the size of the whole blob, followed by a body of 33 bytes, so that a
# client which reads what was announced waits for bytes that never come, or reports a broken connection.
set -eu

version=2.8.2+ds1-1
work=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

apt-get -o APT::Sandbox::User=root download -q "docker-registry=$version" >/dev/null
dpkg-deb -x docker-registry_*.deb root
mkdir data
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >registry.yml <<END
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/data}}
http: {addr: "127.0.0.1:$port"}
END
root/usr/bin/docker-registry serve registry.yml >registry.log 2>&1 &
server=$!

python3 - "$port" <<'END'
import hashlib
import http.client
import sys
import time

port = int(sys.argv[1])


def ask(method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, headers or {})
    return connection.getresponse()


for _ in range(100):
    try:
        ask("GET", "/v2/").read()
        break
    except OSError:
        time.sleep(0.1)

blob = b"x" * 5000
digest = "sha256:" + hashlib.sha256(blob).hexdigest()
upload = ask("POST", "/v2/a/blobs/uploads/")
upload.read()
place = upload.getheader("Location").split("127.0.0.1:%d" % port)[-1]
stored = ask("PUT", place + "&digest=" + digest, blob, {"Content-Type": "application/octet-stream"})
stored.read()
assert stored.status == 201, stored.status

answer = ask("GET", "/v2/a/blobs/" + digest, headers={"Range": "bytes=%d-" % len(blob)})
announced = int(answer.getheader("Content-Length"))
try:
    body, whole = answer.read(), True
except http.client.IncompleteRead as error:
    body, whole = error.partial, False
print("status %d, announced %d bytes, sent %d" % (answer.status, announced, len(body)))
if answer.status == 416 and announced == len(blob) and not whole and len(body) < announced:
    print("as found: the announced length is the blob's")
else:
    sys.exit("changed: the answer is no longer as it was found")
END
