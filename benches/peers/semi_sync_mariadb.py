#!/usr/bin/env python3
"""Commits per second with the archive as the only semi-synchronous replica, 8 clients,
against the same server without semi-synchronous replication. The server syncs its log and
its binlog at every commit.

A round is four runs, the second and third by the same of the two, so that what drifts
weighs on both alike. PITR_BENCH_SECONDS (10) is the length of one run.
"""

import sys

from common import Report, Scratch, env_number, rounds, until
from mysql import MARIADB, Pitr, Server, archiving

DURABLE = ["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"]
# A wait that runs out shows as a count, below, and not as a faster server.
SEMI_SYNC = ["--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-timeout=60000"]


def main():
    scratch = Scratch()
    seconds = env_number("PITR_BENCH_SECONDS", 10)
    server = Server(scratch, "source", MARIADB, options=DURABLE + SEMI_SYNC).start().make_account()
    server.make_tables(0.3)
    pitr = Pitr(scratch, server, "store")
    pitr.must("init")
    pitr.must("archive", "--no-backup", "--exit-when-caught-up")

    def status(name):
        return server.sql(f"show global status like 'Rpl_semi_sync_master_{name}'").split("\t")[1]

    def alone():
        return server.write_only(f"--time={seconds}")

    def with_archive():
        server.sql("set global rpl_semi_sync_master_enabled = 1")
        with archiving(pitr):
            until("the archive to be the semi-synchronous replica", lambda: status("clients") == "1")
            # The server waits again once the replica has what was written before.
            until("the server to wait for it",
                  lambda: server.sql("create or replace table sbtest.one (id int)") == "" and status("status") == "ON")
            before = int(status("no_tx"))
            rate = server.write_only(f"--time={seconds}")
            unacknowledged = int(status("no_tx")) - before
            # Else the archive's end would be waited for.
            server.sql("set global rpl_semi_sync_master_enabled = 0")
        if unacknowledged:
            sys.exit(f"error: {unacknowledged} commits were not acknowledged")
        return rate

    ours, theirs = [], []
    for _, we_begin in rounds():
        first, second = (with_archive, alone) if we_begin else (alone, with_archive)
        rates = [measure() for measure in (first, second, second, first)]
        outer, inner = (rates[0] + rates[3]) / 2, (rates[1] + rates[2]) / 2
        ours.append(outer if we_begin else inner)
        theirs.append(inner if we_begin else outer)

    report = Report(f"Commits with the archive as the semi-synchronous replica of MariaDB {MARIADB.version()}, 8 clients")
    report.add("commits per second", ours, theirs, "/s", 0.7, more_is_better=True, peer_name="without semi-sync")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
