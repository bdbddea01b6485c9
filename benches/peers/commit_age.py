#!/usr/bin/env python3
"""Age of the newest durable commit under 5,000 transactions per second, local store.

Every 10 ms a session notes the time, the end of the WAL that is durable on the server
and what the archive has reported as durable. The age at one such moment is the time
since the last moment at which everything then written is durable in the archive now:
an upper bound, to 10 ms.

PITR_BENCH_SECONDS (20) is the length of one run, PITR_BENCH_TPS (5000) the load.
"""

import re
import signal
import subprocess
import sys

from common import BIN, Cluster, Pitr, Report, Scratch, client_env, env_number, rounds, until

SAMPLES = """
create temp table samples (at timestamptz, written pg_lsn, durable pg_lsn);
do $$
declare
    until timestamptz := clock_timestamp() + interval '{seconds} seconds';
begin
    while clock_timestamp() < until loop
        insert into samples
            select clock_timestamp(), pg_current_wal_flush_lsn(), (select max(flush_lsn) from pg_stat_get_wal_senders());
        perform pg_sleep(0.01);
    end loop;
end $$;
create index on samples (written);
select round(1000 * percentile_cont({quantile}) within group (order by extract(epoch from age))::numeric, 1)
from (select s.at - (select max(o.at) from samples o where o.written <= s.durable and o.at <= s.at) as age
      from samples s offset 100) ages
where age is not null;
"""

INSERT = "insert into commits default values;\n"


def main():
    scratch = Scratch()
    seconds = env_number("PITR_BENCH_SECONDS", 20)
    tps = env_number("PITR_BENCH_TPS", 5000)
    # Commits do not wait for the server's own disk, or this machine's disk and not the
    # archive would set the pace.
    cluster = Cluster(scratch, "source", synchronous_commit="off", wal_writer_delay="10ms").start()
    cluster.sql("create table commits (id bigserial, at timestamptz default clock_timestamp())")
    script = scratch.path / "insert.sql"
    script.write_text(INSERT)
    pitr = Pitr(scratch, cluster, "store")
    pitr.must("init")
    ages, rates = [], []
    for _ in rounds():
        archiver = pitr.start("archive", "--slot", "bench", "--no-backup")
        until("the archive to follow",
              lambda: cluster.sql("select count(*) from pg_stat_replication where state = 'streaming'") == "1")
        load = subprocess.Popen(
            [str(BIN / "pgbench"), "-n", "-f", str(script), "-c", "4", "-j", "1", "-M", "prepared", "-R", str(tps),
             "-T", str(seconds + 4), cluster.url()],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=client_env(),
        )
        until("the load to begin", lambda: int(cluster.sql("select count(*) from commits limit 1")) > 0)
        age = cluster.sql(SAMPLES.format(seconds=seconds, quantile=0.99))
        said, _ = load.communicate()
        rates.append(float(re.search(r"tps = ([0-9.]+)", said).group(1)))
        ages.append(float(age))
        archiver.send_signal(signal.SIGINT)
        if archiver.wait(60) != 0:
            sys.exit(f"error: pitr archive ended with {archiver.returncode}; see {pitr.log}")
        cluster.sql("truncate commits")
    report = Report(f"Age of the newest durable commit under {tps} commits per second")
    report.add("age, 99th percentile", ages, [], "ms", 300)
    report.notes.append(f"commits per second reached: {', '.join(f'{r:.0f}' for r in rates)}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
