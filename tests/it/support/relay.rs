//! A relay on the way between the archiver and its server, which does harm at one exact
//! place and then lets nobody through until it is opened again, so that a test can do
//! whatever it likes at that very point.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{PATIENCE, Scratch, Server, condition};

/// What a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// Changes the byte of the log at this offset, and is closed.
    Change(u64),
    /// Ends the connection instead of passing on the message that reaches this offset of
    /// the log, and is closed.
    Cut(u64),
    /// Lets nobody through.
    Closed,
    /// Lets everybody log in, and then passes on no answer any more.
    Silent,
    /// Takes nothing from the archiver any more; what the server sends still comes.
    Deaf,
}

/// The relay; it listens on a Unix socket of its own.
pub struct Relay {
    url: String,
    state: Arc<State>,
}

struct State {
    harm: Mutex<Harm>,
    changed: Condvar,
    unanswered: AtomicUsize,
}

impl State {
    fn harm(&self) -> MutexGuard<'_, Harm> {
        self.harm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, harm: Harm) {
        *self.harm() = harm;
        self.changed.notify_all();
    }

    fn wait_while(&self, harm: Harm) {
        let waited = self.changed.wait_while(self.harm(), |now| *now == harm);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Relay {
    /// One in front of `server`. Its threads end with the tests.
    pub fn new(scratch: &Scratch, server: &Server) -> Self {
        let dir = scratch.server_dir("relay");
        let listener = UnixListener::bind(dir.join(format!(".s.PGSQL.{}", server.port()))).expect("a socket");
        let state =
            Arc::new(State { harm: Mutex::new(Harm::None), changed: Condvar::new(), unanswered: AtomicUsize::new(0) });
        let url = format!("postgres://postgres@/postgres?host={}&port={}", dir.display(), server.port());
        let (behind, shared) = (server.socket(), Arc::clone(&state));
        std::thread::spawn(move || {
            while let Ok((archiver, _)) = listener.accept() {
                if *shared.harm() != Harm::Closed
                    && let Ok(server) = UnixStream::connect(&behind)
                {
                    pass_on(&archiver, &server, &shared);
                }
            }
        });
        Self { url, state }
    }

    /// `postgres://` to the server, by way of the relay.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What to do from now on.
    pub fn set(&self, harm: Harm) {
        self.state.set(harm);
    }

    /// How many connections have waited for an answer in vain.
    pub fn unanswered(&self) -> usize {
        self.state.unanswered.load(Ordering::SeqCst)
    }

    /// Waits until the harm is done that closes the relay.
    #[track_caller]
    pub fn wait_until_closed(&self) {
        condition("the harm to be done", PATIENCE, || (*self.state.harm() == Harm::Closed).then_some(()));
    }
}

/// Starts two threads that pass on what comes. When one end is gone so is the other.
fn pass_on(archiver: &UnixStream, server: &UnixStream, state: &Arc<State>) {
    for work in [requests, answers] {
        let (archiver, server) = (archiver.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            // An end that is gone is what ends it.
            let _ = work(&archiver, &server, &state);
            let _ = (archiver.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        });
    }
}

fn requests(mut archiver: &UnixStream, mut server: &UnixStream, state: &State) -> std::io::Result<()> {
    let mut bytes = [0; 1 << 16];
    loop {
        let count = archiver.read(&mut bytes)?;
        state.wait_while(Harm::Deaf);
        if count == 0 {
            return Ok(());
        }
        server.write_all(&bytes[..count])?;
    }
}

/// Message by message: a kind, the length of the rest with its own four bytes, the rest.
fn answers(mut archiver: &UnixStream, mut server: &UnixStream, state: &State) -> std::io::Result<()> {
    let mut logged_in = false;
    loop {
        let mut head = [0; 5];
        server.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; length as usize - 4];
        server.read_exact(&mut body)?;
        if logged_in && *state.harm() == Harm::Silent {
            state.unanswered.fetch_add(1, Ordering::SeqCst);
            state.wait_while(Harm::Silent);
        }
        logged_in |= head[0] == b'Z';
        // Log: `w`, offset, end of the log, time, bytes.
        if head[0] == b'd' && body[0] == b'w' {
            let start = u64::from_be_bytes(body[1..9].try_into().expect("eight bytes"));
            let (log, mut harm) = (&mut body[25..], state.harm());
            match *harm {
                Harm::Change(at) if (start..start + log.len() as u64).contains(&at) => {
                    log[usize::try_from(at - start).expect("an index")] ^= 1;
                    *harm = Harm::Closed;
                }
                Harm::Cut(at) if start + log.len() as u64 > at => {
                    *harm = Harm::Closed;
                    return Ok(());
                }
                _ => {}
            }
        }
        archiver.write_all(&head)?;
        archiver.write_all(&body)?;
    }
}
