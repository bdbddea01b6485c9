"""An S3 service for the benchmarks: one node of Garage, or s3s-fs, which is little more than files; and a relay in front
of it that counts requests and holds answers back.

PITR_BENCH_SERVICE chooses: garage (where it is installed) or s3s-fs. One node, for three on one machine would do all
their work three times at the cost of whoever is measured.
"""

import asyncio
import os
import subprocess
import threading
from pathlib import Path

from common import free_port, until

BUCKET = "backups"
# Garage takes keys of no other form than this.
KEYS = {"AWS_ACCESS_KEY_ID": "GK0123456789abcdef01234567", "AWS_SECRET_ACCESS_KEY": "be" * 32,
        "AWS_EC2_METADATA_DISABLED": "true"}
DEPS = Path(__file__).resolve().parents[2] / ".deps"
PROGRAMS = {"garage": DEPS / "garage/bin/garage", "s3s-fs": DEPS / "s3s-fs/bin/s3s-fs"}


def service():
    """The name of the service."""
    name = os.environ.get("PITR_BENCH_SERVICE") or ("garage" if PROGRAMS["garage"].exists() else "s3s-fs")
    if name not in PROGRAMS:
        raise SystemExit(f"error: PITR_BENCH_SERVICE={name} is neither of {', '.join(PROGRAMS)}")
    if not PROGRAMS[name].exists():
        raise SystemExit(f"error: {PROGRAMS[name]} is missing\nhint: scripts/install-{name}.sh")
    return name


class Bucket:
    """The service with an empty bucket, until the script ends."""

    def __init__(self, scratch):
        self.name = service()
        self.port = free_port()
        root = scratch.path / "bucket"
        root.mkdir(mode=0o700)
        words, env = {"garage": self.garage, "s3s-fs": self.s3s_fs}[self.name](root)
        self.process = subprocess.Popen([PROGRAMS[self.name], *words], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env={**os.environ, **env})
        until("the service to listen", lambda: listens(self.port))

    def s3s_fs(self, root):
        (root / BUCKET).mkdir()
        return ["--host", "127.0.0.1", "--port", str(self.port), "--access-key", KEYS["AWS_ACCESS_KEY_ID"],
                "--secret-key", KEYS["AWS_SECRET_ACCESS_KEY"], root], {}

    def garage(self, root):
        rpc = free_port()
        settings = root / "garage.toml"
        settings.write_text(f"""
metadata_dir = "{root}/meta"
data_dir = "{root}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{KEYS["AWS_SECRET_ACCESS_KEY"]}"

[s3_api]
s3_region = "us-east-1"
api_bind_addr = "127.0.0.1:{self.port}"
""")
        return ["-c", settings, "server", "--single-node", "--default-bucket"], {
            "GARAGE_DEFAULT_BUCKET": BUCKET, "GARAGE_DEFAULT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"],
            "GARAGE_DEFAULT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"], "RUST_LOG": "error"}

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
