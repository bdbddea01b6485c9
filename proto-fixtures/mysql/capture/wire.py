#!/usr/bin/env python3
"""Captures what a MySQL or MariaDB server and its own clients and replicas say to each other.

    ./wire.py mariadb/10.11|mysql/9.7 OUTPUT_DIRECTORY [CASE]...

Puts a relay before a real server and runs the stock client, binlog reader and a real replica
through it, without TLS. For each case it writes

    client.bin.zst  what the client sent
    server.bin.zst  what the server sent
    messages.txt    both, one line per packet, in order of arrival

The lines are made by the decoder below, which shares nothing with pitr's: the tests hold the
two against each other. The functions at the end are the cases; their docstrings say what a
case shows.
"""

import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from server import Make, Server, finish, new_dir, run

USER, PASSWORD = "replica", "fixture"
COMMANDS = {1: "Quit", 2: "InitDb", 3: "Query", 0x0E: "Ping", 0x12: "BinlogDump", 0x15: "RegisterSlave", 0x1E: "BinlogDumpGtid"}
DEPRECATE_EOF, QUERY_ATTRIBUTES = 1 << 24, 1 << 27


def text(value):
    return value.decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\t", "\\t")


def until_zero(body, at):
    end = body.index(b"\0", at)
    return body[at:end], end + 1


def length_encoded(body, at):
    """The bytes at that place, None for null, and where the next begin."""
    first = body[at]
    if first == 0xFB:
        return None, at + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    size = int.from_bytes(body[at + 1 : at + 1 + width], "little") if width else first
    begin = at + 1 + width
    return body[begin : begin + size], begin + size


def event(body):
    when, kind, server_id, size, end, flags = struct.unpack("<IBIIIH", body[:19])
    more = ""
    if kind == 4:
        more = f" to {text(body[27:27 + 13])}"
    return f"Event type {kind} size {size} at {end} flags {flags:#x} time {when} server {server_id}{more}"


class Session:
    """The state of one connection, for decoding."""

    def __init__(self):
        self.phase = "greeting"
        self.columns = 0
        self.capabilities = 0
        self.semi_sync = False

    def client(self, body):
        if self.phase == "login":
            (self.capabilities,) = struct.unpack("<I", body[:4])
            self.phase = "auth"
            if len(body) == 32:
                return f"SslRequest capabilities {self.capabilities:#x}"
            user, at = until_zero(body, 32)
            answer, at = length_encoded(body, at)
            more = body[at:].split(b"\0")
            return f"Login user {text(user)} capabilities {self.capabilities:#x} answer {len(answer)} bytes {text(more[0])}"
        if self.phase == "auth":
            return f"AuthAnswer {len(body)} bytes"
        if self.phase == "dump" and body[:1] == b"\xef":
            (position,) = struct.unpack("<Q", body[1:9])
            return f"SemiSyncAck {text(body[9:].rstrip(bytes(1)))}:{position}"
        name = COMMANDS.get(body[0], f"Command {body[0]:#x}")
        self.phase = "answer"
        if body[0] == 3:
            # With query attributes the statement follows their count, 0, and the count of their sets, 1.
            statement = body[3:] if self.capabilities & QUERY_ATTRIBUTES else body[1:]
            if b"@rpl_semi_sync" in statement:
                self.semi_sync = True
            return f"{name} {text(statement)}"
        if body[0] == 0x12:
            position, flags, server_id = struct.unpack("<IHI", body[1:11])
            self.phase = "dump"
            return f"{name} {text(body[11:])}:{position} flags {flags:#x} server {server_id}"
        if body[0] == 0x1E:
            flags, server_id, size = struct.unpack("<HII", body[1:11])
            position, data = struct.unpack("<QI", body[11 + size : 23 + size])
            self.phase = "dump"
            return f"{name} {text(body[11:11 + size])!r}:{position} flags {flags:#x} server {server_id} set of {data} bytes"
        if body[0] == 0x15:
            return f"{name} server {struct.unpack('<I', body[1:5])[0]} {text(body[5:])!r}"
        return name

    def server(self, body):
        if self.phase == "greeting":
            self.phase = "login"
            version, at = until_zero(body, 1)
            return f"Greeting protocol {body[0]} version {text(version)} plugin {text(body.rstrip(bytes(1)).split(bytes(1))[-1])}"
        kind = body[0]
        if kind == 0xFF:
            self.phase = "command"
            (code,) = struct.unpack("<H", body[1:3])
            return f"Error {code} {text(body[3:])}"
        if self.phase == "auth":
            if kind == 0:
                self.phase = "command"
                return "Ok"
            if kind == 0xFE:
                return f"AuthSwitch {text(until_zero(body, 1)[0])}"
            return f"AuthMore {body[1]:#x}" if len(body) == 2 else f"AuthMore {len(body) - 1} bytes"
        if self.phase == "dump":
            if kind == 0xFE and len(body) < 9:
                self.phase = "command"
                return "Eof"
            if self.semi_sync and body[1:2] == b"\xef":
                return f"SemiSync wants {body[2]} " + event(body[3:])
            return event(body[1:])
        if self.phase == "answer":
            if kind == 0:
                self.phase = "command"
                return "Ok"
            self.columns = kind
            self.phase = "columns"
            return f"ColumnCount {kind}"
        if self.phase == "columns":
            if self.columns:
                self.columns -= 1
                at, values = 0, []
                for _ in range(6):
                    value, at = length_encoded(body, at)
                    values.append(text(value))
                if not self.columns and self.capabilities & DEPRECATE_EOF:
                    self.phase = "rows"
                return f"Column {values[4]}"
            self.phase = "rows"
            return "Eof"
        if kind == 0xFE and len(body) < 0xFFFFFF:
            self.phase = "command"
            return "Ok after rows" if self.capabilities & DEPRECATE_EOF else "Eof"
        at, values = 0, []
        while at < len(body):
            value, at = length_encoded(body, at)
            values.append("null" if value is None else text(value))
        return "Row " + " | ".join(values)


