"""Commands over a WebSocket, spoken by a client that is not ours, as a browser would."""

import json

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TIMEOUT = 60


def open_socket(server, sandbox):
    url = server.url.replace("http://", "ws://")
    return connect(f"{url}/api/v1/sandboxes/{sandbox.id}/exec/ws", open_timeout=TIMEOUT)


class Talk:
    """The typed dialect."""

    def __init__(self, socket, **start):
        self.socket = socket
        self.seen = ""
        self.say(type="start", **start)
        started = self.hear()
        assert started["type"] == "started" and started["pid"] > 0, started

    def say(self, **frame):
        self.socket.send(json.dumps(frame))

    def hear(self):
        return json.loads(self.socket.recv(timeout=TIMEOUT))

    def until(self, text):
        while text not in self.seen:
            frame = self.hear()
            assert frame["type"] in ("stdout", "stderr"), (frame, self.seen)
            self.seen += frame["data"]
        self.seen = self.seen.split(text, 1)[1]

    def ends(self):
        """The exit; nothing but the close follows it."""
        while (frame := self.hear())["type"] != "exit":
            pass
        with pytest.raises(ConnectionClosed):
            self.socket.recv(timeout=TIMEOUT)
        assert self.socket.close_code == 1000
        return frame


def test_an_interactive_python_is_resized_interrupted_and_ends(server, sandbox):
    with open_socket(server, sandbox) as socket:
        talk = Talk(
            socket, command="/usr/bin/python3 -q", tty=True, cols=91, rows=17, env={"A": "b"}
        )
        talk.until(">>> ")
        talk.say(type="stdin", data="import os, time; print(*os.get_terminal_size())\r")
        talk.until("91 17\r\n")
        talk.say(type="resize", cols=120, rows=40)
        talk.say(
            type="stdin",
            data="while tuple(os.get_terminal_size()) != (120, 40): time.sleep(0.01)\r\r",
        )
        talk.say(type="stdin", data="print('re' + 'sized'); time.sleep(1000)\r")
        talk.until("resized\r\n")
        talk.say(type="signal", name="SIGINT")
        talk.until("KeyboardInterrupt")
        talk.until(">>> ")
        talk.say(type="stdin", data_b64="cHJpbnQoJ+KCrCcqMyk7IGV4aXQoNykN")
        talk.until("€€€\r\n")
        assert talk.ends()["exit_code"] == 7


def test_the_plain_dialect(server, sandbox):
    with open_socket(server, sandbox) as socket:
        socket.send(json.dumps({"command": "echo out; echo err >&2; exit 3"}))
        frames = [json.loads(text) for text in socket]
        assert socket.close_code == 1000
    printed = {stream: "" for stream in ("stdout", "stderr")}
    for frame in frames[:-2]:
        assert set(frame) == {"stream", "data"}, frame
        printed[frame["stream"]] += frame["data"]
    assert printed == {"stdout": "out\n", "stderr": "err\n"}
    assert frames[-2]["type"] == "exit" and frames[-2]["exit_code"] == 3
    assert frames[-1] == {"type": "done"}


@pytest.mark.parametrize("first", ["hello", "{}", '{"type":"nothing"}', b"{}"])
def test_a_bad_first_frame_closes_1007(server, sandbox, first):
    with open_socket(server, sandbox) as socket:
        socket.send(first)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=TIMEOUT)
        assert socket.close_code == 1007
