#!/usr/bin/env python3
"""Records what a client and a server say to each other, through a proxy.

    capture_login.py CASE_DIR SERVER_PORT CLIENT ARG...

CLIENT is run with `--host=127.0.0.1 --port=PROXY` added. Writes client.bin, server.bin and
messages.txt: one line per packet, in order of arrival, `>` client, `<` server, then the
frame's sequence number and what the packet is. The decoder shares nothing with pitr's.
"""
import pathlib
import socket
import subprocess
import sys
import threading

KINDS = {0x00: "ok", 0x01: "more data", 0xFE: "switch or end", 0xFF: "error"}


def main():
    case, port, command = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    listener = socket.create_server(("127.0.0.1", 0))
    messages, lock = [], threading.Lock()

    def pump(source, sink, way):
        pending = b""
        while data := source.recv(65536):
            pending += data
            # Recorded before it is passed on: the answer cannot overtake it.
            while len(pending) >= 4 and len(pending) >= 4 + (size := int.from_bytes(pending[:3], "little")):
                with lock:
                    messages.append((way, pending[: 4 + size]))
                pending = pending[4 + size :]
            sink.sendall(data)
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve():
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        back = threading.Thread(target=pump, args=(server, client, "<"))
        back.start()
        pump(client, server, ">")
        back.join()

    proxy = threading.Thread(target=serve)
    proxy.start()
    ours = [f"--host=127.0.0.1", f"--port={listener.getsockname()[1]}"]
    subprocess.run(command + ours, stdin=subprocess.DEVNULL, timeout=30)
    proxy.join(10)

    case.mkdir(parents=True, exist_ok=True)
    for way, name in ((">", "client.bin"), ("<", "server.bin")):
        (case / name).write_bytes(b"".join(m for w, m in messages if w == way))
    lines = []
    for way, message in messages:
        payload = message[4:]
        if way == "<":
            first = payload[0] if payload else None
            kind = f"greeting {payload[1:payload.index(0, 1)].decode()}" if first == 10 else KINDS.get(first, "data")
        else:
            kind = "data"
        lines.append(f"{way} {message[3]} {kind}, {len(payload)} bytes\n")
    (case / "messages.txt").write_text("".join(lines))


main()
