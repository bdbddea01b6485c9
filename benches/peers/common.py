"""What the side-by-side benchmarks share: throwaway servers, measured commands,
and one way to print a result.

Only the standard library. Run as root (servers then run as `postgres`) or as an
ordinary user. Everything lives in one scratch directory on disk, removed at the end:
PITR_BENCH_DIR chooses its parent, default /var/tmp.
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def env_number(name, default):
    """A size or count from the environment."""
    return type(default)(os.environ.get(name, default))


ROUNDS = env_number("PITR_BENCH_ROUNDS", 3)


def find_bin_dir():
    candidates = [Path(os.environ.get("PITR_PG_BIN", "/nonexistent")), Path("/usr/lib/postgresql/15/bin")]
    installed = Path("/usr/lib/postgresql")
    if installed.is_dir():
        majors = sorted((d for d in installed.iterdir() if d.name.isdigit()), key=lambda d: -int(d.name))
        candidates += [d / "bin" for d in majors]
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "pg_receivewal").exists():
            return candidate
    sys.exit("error: PostgreSQL's programs are missing\nhint: scripts/install-postgres.sh --bench")


BIN = find_bin_dir()


def find_pitr():
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("PITR_BIN", target / "release" / "pitr"))
    if not path.exists():
        sys.exit(f"error: no release build at {path}\nhint: cargo build --release")
    return path


def server_user():
    """The user that servers and their own tools run as: None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam("postgres")


def as_server_user():
    """Keyword arguments for subprocess that drop root's rights."""
    user = server_user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


class Scratch:
    """A directory that goes away at the end, with the servers in it stopped."""

    def __init__(self):
        parent = os.environ.get("PITR_BENCH_DIR", "/var/tmp")
        self.path = Path(tempfile.mkdtemp(prefix="pitr-bench-", dir=parent))
        self.path.chmod(0o755)
        self.clusters = []
        self.give(self.path)
        atexit.register(self.remove)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def give(self, path):
        user = server_user()
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)

    def dir(self, name):
        path = self.path / name
        path.mkdir(mode=0o700)
        self.give(path)
        return path

    def remove(self):
        for cluster in self.clusters:
            cluster.stop("immediate")
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass
class Cost:
    """What one run of a command took."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def client_env(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PITR_"))}
    env.update(LC_ALL="C", **{k: str(v) for k, v in more.items()})
    return env


TOUCH = """
import mmap, sys
size, piece = int(sys.argv[1]), b"x" * (1 << 20)
with mmap.mmap(-1, size) as memory:
    for _ in range(size >> 20):
        memory.write(piece)
"""


def warm_memory():
    """Touches free memory, and gives it back. A virtual machine's host takes free pages
    away, and giving one again costs up to ten microseconds: whoever ran first after a
    pause would pay for all. PITR_BENCH_WARM_GB (4), at most half of what is free."""
    free = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
    size = min(int(env_number("PITR_BENCH_WARM_GB", 4.0) * (1 << 30)), free << 9) >> 20 << 20
    if size <= 0:
        return
    # In a process of its own: a child's peak memory begins with what its parent once had.
    subprocess.run([sys.executable, "-c", TOUCH, str(size)], check=True)


def measured(command, log, env=None, drop_rights=False):
    """Runs a command to its end. Wall time, processor time (user and system, with the
    children it waited for) and peak resident memory come from wait4."""
    warm_memory()
    os.sync()
    with open(log, "ab") as output:
        began = time.monotonic()
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env or client_env(),
            **(as_server_user() if drop_rights else {}),
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = Path(log).read_text(errors="replace")[-3000:]
        sys.exit(f"error: {' '.join(map(str, command))} ended with {child.returncode}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def must(command, env=None, drop_rights=False):
    """Runs a command that is not measured and gives what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env or client_env(),
        **(as_server_user() if drop_rights else {}),
    )
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def until(what, probe, deadline_s=120):
    """Polls until probe() gives something true."""
    began = time.monotonic()
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() - began > deadline_s:
            sys.exit(f"error: after {deadline_s} s still waiting for {what}")
        time.sleep(0.01)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def bytes_below(path):
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file() and not f.is_symlink())


