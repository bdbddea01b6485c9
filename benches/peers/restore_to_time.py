#!/usr/bin/env python3
"""Restore to a time over a base and much WAL, until the server answers, against
`pgbackrest restore --type=time` and PostgreSQL's recovery from its archive.

PITR_BENCH_REPLAY_GB (1.6) sets the amount of WAL, PITR_BENCH_SCALE (100) the base.
"""

import sys
import time

from common import BIN, Cluster, Pitr, Report, Scratch, env_number, lsn, rounds, until
from pgbackrest import PgBackRest, remove


def main():
    scratch = Scratch()
    cluster = Cluster(scratch, "source")
    backrest = PgBackRest(scratch, cluster)
    cluster.start("archive_mode=on")
    cluster.sql(f"alter system set archive_command = '{backrest.archive_command()}'; select pg_reload_conf()")
    backrest.must("stanza-create")
    cluster.make_tables(env_number("PITR_BENCH_SCALE", 100))
    pitr = Pitr(scratch, cluster, "store")
    pitr.must("init")
    pitr.must("archive", "--slot", "bench", "--exit-when-caught-up")
    backrest.must("--type=full", "backup")
    begin = cluster.current_lsn()
    cluster.write_wal(int(env_number("PITR_BENCH_REPLAY_GB", 1.6) * 1e9))
    target = cluster.sql("create table last_one as select 1; select clock_timestamp()")
    # A later transaction, which PostgreSQL's own recovery needs to find its end.
    last = cluster.sql("select pg_sleep(0.1); create table too_late as select 1; select pg_walfile_name(pg_switch_wal())")
    replayed = lsn(cluster.current_lsn()) - lsn(begin)
    last = last.splitlines()[-1]
    until("the last WAL file to be archived",
          lambda: cluster.sql(f"select last_archived_wal >= '{last}' from pg_stat_archiver") == "t", 600)
    pitr.must("archive", "--slot", "bench", "--exit-when-caught-up")
    # Both find the whole machine; the source keeps no processor busy.
    cluster.stop()

    ours, theirs = [], []

    def usable(name, data):
        """Seconds until a server on that directory takes writes, and its proof."""
        began = time.monotonic()
        server = Cluster(scratch, name, data=data)
        server.start("archive_mode=off")
        until("the server to end recovery", lambda: server.sql("select pg_is_in_recovery()") == "f", 600)
        took = time.monotonic() - began
        proof = server.sql("select to_regclass('last_one') is not null, to_regclass('too_late') is null")
        if proof != "t|t":
            sys.exit(f"error: {name} is not the database at {target}: {proof}")
        server.stop("immediate")
        remove(data)
        return took

    def run_ours(number):
        to = scratch.path / f"ours_{number}"
        cost = pitr.measured("restore", "--target-time", target, "--to", to, "--bin-dir", BIN, *pitr.os_user())
        ours.append(cost.wall_s + usable(f"ours_{number}", to))

    def run_theirs(number):
        to = scratch.dir(f"theirs_{number}")
        cost = backrest.measured(f"--pg1-path={to}", "--type=time", f"--target={target}", "--target-action=promote",
                                 "restore")
        theirs.append(cost.wall_s + usable(f"theirs_{number}.run", to))

    for number, we_begin in rounds():
        for run in (run_ours, run_theirs) if we_begin else (run_theirs, run_ours):
            run(number)

    report = Report(f"Restore to a time over a base and {replayed / 1e9:.2f} GB of WAL, until the server is usable")
    report.add("wall", ours, theirs, "s", 0.5, peer_name="pgBackRest, process-max=2, archive-async")
    report.notes.append(backrest.note())
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
