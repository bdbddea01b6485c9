"""What the MySQL and MariaDB benchmarks share besides common.py: throwaway servers,
sysbench, and pitr as their archiver.

Servers are those of the tests: MariaDB 10.11 (the system's, or .deps/mariadb-10.11) and
MySQL 9.7 (.deps/mysql-9.7); scripts/install-mysql.sh --all --bench brings both and sysbench.
"""

import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from common import REPOSITORY, as_server_user, client_env, find_pitr, free_port, measured, must, server_user, until

USER, PASSWORD = "bench", "bench"
SYSBENCH_TABLES = 8


class Make:
    """`mariadb-10.11` or `mysql-9.7`."""

    def __init__(self, name):
        self.name = name
        self.is_mariadb = name.startswith("mariadb")
        self.dirs = [REPOSITORY / ".deps" / name / "bin"]
        if self.is_mariadb:
            self.dirs += [Path("/usr/sbin"), Path("/usr/bin")]

    def program(self, name):
        for directory in self.dirs:
            if (directory / name).exists():
                return directory / name
        sys.exit(f"error: {name} of {self.name} is missing\nhint: scripts/install-mysql.sh --all --bench")

    def pick(self, mysql, mariadb):
        return self.program(mariadb if self.is_mariadb else mysql)

    @property
    def bin_dir(self):
        return self.pick("mysqld", "mariadbd").parent

    def version(self):
        return must([self.pick("mysqld", "mariadbd"), "--version"]).split(" Ver ")[1].split(" ")[0]


MARIADB, MYSQL = Make("mariadb-10.11"), Make("mysql-9.7")

# As much memory for data as a small installation gives, and a log that needs no checkpoint
# in the middle of a run.
DEFAULTS = ["--innodb-buffer-pool-size=1G", "--max-allowed-packet=1G", "--max-connections=200", "--skip-name-resolve",
            "--bind-address=127.0.0.1", "--log-bin=binlog", "--binlog-format=ROW"]
MARIADB_DEFAULTS = ["--innodb-log-file-size=2G", "--log-slave-updates=ON"]
MYSQL_DEFAULTS = ["--innodb-redo-log-capacity=2G", "--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--mysqlx=OFF",
                  "--secure-file-priv="]

# For a server that only makes data: nobody cuts its power.
LOADING = ["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--innodb-doublewrite=0"]


