#!/usr/bin/env python3
"""Commits per second with the archive as the only synchronous standby, 8 clients,
against `pg_receivewal --synchronous`.

A round is four runs, the second and third by the same of the two, so that what drifts
(the machine, tables that grow) weighs on both alike. PITR_BENCH_SECONDS (10) is the length
of one run.
"""

import re
import signal
import subprocess
import sys

from common import BIN, Cluster, Pitr, Report, Scratch, as_server_user, client_env, env_number, rounds, until


def main():
    scratch = Scratch()
    seconds = env_number("PITR_BENCH_SECONDS", 10)
    cluster = Cluster(scratch, "source").start()
    cluster.make_tables(20)
    pitr = Pitr(scratch, cluster, "store")
    pitr.must("init")
    pitr.must("archive", "--slot", "ours", "--no-backup", "--exit-when-caught-up")
    cluster.sql("select pg_create_physical_replication_slot('theirs', true)")
    target = scratch.dir("receivewal")
    receiver_log = open(scratch.path / "receivewal.log", "ab")

    def commits_per_second(start):
        child = start()
        until("the archive to follow",
              lambda: cluster.sql("select count(*) from pg_stat_replication where state = 'streaming'") == "1")
        cluster.sql("alter system set synchronous_standby_names = '*'; select pg_reload_conf()")
        until("the archive to be the synchronous standby",
              lambda: cluster.sql("select count(*) from pg_stat_replication where sync_state = 'sync'") == "1")
        cluster.sql("checkpoint")
        said = cluster.pgbench("-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", str(seconds))
        cluster.sql("alter system reset synchronous_standby_names; select pg_reload_conf()")
        child.send_signal(signal.SIGINT)
        child.wait(60)
        until("the archive to be gone", lambda: cluster.sql("select count(*) from pg_stat_replication") == "0")
        return float(re.search(r"tps = ([0-9.]+)", said).group(1))

    def start_ours():
        return pitr.start("archive", "--slot", "ours", "--no-backup")

    def start_theirs():
        return subprocess.Popen(
            [str(BIN / "pg_receivewal"), "-D", str(target), "-S", "theirs", "--synchronous", "-d", cluster.url()],
            stdin=subprocess.DEVNULL, stdout=receiver_log, stderr=receiver_log, env=client_env(), **as_server_user(),
        )

    ours, theirs = [], []
    for _, we_begin in rounds():
        first, second = (start_ours, start_theirs) if we_begin else (start_theirs, start_ours)
        rates = [commits_per_second(start) for start in (first, second, second, first)]
        outer, inner = (rates[0] + rates[3]) / 2, (rates[1] + rates[2]) / 2
        ours.append(outer if we_begin else inner)
        theirs.append(inner if we_begin else outer)

    report = Report("Commits with the archive as the synchronous standby, 8 clients")
    report.add("commits per second", ours, theirs, "/s", 1.0, more_is_better=True,
               peer_name="pg_receivewal --synchronous")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
