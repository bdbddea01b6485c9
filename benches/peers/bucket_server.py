"""An S3 service for the benchmarks: s3s-fs, on files, and a relay in front of it that counts requests and holds
answers back."""

import asyncio
import subprocess
import threading
from pathlib import Path

from common import free_port, until

BUCKET = "backups"
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_EC2_METADATA_DISABLED": "true"}
SERVER = Path(__file__).resolve().parents[2] / ".deps/s3s-fs/bin/s3s-fs"


class Bucket:
    """The service with an empty bucket, until the script ends."""

    def __init__(self, scratch):
        if not SERVER.exists():
            raise SystemExit(f"error: {SERVER} is missing\nhint: scripts/install-s3s-fs.sh")
        root = scratch.dir("bucket")
        (root / BUCKET).mkdir()
        self.port = free_port()
        self.process = subprocess.Popen(
            [SERVER, "--host", "127.0.0.1", "--port", str(self.port), "--access-key", KEYS["AWS_ACCESS_KEY_ID"],
             "--secret-key", KEYS["AWS_SECRET_ACCESS_KEY"], root],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        until("the service to listen", lambda: listens(self.port))

    def url(self, prefix, port=None):
        return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port or self.port}"

    def stop(self):
        self.process.kill()
        self.process.wait()


def listens(port):
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Relay:
    """Counts the requests that pass to `port`, and holds back what is answered by `latency` seconds."""

    def __init__(self, port, latency):
        self.target, self.latency, self.requests = port, latency, 0
        self.port = free_port()
        threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True).start()
        until("the relay to listen", lambda: listens(self.port))

    async def serve(self):
        server = await asyncio.start_server(self.relay, "127.0.0.1", self.port, limit=1 << 20)
        await server.serve_forever()

    async def relay(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 20)
        answers = asyncio.create_task(self.answers(there, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                back.write(head)
                length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                left = int(length[0]) if length else 0
                while left > 0:
                    piece = await reader.read(min(left, 1 << 18))
                    if not piece:
                        return
                    left -= len(piece)
                    back.write(piece)
                    await back.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answers.cancel()
            back.close()
            writer.close()

    async def answers(self, there, writer):
        """Each piece comes later by the latency, and they follow one another as they came."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue(256)

        async def pass_on():
            while piece_due := await queue.get():
                due, piece = piece_due
                await asyncio.sleep(max(0, due - loop.time()))
                writer.write(piece)
                await writer.drain()
            writer.close()

        passing = asyncio.create_task(pass_on())
        try:
            while piece := await there.read(1 << 18):
                await queue.put((loop.time() + self.latency, piece))
            # What the service said before it ended the connection comes first.
            await queue.put(None)
            await passing
        finally:
            passing.cancel()
