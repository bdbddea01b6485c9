//! The statements that let pitr in, and no more than that.

/// SQL and `pg_hba.conf` lines for role `user`. The password is left to `\password`,
/// so that it stands in no file and no history; all of it can be fed to psql as it is.
#[must_use]
pub fn grants(user: &str) -> String {
    let quoted = format!("\"{}\"", user.replace('"', "\"\""));
    format!(
        "-- Run as a superuser in psql, on the primary:\n\
         CREATE ROLE {quoted} WITH LOGIN REPLICATION;\n\
         -- Then give it a password, which stands in no file and no history:  \\password {quoted}\n\
         -- Lets `pitr check` and `pitr status` see settings, slots and lag:\n\
         GRANT pg_monitor TO {quoted};\n\
         \n\
         -- pg_hba.conf, on the primary and on every standby; then SELECT pg_reload_conf();\n\
         -- `replication` lets pitr stream, the second line is for the checks.\n\
         --   hostssl  replication  {quoted}  ADDRESS/32  scram-sha-256\n\
         --   hostssl  postgres     {quoted}  ADDRESS/32  scram-sha-256\n\
         -- On the same machine, without a password, for the operating system's user of that name:\n\
         --   local    replication  {quoted}  peer\n\
         --   local    postgres     {quoted}  peer\n"
    )
}
