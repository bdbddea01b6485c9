#!/usr/bin/env python3
"""Captures what PostgreSQL's own clients and server say to each other.

    runuser -u postgres -- ./capture.py [/usr/lib/postgresql/15/bin] OUTPUT_DIRECTORY

Makes a server in a temporary directory, puts a proxy on a Unix socket before it, and
runs psql, pg_receivewal and pg_basebackup through the proxy. For each case it writes

    client.bin     what the client sent
    server.bin     what the server sent
    messages.txt   both, one line per message, in order of arrival

The lines are made by the decoder below, which shares nothing with pitr's: the tests
hold the two against each other.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

BIN = sys.argv[1] if len(sys.argv) > 2 else "/usr/lib/postgresql/15/bin"
OUT = sys.argv[-1]
WORK = tempfile.mkdtemp(prefix="wire-")
PORT = 5999
PASSWORD = "fixture"
CASE_BYTES_MAX = 60_000


def text(value):
    return value.decode("utf-8", "backslashreplace")


def report(body):
    fields = {f[:1]: text(f[1:]) for f in body.rstrip(b"\0").split(b"\0")}
    return f"{fields[b'V']} {fields[b'C']} {fields[b'M']}"


def row(body):
    (count,), at, values = struct.unpack(">H", body[:2]), 2, []
    for _ in range(count):
        (size,) = struct.unpack(">i", body[at : at + 4])
        at += 4
        values.append("null" if size < 0 else repr(text(body[at : at + size]))[1:-1])
        at += max(size, 0)
    return " | ".join(values)


def columns(body):
    (count,), at, names = struct.unpack(">H", body[:2]), 2, []
    for _ in range(count):
        end = body.index(b"\0", at)
        names.append(text(body[at:end]))
        at = end + 19
    return " | ".join(names)


def copy_data(body, base_backup):
    kind = body[:1]
    if not base_backup and kind == b"w":
        start, end, when = struct.unpack(">QQq", body[1:25])
        return f"XLogData {start:X} end {end:X} at {when} with {len(body) - 25} bytes"
    if not base_backup and kind == b"k" and len(body) == 18:
        end, when, reply = struct.unpack(">QqB", body[1:])
        return f"Keepalive {end:X} at {when} reply {reply}"
    if not base_backup and kind == b"r" and len(body) == 34:
        write, flush, apply, _, reply = struct.unpack(">QQQqB", body[1:])
        return f"StatusUpdate write {write:X} flush {flush:X} apply {apply:X} reply {reply}"
    return f"CopyData {kind.decode('latin-1')} with {len(body)} bytes"


def authentication(body):
    (code,) = struct.unpack(">i", body[:4])
    names = {0: "Ok", 10: "Sasl", 11: "SaslContinue", 12: "SaslFinal"}
    return f"Authentication {names[code]}"


SERVER = {
    b"R": lambda b: authentication(b),
    b"S": lambda b: "ParameterStatus " + "=".join(text(p) for p in b.split(b"\0")[:2]),
    b"K": lambda b: "BackendKeyData",
    b"Z": lambda b: "ReadyForQuery",
    b"T": lambda b: "RowDescription " + columns(b),
    b"D": lambda b: "DataRow " + row(b),
    b"C": lambda b: "CommandComplete " + text(b[:-1]),
    b"H": lambda b: "CopyOut",
    b"W": lambda b: "CopyBoth",
    b"c": lambda b: "CopyDone",
    b"E": lambda b: "Error " + report(b),
    b"N": lambda b: "Notice " + report(b),
}
CLIENT = {
    b"p": lambda b: "Password or SASL",
    b"Q": lambda b: "Query " + text(b[:-1]),
    b"X": lambda b: "Terminate",
    b"c": lambda b: "CopyDone",
}


class Proxy:
    """Passes one connection on at a time and writes down whole messages."""

    def __init__(self, upstream, base_backup=False):
        self.dir = tempfile.mkdtemp(prefix="proxy-", dir=WORK)
        self.upstream = f"{upstream}/.s.PGSQL.{PORT}"
        self.base_backup = base_backup
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.dir}/.s.PGSQL.{PORT}")
        self.listener.listen()
        self.bytes = {"<": b"", ">": b""}
        self.lines = []
        self.lock = threading.Lock()
        self.full = False
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            for way, one, other in ((">", client, server), ("<", server, client)):
                threading.Thread(target=self.pump, args=(way, one, other), daemon=True).start()

    def pump(self, way, one, other):
        pending, untagged = b"", way == ">"
        try:
            while data := one.recv(65536):
                pending += data
                while True:
                    head = 4 if untagged else 5
                    if len(pending) < head:
                        break
                    size = struct.unpack(">I", pending[head - 4 : head])[0] + head - 4
                    if len(pending) < size:
                        break
                    self.note(way, pending[:size], pending[head:size], untagged)
                    pending, untagged = pending[size:], False
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def note(self, way, message, body, untagged):
        tag = message[:1]
        with self.lock:
            if self.full:
                return
            if len(self.bytes[way]) + len(message) > CASE_BYTES_MAX:
                self.full = True
                self.lines.append("the rest was cut off")
                return
            if untagged:
                line = "Startup " + " ".join(text(p) for p in body[4:].split(b"\0") if p)
            elif tag == b"d":
                line = copy_data(body, self.base_backup)
            else:
                line = (SERVER if way == "<" else CLIENT)[tag](body)
            self.bytes[way] += message
            self.lines.append(f"{way} {line}")

    def save(self, case):
        time.sleep(0.3)
        directory = os.path.join(OUT, case)
        os.makedirs(directory, exist_ok=True)
        with self.lock:
            for name, way in (("client.bin", ">"), ("server.bin", "<")):
                with open(os.path.join(directory, name), "wb") as file:
                    file.write(self.bytes[way])
            with open(os.path.join(directory, "messages.txt"), "w", encoding="utf-8") as file:
                file.write("\n".join(self.lines) + "\n")


ENV = dict(os.environ, PGPASSWORD=PASSWORD, PGUSER="postgres", PGPORT=str(PORT), PGSSLMODE="disable", LC_ALL="C")


def run(*command, check=True):
    done = subprocess.run([os.path.join(BIN, command[0]), *command[1:]], env=ENV, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def server(name):
    directory = os.path.join(WORK, name)
    # Not in the data directory: a base backup would copy the socket's lock file.
    sockets = os.path.join(WORK, f"{name}-sockets")
    os.mkdir(sockets)
    with open(f"{directory}/postgresql.conf", "a", encoding="utf-8") as file:
        file.write(
            f"listen_addresses=''\nport={PORT}\nunix_socket_directories='{sockets}'\nautovacuum=off\n"
            "wal_sender_timeout='2s'\nbgwriter_delay='10s'\nfsync=off\nmin_wal_size='2MB'\nmax_wal_size='2MB'\n"
        )
    log = f"{directory}.log"
    done = subprocess.run([os.path.join(BIN, "pg_ctl"), "-D", directory, "-l", log, "-w", "start"],
                          stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        with open(log, encoding="utf-8") as file:
            sys.exit(file.read())
    return sockets


def sql(host, statement):
    return run("psql", "-X", "-h", host, "-d", "postgres", "-Atqc", statement)


def ask(host, *statements):
    commands = [part for s in statements for part in ("-c", s)]
    run("psql", "-X", f"host={host} dbname=postgres replication=true", *commands, check=False)


def receive(host, *options):
    wal = tempfile.mkdtemp(prefix="wal-", dir=WORK)
    command = [os.path.join(BIN, "pg_receivewal"), "-h", host, "-D", wal, "--no-loop", "-s", "1", *options]
    return subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL)


def main():
    primary_dir, standby_dir = os.path.join(WORK, "primary"), os.path.join(WORK, "standby")
    with open(f"{WORK}/password", "w", encoding="utf-8") as file:
        file.write(PASSWORD)
    run("initdb", "-D", primary_dir, "-A", "scram-sha-256", f"--pwfile={WORK}/password", "-U", "postgres",
        "--wal-segsize=1", "-k", "-E", "UTF8", "--locale=C")
    primary = server("primary")

    proxy = Proxy(primary)
    ask(proxy.dir, "IDENTIFY_SYSTEM", "SHOW wal_segment_size")
    proxy.save("login_and_identify")

    proxy = Proxy(primary)
    ask(proxy.dir, 'CREATE_REPLICATION_SLOT "pitr" PHYSICAL RESERVE_WAL', 'READ_REPLICATION_SLOT "pitr"',
        'READ_REPLICATION_SLOT "absent"', 'CREATE_REPLICATION_SLOT "pitr" PHYSICAL', 'DROP_REPLICATION_SLOT "pitr"')
    proxy.save("slots")

    # psql leaves when a copy begins, so each of these gets a session of its own.
    proxy = Proxy(primary)
    for statement in ("START_REPLICATION PHYSICAL 7F/0 TIMELINE 1", "START_REPLICATION PHYSICAL 0/0 TIMELINE 9",
                      "TIMELINE_HISTORY 9", 'START_REPLICATION SLOT "absent" PHYSICAL 0/1000000 TIMELINE 1', "NONSENSE"):
        ask(proxy.dir, statement)
    proxy.save("refusals")

    for _ in range(6):
        sql(primary, "CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1); SELECT pg_switch_wal(); CHECKPOINT")
    proxy = Proxy(primary)
    ask(proxy.dir, "START_REPLICATION PHYSICAL 0/100000 TIMELINE 1")
    proxy.save("log_already_removed")

    # A fresh WAL file and a fresh slot, so that the stream begins with few bytes.
    sql(primary, "SELECT pg_switch_wal()")
    sql(primary, "CHECKPOINT")
    sql(primary, "SELECT pg_switch_wal()")
    proxy = Proxy(primary)
    client = receive(proxy.dir)
    time.sleep(1)
    sql(primary, "INSERT INTO t SELECT generate_series(1, 100)")
    time.sleep(3)
    client.terminate()
    client.wait()
    proxy.save("stream_and_keepalives")

    run("pg_basebackup", "-h", primary, "-D", standby_dir, "-R", "-c", "fast")
    standby = server("standby")
    proxy = Proxy(standby)
    client = receive(proxy.dir)
    time.sleep(1)
    sql(primary, "INSERT INTO t SELECT generate_series(1, 10)")
    time.sleep(1)
    run("pg_ctl", "-D", standby_dir, "-w", "promote")
    time.sleep(2)
    client.terminate()
    client.wait()
    proxy.save("timeline_ends")

    proxy = Proxy(primary)
    client = receive(proxy.dir)
    time.sleep(1)
    stopping = subprocess.Popen([os.path.join(BIN, "pg_ctl"), "-D", primary_dir, "-m", "fast", "-w", "stop"],
                                env=ENV, stdout=subprocess.DEVNULL)
    stopping.wait()
    client.wait()
    proxy.save("shutdown_while_streaming")

    subprocess.run([os.path.join(BIN, "pg_ctl"), "-D", primary_dir, "-l", f"{primary_dir}.log", "-w", "start"],
                   stdout=subprocess.DEVNULL, check=True)
    proxy = Proxy(primary, base_backup=True)
    run("pg_basebackup", "-h", proxy.dir, "-D", f"{WORK}/base", "-Ft", "-X", "none", "-c", "fast", "-l", "a label")
    proxy.save("base_backup_begins")
    subprocess.run(["zstd", "-q19f", f"{WORK}/base/backup_manifest",
                    "-o", os.path.join(OUT, "base_backup_begins", "backup_manifest.zst")], check=True)

    proxy = Proxy(primary, base_backup=True)
    run("pg_basebackup", "-h", proxy.dir, "-D", f"{WORK}/compressed", "-Ft", "-X", "none", "-c", "fast",
        "--compress=server-lz4:1")
    proxy.save("base_backup_compressed")


try:
    main()
finally:
    for name in ("primary", "standby"):
        run("pg_ctl", "-D", os.path.join(WORK, name), "-m", "immediate", "stop", check=False)
    shutil.rmtree(WORK, ignore_errors=True)