class Server:
    """A server of a benchmark's own, with its settings on its command line."""

    last_id = 100

    def __init__(self, scratch, name, make, data=None, options=()):
        self.scratch, self.name, self.make, self.options = scratch, name, make, list(options)
        self.log = scratch.path / f"{name}.log"
        self.run = scratch.dir(f"{name}.run")
        self.socket = self.run / "socket"
        self.port = free_port()
        Server.last_id += 1
        self.server_id = Server.last_id
        self.process = None
        scratch.clusters.append(self)
        self.data = data if data is not None else self.initialise()

    def initialise(self):
        data = self.scratch.dir(self.name)
        if self.make.is_mariadb:
            must([self.make.program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db",
                  "--auth-root-authentication-method=normal"], drop_rights=True)
        else:
            must([self.make.program("mysqld"), "--no-defaults", "--initialize-insecure", f"--datadir={data}"],
                 drop_rights=True)
        return data

    def start(self, *more):
        own = MARIADB_DEFAULTS if self.make.is_mariadb else MYSQL_DEFAULTS
        command = [self.make.pick("mysqld", "mariadbd"), "--no-defaults", f"--datadir={self.data}",
                   f"--socket={self.socket}", f"--port={self.port}", f"--server-id={self.server_id}",
                   f"--pid-file={self.run}/pid", f"--tmpdir={self.run}", *DEFAULTS, *own, *self.options, *more]
        output = open(self.log, "ab")
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output,
                                        stderr=output, **as_server_user())

        def answers():
            if self.process.poll() is not None:
                sys.exit(f"error: {self.name} ended:\n{self.log.read_text(errors='replace')[-3000:]}")
            return subprocess.run([*self.client(), "-e", "do 1"], capture_output=True).returncode == 0

        until(f"{self.name} to answer", answers)
        return self

    def stop(self, mode="fast"):
        if self.process:
            self.process.send_signal(signal.SIGKILL if mode == "immediate" else signal.SIGTERM)
            self.process.wait()
            self.process = None

    def client(self):
        return [str(self.make.pick("mysql", "mariadb")), "--no-defaults", "--user=root", f"--socket={self.socket}", "-N", "-B",
                "--max-allowed-packet=1G"]

    def sql(self, statements):
        done = subprocess.run(self.client(), input=statements, capture_output=True, text=True, env=client_env())
        if done.returncode != 0:
            sys.exit(f"error: {done.stderr}\nwhile running: {statements[:300]}")
        return done.stdout.strip()

    def make_account(self):
        """One account for pitr, for sysbench and for the peers, over TCP."""
        self.sql(f"create user {USER}@'%' identified by '{PASSWORD}'; grant all on *.* to {USER}@'%'; create database sbtest")
        return self

    def url(self):
        scheme = "mariadb" if self.make.is_mariadb else "mysql"
        return f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    def url_by_socket(self):
        """As `url`, for who stands on the same machine."""
        return self.url().replace(f"127.0.0.1:{self.port}/", f"/?socket={self.socket}")

    def remote(self):
        """How the peers reach it: options of every client program."""
        return ["--no-defaults", "--host=127.0.0.1", f"--port={self.port}", f"--user={USER}", f"--password={PASSWORD}"]

    def logs(self):
        """Names and sizes of the binlog files."""
        rows = [line.split("\t") for line in self.sql("show binary logs").splitlines()]
        return [(row[0], int(row[1])) for row in rows]

    def log_bytes(self):
        return sum(size for _, size in self.logs())

    def dumps(self):
        """How many clients read the binlog."""
        return int(self.sql("select count(*) from information_schema.processlist where command like 'Binlog Dump%'"))

    def end_dumps(self):
        """Ends those whose clients are gone: the server itself finds out when it next sends."""
        ids = self.sql("select id from information_schema.processlist where command like 'Binlog Dump%'").split()
        for number in ids:
            subprocess.run([*self.client(), "-e", f"kill {number}"], capture_output=True)
        until("the archive to be gone", lambda: self.dumps() == 0)

    def gtid_position(self):
        variable = "gtid_binlog_pos" if self.make.is_mariadb else "gtid_executed"
        return self.sql(f"select replace(@@global.{variable}, '\\n', '')")

    def checksums(self):
        tables = self.sql("select group_concat('`', table_schema, '`.`', table_name, '`' order by 1) from"
                          " information_schema.tables where table_schema = 'sbtest'")
        return self.sql(f"checksum table {tables} extended")

    def sysbench(self, script, command, *words):
        """Runs sysbench over the Unix socket and gives what it printed."""
        if subprocess.run(["which", "sysbench"], capture_output=True).returncode:
            sys.exit("error: sysbench is missing\nhint: scripts/install-mysql.sh --bench")
        # As the account, since its own client library may not know root's way in.
        return must(["sysbench", script, f"--mysql-socket={self.socket}", f"--mysql-user={USER}",
                     f"--mysql-password={PASSWORD}", "--mysql-db=sbtest", f"--tables={SYSBENCH_TABLES}", *words, command])

    def make_tables(self, gigabytes):
        """sysbench's tables of about that size together, 240 bytes a row; they leave no log."""
        rows = max(int(gigabytes * 1e9 / SYSBENCH_TABLES / 240), 1000)
        self.sysbench("oltp_write_only", "prepare", f"--table-size={rows}", "--threads=2")
        self.sql("reset master" if self.make.is_mariadb else "reset binary logs and gtids")
        self.rows = rows

    def write_only(self, *words, clients=8):
        """sysbench's small transactions of four statements; gives commits per second."""
        said = self.sysbench("oltp_write_only", "run", f"--table-size={self.rows}", f"--threads={clients}", *words)
        return float(re.search(r"transactions: +\d+ +\(([0-9.]+) per sec", said).group(1))

    def write_log(self, amount):
        """Writes that many bytes of binlog with such transactions."""
        begin = self.log_bytes()
        while self.log_bytes() - begin < amount:
            self.write_only("--time=3", "--rand-seed=%d" % int(time.monotonic() * 1000))
        return self.log_bytes() - begin


class Pitr:
    """pitr with a store of its own, archiving from that server."""

    def __init__(self, scratch, server, store):
        self.scratch, self.server = scratch, server
        self.store = scratch.path / store
        self.log = scratch.path / f"{store}.log"
        self.env = client_env(PITR_STORE=self.store, PITR_SOURCE=server.url())
        self.env.pop("MYSQL_PWD", None)
        self.binary = find_pitr()

    def must(self, *words):
        return must([self.binary, *words], env=self.env)

    def measured(self, *words):
        return measured([self.binary, *words], self.log, env=self.env)

    def start(self, *words):
        output = open(self.log, "ab")
        return subprocess.Popen([str(w) for w in (self.binary, *words)], stdin=subprocess.DEVNULL, stdout=output,
                                stderr=output, env=self.env)

    def restore_words(self, to):
        user = server_user()
        return ["--to", to, "--bin-dir", self.server.make.bin_dir, *([] if user is None else ["--os-user", user.pw_name])]


@contextmanager
def archiving(pitr, *words):
    """The archiver, following the log until the block ends."""
    child = pitr.start("archive", "--no-backup", *words)
    until("the archive to follow", lambda: pitr.server.dumps() == 1)
    yield child
    child.send_signal(signal.SIGINT)
    if child.wait(60) != 0:
        sys.exit(f"error: pitr archive ended with {child.returncode}; see {pitr.log}")
    pitr.server.end_dumps()


def shell(text):
    """A pipeline that fails when any of its parts does."""
    return ["bash", "-c", f"set -euo pipefail; {text}"]


def remove(path):
    """Deletes what a server's user may own."""
    must(["rm", "-rf", path])
