//! The captured conversations in `proto-fixtures/postgres/15/wire`, for tests.

use std::path::Path;

/// One message of a conversation.
pub(crate) struct Message {
    /// Whether the server sent it.
    pub(crate) from_server: bool,
    /// The capture tool's line for it, without the arrow.
    pub(crate) line: String,
    /// Its bytes, header included.
    pub(crate) bytes: Vec<u8>,
}

/// The messages of a case, in order of arrival.
pub(crate) fn conversation(case: &str) -> Vec<Message> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures/postgres/15/wire").join(case);
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{case}/{name}: {e}"));
    let (client, server) = (read("client.bin"), read("server.bin"));
    let (mut client, mut server) = (client.as_slice(), server.as_slice());
    let text = String::from_utf8(read("messages.txt")).unwrap();
    let mut messages = Vec::new();
    for line in text.lines().filter(|l| *l != "the rest was cut off") {
        let (way, line) = line.split_once(' ').unwrap();
        let from_server = way == "<";
        let stream = if from_server { &mut server } else { &mut client };
        let at = usize::from(!line.starts_with("Startup"));
        let length = u32::from_be_bytes(stream[at..at + 4].try_into().unwrap());
        let (bytes, rest) = stream.split_at(length as usize + at);
        *stream = rest;
        messages.push(Message { from_server, line: line.to_owned(), bytes: bytes.to_vec() });
    }
    assert!(client.is_empty() && server.is_empty(), "{case}: bytes without a line");
    messages
}
