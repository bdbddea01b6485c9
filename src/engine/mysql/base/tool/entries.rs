//! Items of a program's stream as events of a base backup.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::mysql::base::mbstream::Item;
use crate::engine::{BaseEvent, EntryMeta};
use crate::model::time::{Clock as _, SystemClock};

/// More than that no file has that tells where a backup ends.
const BINLOG_INFO_BYTES_MAX: usize = 1 << 20;

/// Zeros of a hole that are given out at a time.
const HOLE_BYTES: usize = 1 << 20;

/// What a file or directory is allowed to, as the servers make them.
const MODES: (u32, u32) = (0o660, 0o700);

/// What has come of a stream and was not yet asked for.
pub(super) struct Entries {
    /// Files that may say where the backup ends.
    binlog_infos: &'static [&'static str],
    events: VecDeque<BaseEvent>,
    /// What each open file is known by.
    open: HashMap<Arc<str>, u32>,
    next: u32,
    dirs: HashSet<String>,
    /// Seconds since 1970: the stream tells no file's time.
    began: i64,
    /// What has come of the file that tells where the backup ends.
    pub(super) binlog_info: Vec<u8>,
}

impl Entries {
    /// For a program with these files; `first` comes before all others.
    pub(super) fn new(binlog_infos: &'static [&'static str], first: BaseEvent) -> Self {
        Self {
            binlog_infos,
            events: VecDeque::from([first]),
            open: HashMap::new(),
            next: 0,
            dirs: HashSet::new(),
            began: SystemClock.now().0 / 1_000_000,
            binlog_info: Vec::new(),
        }
    }

    /// The next event, if there is one.
    pub(super) fn pop(&mut self) -> Option<BaseEvent> {
        self.events.pop_front()
    }

    /// Takes the next item.
    pub(super) fn take(&mut self, item: Item) {
        match item {
            Item::Data { path, bytes, .. } => {
                if self.binlog_infos.contains(&path.as_ref()) && self.binlog_info.len() < BINLOG_INFO_BYTES_MAX {
                    self.binlog_info.extend_from_slice(&bytes);
                }
                let file = self.opened(&path);
                self.events.push_back(BaseEvent::Data { file, bytes });
            }
            Item::Hole { path, mut length, .. } => {
                let file = self.opened(&path);
                while length > 0 {
                    let now = length.min(HOLE_BYTES as u64);
                    let bytes = Bytes::from(vec![0; usize::try_from(now).unwrap_or(0)]);
                    self.events.push_back(BaseEvent::Data { file, bytes });
                    length -= now;
                }
            }
            Item::End { path, .. } => {
                let file = self.opened(&path);
                self.open.remove(&path);
                self.events.push_back(BaseEvent::FileEnd { file });
            }
        }
    }

    fn opened(&mut self, path: &Arc<str>) -> u32 {
        if let Some(file) = self.open.get(path) {
            return *file;
        }
        // The stream names no directories.
        for (at, _) in path.match_indices('/') {
            let dir = path.get(..at).unwrap_or_default();
            if self.dirs.insert(dir.to_owned()) {
                let meta = EntryMeta { path: dir.to_owned(), mode: MODES.1, mtime: self.began };
                self.events.push_back(BaseEvent::Directory(meta));
            }
        }
        let file = self.next;
        self.next = self.next.wrapping_add(1);
        let meta = EntryMeta { path: path.to_string(), mode: MODES.0, mtime: self.began };
        self.events.push_back(BaseEvent::File { file, meta, size: None });
        self.open.insert(Arc::clone(path), file);
        file
    }
}
