"""Throwaway MySQL and MariaDB servers for the capture tools. Only the standard library."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
WORK = Path(tempfile.mkdtemp(prefix="capture-", dir=os.environ.get("PITR_TEST_DIR", "/var/tmp")))
WORK.chmod(0o755)


def server_user():
    """The user that servers run as: None for an ordinary user."""
    if os.geteuid():
        return None
    for name in ("mysql", "postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    sys.exit("error: root needs a user mysql to run servers as")


class Make:
    """`mariadb/10.11` or `mysql/9.7`, and where its programs are."""

    def __init__(self, name):
        self.name = name
        self.is_mariadb = name.startswith("mariadb")
        self.dirs = [REPOSITORY / ".deps" / name.replace("/", "-") / "bin"]
        if name == "mariadb/10.11":
            self.dirs += [Path("/usr/sbin"), Path("/usr/bin")]
        self.template = None

    def program(self, name):
        for directory in self.dirs:
            if (directory / name).exists():
                return str(directory / name)
        sys.exit(f"error: {name} of {self.name} is missing\nhint: scripts/install-mysql.sh --all")

    def pick(self, mysql, mariadb):
        return self.program(mariadb if self.is_mariadb else mysql)

    def data(self):
        """A new data directory."""
        if self.template is None:
            self.template = new_dir("template")
            if self.is_mariadb:
                run(self.program("mariadb-install-db"), "--no-defaults", f"--datadir={self.template}",
                    "--auth-root-authentication-method=normal", "--skip-test-db", as_server=True)
            else:
                run(self.program("mysqld"), "--no-defaults", "--initialize-insecure", f"--datadir={self.template}",
                    as_server=True)
                (self.template / "auto.cnf").unlink()
        data = WORK / f"data-{len(list(WORK.iterdir()))}"
        run("cp", "-a", self.template, data)
        return data


def new_dir(name):
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=WORK))
    path.chmod(0o755)
    if user := server_user():
        os.chown(path, user.pw_uid, user.pw_gid)
    return path


def rights():
    user = server_user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def run(*command, as_server=False, check=True, stdin=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, input=stdin,
                          env=dict(os.environ, TZ="UTC", LC_ALL="C"), **(rights() if as_server else {}))
    if check and done.returncode:
        sys.exit(f"{command}: {done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A running server; `options` stand last on its command line."""

    running = []

    def __init__(self, make, *options, server_id=1):
        self.make, self.options, self.server_id = make, options, server_id
        self.data = make.data()
        self.run_dir = new_dir("run")
        self.socket = self.run_dir / "socket"
        self.port = free_port()
        self.process = None
        self.start()

    def start(self):
        own = [] if self.make.is_mariadb else ["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--mysqlx=OFF",
                                               "--secure-file-priv="]
        command = [
            self.make.pick("mysqld", "mariadbd"), "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}",
            f"--port={self.port}", "--bind-address=127.0.0.1", f"--server-id={self.server_id}", "--log-bin=binlog",
            "--binlog-format=ROW", "--skip-name-resolve", "--default-time-zone=+00:00", "--local-infile=ON",
            f"--pid-file={self.run_dir}/pid", *own, *self.options,
        ]
        log = open(self.run_dir / "log", "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **rights())
        Server.running.append(self)
        deadline = time.monotonic() + 60
        while subprocess.run([*self.client(), "-e", "do 1"], capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit((self.run_dir / "log").read_text())
            time.sleep(0.05)

    def client(self):
        return [self.make.pick("mysql", "mariadb"), "--no-defaults", "-uroot", f"--socket={self.socket}", "-N", "-B",
                "--local-infile=1", "--comments", "--default-character-set=utf8mb4"]

    def sql(self, text, check=True):
        return run(*self.client(), stdin=text.encode(), check=check).decode().strip()

    def logs(self):
        return [line.split("\t")[0] for line in self.sql("show binary logs").splitlines()]

    def stop(self, how=signal.SIGTERM):
        if self.process:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None
            Server.running.remove(self)

    def reset(self):
        self.sql("reset master" if self.make.is_mariadb else "reset binary logs and gtids")


def finish():
    for server in list(Server.running):
        server.stop(signal.SIGKILL)
    shutil.rmtree(WORK, ignore_errors=True)
