//! A log in plain binlog files, cut behind a number of transactions.

use std::collections::HashMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use pitr::engine::mysql::serve::{Executed, Item, LogFeed, LogStream};
use pitr::{Error, Result};

const PIECE: usize = 1 << 20;

/// The files, oldest first, and how many of their transactions to give.
pub struct Files {
    pub paths: Vec<PathBuf>,
    pub transactions: usize,
}

/// The GTID that an event begins a transaction with.
#[derive(Debug, PartialEq, Eq)]
pub enum Gtid {
    Anonymous,
    MySql { uuid: [u8; 16], number: u64 },
    MariaDb { domain: u32, sequence: u64 },
}

/// The GTID of an event that begins a transaction.
pub fn gtid_of(event: &[u8]) -> Option<Gtid> {
    match event[4] {
        33 => Some(Gtid::MySql { uuid: event[20..36].try_into().unwrap(), number: u64_at(event, 36) }),
        34 => Some(Gtid::Anonymous),
        42 => Some(Gtid::Anonymous),
        162 => Some(Gtid::MariaDb {
            sequence: u64_at(event, 19),
            domain: u32::from_le_bytes(event[27..31].try_into().unwrap()),
        }),
        _ => None,
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What the replica has.
enum Has {
    Sets(HashMap<[u8; 16], Vec<(u64, u64)>>),
    Domains(HashMap<u32, u64>),
    Nothing,
}

impl Has {
    fn of(executed: &Executed) -> Self {
        match executed {
            Executed::GtidSet(set) => {
                let mut sets = HashMap::new();
                let count = u64_at(set, 0);
                let mut at = 8;
                for _ in 0..count {
                    let uuid: [u8; 16] = set[at..at + 16].try_into().unwrap();
                    let intervals = u64_at(set, at + 16);
                    at += 24;
                    let ranges: &mut Vec<_> = sets.entry(uuid).or_default();
                    for _ in 0..intervals {
                        ranges.push((u64_at(set, at), u64_at(set, at + 8)));
                        at += 16;
                    }
                }
                Self::Sets(sets)
            }
            Executed::GtidPosition(text) => Self::Domains(
                text.split(',')
                    .filter(|gtid| !gtid.is_empty())
                    .map(|gtid| {
                        let mut parts = gtid.split('-');
                        (parts.next().unwrap().parse().unwrap(), parts.nth(1).unwrap().parse().unwrap())
                    })
                    .collect(),
            ),
            Executed::Place { .. } => Self::Nothing,
        }
    }

    fn has(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::Sets(sets), Gtid::MySql { uuid, number }) => {
                sets.get(uuid).is_some_and(|ranges| ranges.iter().any(|(from, to)| (from..to).contains(&number)))
            }
            (Self::Domains(domains), Gtid::MariaDb { domain, sequence }) => {
                domains.get(domain).is_some_and(|last| sequence <= last)
            }
            _ => false,
        }
    }
}

#[async_trait]
impl LogFeed for Files {
    async fn open(&self, executed: &Executed) -> Result<Box<dyn LogStream>> {
        let mut reading = Reading {
            paths: self.paths.iter().rev().cloned().collect(),
            has: Has::of(executed),
            place: None,
            transactions: self.transactions,
            index: 0,
            items: Vec::new(),
            ended: false,
        };
        if let Executed::Place { file, position } = executed {
            reading.place = Some((file.clone(), *position));
        }
        Ok(Box::new(reading))
    }
}

struct Reading {
    paths: Vec<PathBuf>,
    has: Has,
    place: Option<(String, u64)>,
    transactions: usize,
    index: usize,
    items: Vec<Item>,
    ended: bool,
}

#[async_trait]
impl LogStream for Reading {
    async fn next(&mut self) -> Result<Option<Item>> {
        while self.items.is_empty() && !self.ended {
            match self.paths.pop() {
                Some(path) => self.read(&path)?,
                None => return Ok(None),
            }
        }
        Ok(if self.items.is_empty() { None } else { Some(self.items.remove(0)) })
    }
}

impl Reading {
    fn read(&mut self, path: &std::path::Path) -> Result<()> {
        let file = Bytes::from(std::fs::read(path).map_err(|e| Error::io("read", path, e))?);
        let size = |at: usize| u32::from_le_bytes(file[at + 9..at + 13].try_into().unwrap()) as usize;
        let description = file.slice(4..4 + size(4));
        let mut at = 4 + size(4);
        let first = at;
        // Ranges to send; a transaction that is not wanted parts them.
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Nothing before the place that was asked for, which is in a file that comes yet.
        let mut begin = 0;
        if let Some((file, position)) = self.place.take_if(|(file, _)| *file == name || file.is_empty()) {
            (begin, _) = (position as usize, file);
        } else if self.place.is_some() {
            begin = usize::MAX;
        }
        let mut wanted = true;
        while at < file.len() {
            if let Some(gtid) = gtid_of(&file[at..]) {
                if self.index == self.transactions {
                    self.ended = true;
                    break;
                }
                self.index += 1;
                wanted = !self.has.has(&gtid);
            }
            let end = at + size(at);
            if wanted && at >= begin {
                match ranges.last_mut() {
                    Some(last) if last.1 == at => last.1 = end,
                    _ => ranges.push((at, end)),
                }
            }
            at = end;
        }
        for (start, end) in ranges {
            self.items.push(Item::File {
                name: name.clone(),
                format_description: description.clone(),
                position: if start == first { 4 } else { start as u64 },
            });
            // Pieces that part events anywhere.
            for from in (start..end).step_by(PIECE) {
                self.items.push(Item::Log(file.slice(from..end.min(from + PIECE))));
            }
        }
        Ok(())
    }
}