class Relay:
    """Passes connections on and writes down whole packets."""

    def __init__(self, server):
        self.upstream = server.port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.bytes = {"<": bytearray(), ">": bytearray()}
        self.lines, self.lock, self.sockets = [], threading.Lock(), []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream))
            except ConnectionRefusedError:
                client.close()
                continue
            self.sockets += [client, server]
            session = Session()
            for way, one, other in ((">", client, server), ("<", server, client)):
                threading.Thread(target=self.pump, args=(session, way, one, other), daemon=True).start()

    def pump(self, session, way, one, other):
        pending, parts = bytearray(), bytearray()
        try:
            while data := one.recv(1 << 20):
                pending += data
                while len(pending) >= 4:
                    size = int.from_bytes(pending[:3], "little")
                    if len(pending) < 4 + size:
                        break
                    with self.lock:
                        self.bytes[way] += pending[: 4 + size]
                        parts += pending[4 : 4 + size]
                        sequence = pending[3]
                        if size == 0xFFFFFF:
                            self.lines.append(f"{way} {sequence} (16777215 bytes, more to come)")
                        else:
                            body = bytes(parts)
                            said = session.client(body) if way == ">" else session.server(body)
                            self.lines.append(f"{way} {sequence} {said}")
                            parts.clear()
                    del pending[: 4 + size]
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def wait(self, words, count=1, seconds=30):
        """Waits until that many lines hold those words."""
        deadline = time.monotonic() + seconds
        while True:
            with self.lock:
                if sum(words in line for line in self.lines) >= count:
                    return
                so_far = "\n".join(self.lines[-20:])
            if time.monotonic() > deadline:
                sys.exit(f"error: no {count} x {words!r} within {seconds} s; the last lines were\n{so_far}")
            time.sleep(0.02)

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.listener.close()
        for one in self.sockets:
            one.close()
        with self.lock:
            for name, way in (("client.bin", ">"), ("server.bin", "<")):
                run("zstd", "-q", "-19", "-f", "-o", directory / f"{name}.zst", stdin=bytes(self.bytes[way]))
            (directory / "messages.txt").write_text("\n".join(line[:400] for line in self.lines) + "\n")


