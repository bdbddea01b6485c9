"""Replay of a binlog of small transactions over a base: pitr restore's replay against the
server's own reader piped into its client, into a server as it is installed. How long that
takes where the server spares every fsync it can is told besides, from the first round.

PITR_BENCH_REPLAY_MB (800) sets the amount of binlog, PITR_BENCH_REPLAY_BASE_GB (0.3) the base.
"""

import re
import sys

from common import Report, Scratch, env_number, measured, must, rounds
from mysql import LOADING, PASSWORD, USER, Pitr, Server, archiving, remove, shell


def replay_seconds(text):
    """The phase of that name in the document that restore printed."""
    found = re.findall(r'"replay": *([0-9.]+)', text)
    if not found:
        sys.exit(f"error: pitr restore says nothing of a replay's seconds:\n{text[-2000:]}")
    return float(found[-1])


def run(make, bar):
    scratch = Scratch()
    source = Server(scratch, "source", make, options=LOADING).start().make_account()
    source.make_tables(env_number("PITR_BENCH_REPLAY_BASE_GB", 0.3))
    source.stop()
    base = scratch.path / "base"
    must(["cp", "-a", source.data, base])
    source.start()
    first = source.logs()[-1][0]
    pitr = Pitr(scratch, source, "store")
    pitr.must("init")
    with archiving(pitr):
        pitr.must("backup")
    source.write_log(int(env_number("PITR_BENCH_REPLAY_MB", 800.0) * 1e6))
    source.sql("flush binary logs")
    replayed = sum(size for name, size in source.logs() if name >= first)
    position, sums = source.gtid_position(), source.checksums()
    pitr.must("archive", "--no-backup", "--exit-when-caught-up")
    # Both find the whole machine; the source keeps no processor busy.
    source.stop()
    files = " ".join(str(source.data / name.name) for name in sorted(source.data.glob("binlog.0*")) if name.name >= first)

    ours, whole, theirs, spared = [], [], [], []

    def check(server, who):
        if server.checksums() != sums:
            sys.exit(f"error: {who} gave other rows than the source has")

    def run_ours(number):
        to = scratch.path / f"ours_{number}"
        begin = pitr.log.stat().st_size if pitr.log.exists() else 0
        whole.append(pitr.measured("restore", "--json", "--target", "latest", *pitr.restore_words(to)).wall_s)
        ours.append(replay_seconds(pitr.log.read_text(errors="replace")[begin:]))
        server = Server(scratch, f"ours_{number}.open", make, data=to).start()
        check(server, "pitr")
        server.stop("immediate")
        remove(to)

    def run_theirs(number, options=(), into=theirs):
        data = scratch.path / f"theirs_{number}"
        must(["cp", "-a", base, data])
        server = Server(scratch, f"theirs_{number}.open", make, data=data, options=options).start("--skip-log-bin")
        reader, client = make.pick("mysqlbinlog", "mariadb-binlog"), make.pick("mysql", "mariadb")
        strict = "--skip-gtid-strict-mode" if make.is_mariadb else ""
        command = shell(f"{reader} --no-defaults {strict} {files} | {client} --no-defaults --binary-mode --user={USER}"
                        f" --password={PASSWORD} --socket={server.socket} --max-allowed-packet=1G")
        into.append(measured(command, scratch.path / "pipe.log").wall_s)
        check(server, "the pipe")
        server.stop("immediate")
        remove(data)

    for number, we_begin in rounds():
        for one in (run_ours, run_theirs) if we_begin else (run_theirs, run_ours):
            one(number)
    run_theirs("spared", LOADING, spared)

    report = Report(f"Replay of {replayed / 1e6:.0f} MB of {make.name} binlog (sysbench oltp_write_only)")
    name = "mariadb-binlog | mariadb" if make.is_mariadb else "mysqlbinlog | mysql"
    report.add("replay, wall", ours, theirs, "s", bar, peer_name=name)
    report.notes.append(f"{name} without fsync: {spared[0]:.1f} s, so that the ratio is {min(ours) / spared[0]:.2f}")
    report.notes.append(f"the whole of pitr restore: {', '.join(f'{s:.1f}' for s in whole)} s; it ends at {position}")
    return report.finish()
