//! Clients that write while something else happens.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{PATIENCE, condition};

use super::MySqlServer;

/// Connections that write in the background. Ended when dropped.
pub struct Load {
    clients: Vec<Writer>,
}

struct Writer {
    child: Child,
    feeder: Option<JoinHandle<()>>,
    connection: u64,
}

/// The table whose rows say when they were written, each in a transaction of its own.
pub fn marker_table(server: &MySqlServer) {
    server.sql(
        "create table test.marker (id bigint auto_increment primary key, at datetime(6) not null default now(6)) \
         engine=innodb",
    );
}

/// One marker row; gives its id.
pub fn mark(server: &MySqlServer) -> u64 {
    server.sql("insert into test.marker () values (); select last_insert_id()").parse().expect("an id")
}

/// The marker rows in a server.
pub fn marker_ids(server: &MySqlServer) -> BTreeSet<u64> {
    server.sql("select id from test.marker").lines().map(|row| row.parse().expect("an id")).collect()
}

/// Waits until `count` marker rows are there.
pub fn wait_for_markers(server: &MySqlServer, count: u64) {
    condition(format!("{count} marker rows"), PATIENCE, || {
        let have: u64 = server.sql("select count(*) from test.marker").parse().expect("a count");
        (have >= count).then_some(())
    });
}

/// Waits until the server has written `bytes` more of log.
pub fn wait_for_log(server: &MySqlServer, bytes: u64) {
    let end = server.log_bytes() + bytes;
    condition(format!("{bytes} more bytes of log"), PATIENCE, || (server.log_bytes() >= end).then_some(()));
}

impl Load {
    /// A marker row every `every_ms` milliseconds, each in its own transaction, from each of
    /// `clients` connections; with 0 as fast as it goes.
    pub fn markers(server: &MySqlServer, clients: u32, every_ms: u64) -> Self {
        Self::repeating(server, clients, every_ms, "insert into test.marker () values ();\n")
    }

    /// Any statements that give no rows, again and again.
    pub fn repeating(server: &MySqlServer, clients: u32, every_ms: u64, statements: &str) -> Self {
        Self { clients: (0..clients).map(|_| Writer::start(server, every_ms, statements.to_owned())).collect() }
    }

    /// Ends the load and waits until none of its transactions is left.
    pub fn stop(mut self, server: &MySqlServer) {
        let ids: Vec<String> = self.clients.iter().map(|writer| writer.connection.to_string()).collect();
        for writer in &mut self.clients {
            writer.end();
        }
        let ask = format!("select count(*) from information_schema.processlist where id in ({})", ids.join(", "));
        condition("the load's sessions to end", PATIENCE, || (server.sql(&ask) == "0").then_some(()));
    }
}

impl Writer {
    fn start(server: &MySqlServer, every_ms: u64, statements: String) -> Self {
        let mut command = server.client();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting the client");
        let mut input = child.stdin.take().expect("the client's input");
        input.write_all(b"select connection_id();\n").expect("the client's first statement");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("the client's output")).read_line(&mut line).expect("its answer");
        let connection = line.trim().parse().unwrap_or_else(|_| panic!("not a connection's id: {line:?}"));
        // Ends when the client has: then its input is closed.
        let feeder = std::thread::spawn(move || {
            while input.write_all(statements.as_bytes()).is_ok() {
                // The pace of the load, not a wait for anything.
                std::thread::sleep(Duration::from_millis(every_ms));
            }
        });
        Self { child, feeder: Some(feeder), connection }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for writer in &mut self.clients {
            writer.end();
        }
    }
}
