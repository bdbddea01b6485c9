//! The writer's thread: it takes what the session sends in groups, and makes each group
//! durable at once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Here, Input, Progress, Setup, Shared, Writer};
use crate::error::Result;

/// Most bytes taken from the queue before they are made durable together.
const GROUP_BYTES_MAX: u64 = 4 << 20;

/// Starts the writer. It ends after [`Input::Finish`] or when the queue closes, with
/// everything it took in durable, or with the first error. Once `closing` is true it waits for no store that does not answer.
pub fn run(
    setup: Setup,
    mut queue: mpsc::Receiver<Input>,
    closing: watch::Receiver<bool>,
) -> (JoinHandle<Result<()>>, Here, watch::Receiver<Progress>) {
    let (shared, progress) = Shared::new(&setup, closing);
    let writer = Arc::new(Mutex::new(Writer::new(setup, shared)));
    let here = Here::new(&writer);
    let task = tokio::task::spawn_blocking(move || work(&writer, &mut queue));
    (task, here, progress)
}

/// The writer's thread. When it ends nothing of it is at work any more: the next session
/// may be a writer of the same epoch, with the same names.
fn work(writer: &Mutex<Writer>, queue: &mut mpsc::Receiver<Input>) -> Result<()> {
    let result = take_groups(writer, queue);
    // The session is to learn of an error at once, and not when the uploads are over.
    queue.close();
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    writer.open = None;
    for upload in std::mem::take(&mut writer.uploads) {
        // Its error, if any, is in `shared`, and the first one was told.
        let _ = writer.runtime.block_on(upload);
    }
    if let Some(task) = writer.spare.take() {
        // Dropping the spare removes its file.
        drop(writer.runtime.block_on(task));
    }
    result
}

/// Takes groups of messages from the queue.
fn take_groups(writer: &Mutex<Writer>, queue: &mut mpsc::Receiver<Input>) -> Result<()> {
    let lock = || writer.lock().unwrap_or_else(PoisonError::into_inner);
    lock().begin()?;
    while let Some(input) = queue.blocking_recv() {
        let mut writer = lock();
        // What failed on the session's thread is told here.
        writer.shared.take_failure().map_or(Ok(()), Err)?;
        let mut bytes = 0;
        let mut next = Some(input);
        while let Some(input) = next {
            if let Input::Data { bytes: data, .. } = &input {
                bytes += data.len() as u64;
            }
            if let Input::Finish { seal } = input {
                return writer.finish(seal);
            }
            writer.take(input)?;
            next = if bytes < GROUP_BYTES_MAX { queue.try_recv().ok() } else { None };
        }
        writer.sync_tail()?;
        writer.tick()?;
        writer.shared.take_failure().map_or(Ok(()), Err)?;
    }
    // The session was dropped (connection lost): what is in the tail stays there;
    // what is only in memory is closed so that it need not be sent again.
    lock().finish(false)
}