class Actor:
    """The server, and how its own programs reach it through a relay."""

    def __init__(self, make):
        self.make, self.replica = make, None
        semi_sync = ["--rpl-semi-sync-master-enabled=ON"] if make.is_mariadb else \
            ["--plugin-load-add=semisync_source.so", "--rpl-semi-sync-source-enabled=ON"]
        self.server = Server(make, "--max-allowed-packet=1G", *semi_sync)
        self.server.sql(f"create user {USER}@'%' identified by '{PASSWORD}';"
                        f"grant replication slave, replication client on *.* to {USER}@'%'; create database d;"
                        "create table d.t (id int primary key auto_increment, v longblob)")
        # A role's name in both makes' statements.
        self.word = ("master", "slave") if make.is_mariadb else ("source", "replica")

    def account(self, relay, user=USER, password=PASSWORD):
        plain = ["--skip-ssl"] if self.make.is_mariadb else ["--ssl-mode=DISABLED", "--get-server-public-key"]
        return ["--no-defaults", "-h127.0.0.1", f"-P{relay.port}", f"-u{user}", f"-p{password}", *plain]

    def client(self, relay, statement, **account):
        program = self.make.pick("mysql", "mariadb")
        return subprocess.run([program, *self.account(relay, **account), "-N", "-e", statement], capture_output=True)

    def reader(self, relay, *words):
        program = self.make.pick("mysqlbinlog", "mariadb-binlog")
        return subprocess.Popen([program, *self.account(relay), "--read-from-remote-server", "--raw",
                                 f"--result-file={new_dir('raw')}/", *map(str, words)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fresh_log(self):
        """One file, with one transaction."""
        self.server.reset()
        self.insert()

    def insert(self, value="'a'"):
        self.server.sql(f"insert into d.t (v) values ({value})")

    def follow(self, relay, *options, settings=""):
        self.replica = Server(self.make, *options, server_id=2)
        if self.make.is_mariadb:
            self.replica.sql(f"""{settings} change master to master_host='127.0.0.1', master_port={relay.port},
                master_user='{USER}', master_password='{PASSWORD}', master_ssl=0, master_use_gtid=slave_pos,
                master_heartbeat_period=1; start slave""")
        else:
            self.replica.sql(f"""{settings} change replication source to source_host='127.0.0.1', source_port={relay.port},
                source_user='{USER}', source_password='{PASSWORD}', source_ssl=0, get_source_public_key=1,
                source_auto_position=1, source_heartbeat_period=1; start replica""")

    def unfollow(self):
        self.replica.sql(f"stop {self.word[1]}")
        self.replica.stop()


def login(actor, relay):
    """The stock client logs in, asks, leaves; twice: caching_sha2's second time is the fast one. Then a wrong
    password."""
    actor.client(relay, "select version(), null, @@server_id")
    actor.client(relay, "do 1")
    actor.client(relay, "select 1", password="wrong")


def binlog_reader_never_stops(actor, relay):
    """mysqlbinlog --raw --stop-never: writes, a rotation; then it is killed."""
    actor.fresh_log()
    reader = actor.reader(relay, "--stop-never", "binlog.000001")
    relay.wait("Event type 16")
    actor.insert()
    relay.wait("Event type 16", 2)
    actor.server.sql("flush binary logs")
    actor.insert("repeat('long', 300)")
    relay.wait("Event type 16", 3)
    reader.kill()
    reader.wait()


def binlog_reader_to_the_end(actor, relay):
    """mysqlbinlog of one file, not blocking: ends with Eof."""
    actor.fresh_log()
    actor.server.sql("flush binary logs")
    actor.reader(relay, "binlog.000001").wait()


def from_the_middle(actor, relay):
    """A start inside a file: the artificial rotate and format description come first."""
    actor.fresh_log()
    where = actor.server.sql("show binary logs").split("\t")[1].split()[0]
    actor.insert()
    actor.reader(relay, f"--start-position={where}", "binlog.000001").wait()


def refusals(actor, relay):
    """What a dump is refused with: a file that is not there, a position past the end, a position inside an event."""
    actor.fresh_log()
    actor.reader(relay, "binlog.999999").wait()
    actor.reader(relay, "--start-position=100000000", "binlog.000001").wait()
    actor.reader(relay, "--start-position=130", "binlog.000001").wait()
    actor.client(relay, "nonsense")


def replica(actor, relay):
    """A real replica by GTID: what it asks first, register, dump, events, heartbeats, a rotation, its end."""
    actor.fresh_log()
    actor.follow(relay)
    relay.wait("Event type 16")
    actor.insert()
    relay.wait("Event type 16", 2)
    relay.wait("Event type 27" if actor.make.is_mariadb else "Event type 41")
    actor.server.sql("flush binary logs")
    actor.insert()
    relay.wait("Event type 16", 3)
    actor.unfollow()


def replica_semi_sync(actor, relay):
    """The same with semi-synchronous replication: every event carries 0xef and a flag; acknowledgements."""
    actor.fresh_log()
    if actor.make.is_mariadb:
        actor.follow(relay, "--rpl-semi-sync-slave-enabled=ON")
    else:
        actor.follow(relay, "--plugin-load-add=semisync_replica.so", "--rpl-semi-sync-replica-enabled=ON")
    relay.wait("Event type 16")
    for _ in range(3):
        actor.insert()
    relay.wait("SemiSyncAck", 3)
    actor.unfollow()


def replica_with_a_position(actor, relay):
    """A replica that has the first two transactions already: GTID set, or @slave_connect_state."""
    actor.fresh_log()
    actor.insert()
    has = actor.server.sql("select @@global.gtid_binlog_pos" if actor.make.is_mariadb else "select @@global.gtid_executed")
    actor.insert()
    word = "gtid_slave_pos" if actor.make.is_mariadb else "gtid_purged"
    actor.follow(relay, settings=f"set global {word} = '{has}';")
    relay.wait("Event type 16")
    actor.unfollow()


def purged(actor, relay):
    """A replica that asks for what the source has deleted: error 1236."""
    actor.fresh_log()
    actor.server.sql("flush binary logs; purge binary logs to 'binlog.000002'")
    actor.insert()
    actor.follow(relay)
    relay.wait("Error 1236")
    actor.unfollow()


def killed_by_a_namesake(actor, relay):
    """A second dump with the same server id and uuid ends the first one."""
    actor.fresh_log()
    readers = []
    for number in (1, 2):
        option = "--stop-never-slave-server-id=7" if actor.make.is_mariadb else "--connection-server-id=7"
        readers.append(actor.reader(relay, "--stop-never", option, "binlog.000001"))
        relay.wait("Event type 16", number)
    time.sleep(0.5)
    for reader in readers:
        reader.kill()
        reader.wait()


def packets_of_16_mib(actor, relay):
    """An event whose packet is exactly 16 MiB - 1 long, so that an empty one follows; and one that is longer."""
    actor.fresh_log()
    actor.insert("repeat('x', 16777000)")
    rows = actor.server.sql("show binlog events").splitlines()
    size = max(int(row.split("\t")[4]) - int(row.split("\t")[1]) for row in rows if "rite_rows" in row)
    # One byte of the packet says that an event follows.
    actor.insert(f"repeat('y', {16777000 + 0xFFFFFF - 1 - size})")
    actor.server.sql("flush binary logs")
    actor.reader(relay, "binlog.000001").wait()


def shutdown_while_streaming(actor, relay):
    """The server shuts down in an orderly way under a replica."""
    actor.fresh_log()
    actor.follow(relay)
    relay.wait("Event type 16")
    actor.server.stop()
    time.sleep(0.3)
    actor.unfollow()


CASES = [login, binlog_reader_never_stops, binlog_reader_to_the_end, from_the_middle, refusals, replica, replica_semi_sync,
         replica_with_a_position, purged, killed_by_a_namesake, packets_of_16_mib, shutdown_while_streaming]


def main():
    make, out, wanted = Make(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    actor = Actor(make)
    for case in CASES:
        if wanted and case.__name__ not in wanted:
            continue
        relay = Relay(actor.server)
        case(actor, relay)
        time.sleep(0.2)
        relay.save(out / case.__name__)
        print(f"{case.__name__}: {len(relay.lines)} packets")


try:
    main()
finally:
    finish()
