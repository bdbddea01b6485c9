//! One create on its way into each of the members.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::table::{Enqueued, FAILING_MAX, SILENT_MAX, Standing, Turn};
use super::{Mirrored, Said, Shared};
use crate::error::{Error, Kind, Result};
use crate::store::Created;

/// First and longest wait before a member that failed is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Tells the table when a caller goes, also one that is dropped.
struct Caller<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.shared.change(|state| state.table.leave(self.number));
    }
}

/// Creates an object in all members that are up to date; gives what came of it once that is known. It goes on in the others.
pub(super) async fn create(shared: &Arc<Shared>, name: &str, body: Vec<Bytes>) -> Result<Created> {
    let Enqueued { number, members } = shared.change(|state| state.table.enqueue(name, body))?;
    let _caller = Caller { shared, number };
    for member in members {
        tokio::spawn(bring(Arc::clone(shared), member, number));
    }
    let mut changed = shared.changed.subscribe();
    loop {
        {
            let state = shared.state();
            state.check_fenced()?;
            if let Some(outcome) = state.table.outcome(number) {
                return outcome;
            }
        }
        changed.changed().await.map_err(|e| Error::failure("the stores are closed").because(e))?;
    }
}

/// Brings one create into one member, if it takes for ever: until the member is passed over.
async fn bring(shared: Arc<Shared>, member: usize, number: u64) {
    let Some(store) = shared.stores.get(member).cloned() else { return };
    let mut changed = shared.changed.subscribe();
    let mut pause = PAUSES.0;
    loop {
        let turn = shared.state().table.turn(member, number, Instant::now());
        let (name, body) = match turn {
            Turn::Gone => return,
            Turn::Go(name, body) => (name, body),
            Turn::Wait => {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
        };
        let attempt = async {
            tokio::select! {
                created = store.create(&name, body) => Some(created),
                () = gone(&shared, member, number) => None,
            }
        };
        match attempt.await {
            None => return,
            Some(Ok(created)) => return shared.change(|state| state.table.done(member, number, created)),
            Some(Err(error)) if error.kind() == Kind::StoreUnreachable => {
                shared.change(|state| state.table.failed(member, number, Said::from(&error), Instant::now()));
                tokio::select! {
                    () = sleep(pause) => {}
                    () = shared.until(|state| state.table.is_asked_again(member, number)) => {}
                }
                pause = (pause * 2).min(PAUSES.1);
                // Its time may be over, and nothing else may happen that would tell.
                shared.change(|_| ());
            }
            Some(Err(error)) => {
                return shared.change(|state| {
                    if !state.table.refused(member, number, Said::from(&error)) {
                        tracing::error!(store = shared.place(member), %error, hint = error.advice(), "a store holds what it should not, and is passed over");
                        state.table.set(member, Standing::Behind);
                    }
                });
            }
        }
    }
}

/// Comes when a member is not to have an object any more. Looks at the time while it waits.
async fn gone(shared: &Shared, member: usize, number: u64) {
    let is_gone = shared.until(|state| !state.table.waits(member, number));
    let ticks = async {
        loop {
            sleep(SILENT_MAX.min(FAILING_MAX)).await;
            shared.change(|_| ());
        }
    };
    tokio::select! {
        () = is_gone => {}
        () = ticks => {}
    }
}

impl Mirrored {
    /// Creates an object in these members, one after the other. A member that does not answer is left out from then on, as long as enough
    /// of them have it.
    pub(super) async fn create_in_turn(&self, members: &[usize], name: &str, body: &[Bytes]) -> Result<Created> {
        let (mut has, mut created, mut away) = (Vec::new(), Created::New, None);
        for member in members {
            let Some(store) = self.members().get(*member) else { continue };
            match store.create(name, body.to_vec()).await {
                Ok(made) => {
                    has.push(*member);
                    if made == Created::Same {
                        created = Created::Same;
                    }
                }
                Err(error) if error.kind() == Kind::StoreUnreachable => drop(away.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        if has.len() < self.claims() {
            return Err(away.unwrap_or_else(|| self.too_few(has.len())));
        }
        self.meet(has);
        Ok(created)
    }
}