class Cluster:
    """A PostgreSQL server of a benchmark's own."""

    def __init__(self, scratch, name, data=None, **settings):
        self.scratch = scratch
        self.log = scratch.path / f"{name}.log"
        self.sockets = scratch.dir(f"{name}.sock")
        self.port = free_port()
        self.running = False
        scratch.clusters.append(self)
        if data is not None:
            self.data = data
            return
        self.data = scratch.dir(name)
        must(
            [BIN / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8",
             "--data-checksums"],
            drop_rights=True,
        )
        defaults = {
            "shared_buffers": "512MB",
            "max_wal_size": "32GB",
            "checkpoint_timeout": "1h",
            "max_wal_senders": 20,
            "max_replication_slots": 40,
            "autovacuum": "off",
            "timezone": "UTC",
        }
        with open(self.data / "postgresql.conf", "a") as conf:
            for key, value in {**defaults, **settings}.items():
                conf.write(f"{key} = '{value}'\n")

    def start(self, *settings):
        options = [f"-p {self.port}", f"-k {self.sockets}", "-h 127.0.0.1"] + [f"-c {s}" for s in settings]
        must(
            [BIN / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "300", "-o", " ".join(options), "start"],
            drop_rights=True,
        )
        self.running = True
        return self

    def stop(self, mode="fast"):
        if self.running:
            self.running = False
            subprocess.run(
                [BIN / "pg_ctl", "-D", self.data, "-w", "-m", mode, "stop"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **as_server_user(),
            )

    def url(self, database="postgres"):
        return f"postgres://postgres@/{database}?host={self.sockets}&port={self.port}"

    def sql(self, statements):
        done = subprocess.run(
            [BIN / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url()],
            input=statements,
            capture_output=True,
            text=True,
            env=client_env(),
        )
        if done.returncode != 0:
            sys.exit(f"error: psql: {done.stderr}\nwhile running: {statements}")
        return done.stdout.strip()

    def current_lsn(self):
        return self.sql("select pg_current_wal_flush_lsn()")

    def pgbench(self, *words):
        return must([BIN / "pgbench", *words, self.url()])

    def make_tables(self, scale):
        self.pgbench("-i", "-q", "-s", str(scale))
        self.sql("vacuum analyze; checkpoint")

    def write_wal(self, amount):
        """Writes that many bytes of pgbench's WAL: small records and page images in
        the mixture that checkpoints every 500 MB give."""
        self.sql("alter system set synchronous_commit = off; select pg_reload_conf()")
        begin = lsn(self.current_lsn())
        last_checkpoint = begin
        while lsn(self.current_lsn()) - begin < amount:
            self.pgbench("-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", "2")
            here = lsn(self.current_lsn())
            if here - last_checkpoint > 500 << 20:
                self.sql("checkpoint")
                last_checkpoint = here
        self.sql("alter system reset synchronous_commit; select pg_reload_conf()")
        return lsn(self.current_lsn()) - begin


class Pitr:
    """pitr with a store of its own."""

    def __init__(self, scratch, cluster, store):
        self.scratch = scratch
        self.store = scratch.path / store
        self.log = scratch.path / f"{store}.log"
        self.env = client_env(PITR_STORE=self.store, PITR_SOURCE=cluster.url())
        self.binary = find_pitr()

    def must(self, *words):
        return must([self.binary, *words], env=self.env)

    def measured(self, *words):
        return measured([self.binary, *words], self.log, env=self.env)

    def start(self, *words):
        output = open(self.log, "ab")
        return subprocess.Popen(
            [str(w) for w in (self.binary, *words)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.env
        )

    def os_user(self):
        user = server_user()
        return [] if user is None else ["--os-user", user.pw_name]


@dataclass
class Row:
    """One line of a result: lower is better unless `more_is_better`."""

    measure: str
    pitr: list
    peer: list
    unit: str
    bar: float
    more_is_better: bool = False
    peer_name: str = ""

    def cells(self):
        ours = statistics.median(self.pitr)
        if not self.peer:
            ok = ours >= self.bar if self.more_is_better else ours <= self.bar
            sign = ">=" if self.more_is_better else "<="
            return [self.measure, f"{ours:.2f} {self.unit}", "-", "-", f"{sign} {self.bar:g} {self.unit}", mark(ok)]
        theirs = statistics.median(self.peer)
        ratio = ours / theirs
        ok = ratio >= self.bar if self.more_is_better else ratio <= self.bar
        sign = ">=" if self.more_is_better else "<="
        return [
            self.measure,
            f"{ours:.2f} {self.unit}",
            f"{theirs:.2f} {self.unit}",
            f"{ratio:.2f}",
            f"{sign} {self.bar:g}x",
            mark(ok),
        ]

    def ok(self):
        return self.cells()[-1] == mark(True)


def mark(ok):
    return "yes" if ok else "NO"


@dataclass
class Report:
    """The rows of one script, printed with every round's figure."""

    title: str
    notes: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def add(self, *args, **kwargs):
        self.rows.append(Row(*args, **kwargs))

    def finish(self):
        head = ["measure", "pitr", "peer", "ratio", "bar", "ok?"]
        table = [head] + [row.cells() for row in self.rows]
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        print(f"\n## {self.title}\n")
        for number, line in enumerate(table):
            print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |")
            if number == 0:
                print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
        print()
        for row in self.rows:
            figures = lambda values: ", ".join(f"{v:.2f}" for v in values)
            peer = f"; {row.peer_name or 'peer'}: {figures(row.peer)}" if row.peer else ""
            print(f"- {row.measure} ({row.unit}): pitr: {figures(row.pitr)}{peer}")
        for note in self.notes:
            print(f"- {note}")
        sys.stdout.flush()
        return 0 if all(row.ok() for row in self.rows) else 1


def rounds(count=None):
    """Numbers of the rounds; the order of the two contestants alternates, so that
    neither always meets the warmer cache."""
    for number in range(count or ROUNDS):
        print(f"round {number + 1} of {count or ROUNDS}", file=sys.stderr)
        yield number, number % 2 == 0
