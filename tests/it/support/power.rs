//! What a disk may look like after the power failed.
//!
//! `strace` records what a command does to a directory, with the bytes; [`Disk`] repeats it in memory and remembers what an
//! fsync has made durable. At any moment it can be laid out as it may be found then: of what is not durable any part may be
//! there, in pieces of 512 bytes and in any order, and names that no fsync of their directory followed may be there or not. What an
//! fsync that *failed* should have made durable, no later one does: the kernel takes it for written.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::server::format_lsn;

/// A disk writes so many bytes or none of them.
const SECTOR: usize = 512;

/// The calls that are recorded. `close` tells nothing; a thread's calls are in its own order.
const CALLS: &str = "openat,pwrite64,write,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,\
                     mkdir,mkdirat,rmdir,sendto,fallocate,copy_file_range,sendfile,pwritev,pwritev2";

/// Takes the record of one command.
pub struct Recorder {
    pipe: PathBuf,
    reader: JoinHandle<u64>,
}

impl Recorder {
    /// Into the file `trace`.
    pub fn new(trace: &Path) -> Self {
        let pipe = trace.with_extension("pipe");
        let _ = fs::remove_file(&pipe);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        let (from, mut to) = (pipe.clone(), File::create(trace).expect("a file"));
        // The tracer is nobody's child: it has ended when it has closed the pipe.
        let reader = std::thread::spawn(move || {
            std::io::copy(&mut File::open(from).expect("a pipe"), &mut to).expect("the record")
        });
        Self { pipe, reader }
    }

    /// The first words of the command, with `faults` that are injected.
    pub fn words(&self, faults: &[String]) -> Vec<String> {
        let words = format!("strace -D -f -q -y -ttt -s 4000000 -e signal=none -e trace={CALLS}");
        let mut words: Vec<String> = words.split(' ').map(String::from).collect();
        words.extend(faults.iter().flat_map(|fault| ["-e".to_owned(), fault.clone()]));
        words.extend(["-o".to_owned(), self.pipe.to_str().expect("a name").to_owned()]);
        words
    }

    /// Waits for the end of the record of a command that has ended.
    pub fn end(self) {
        assert!(self.reader.join().expect("the record") > 0, "strace has recorded nothing");
    }
}

/// How sure it is that something is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sure {
    Durable,
    /// The next fsync makes it so.
    Pending,
    /// No fsync does any more: one has failed.
    Lost,
}

#[derive(Clone, Debug)]
enum Change {
    /// Of a file.
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    Resize(usize),
    /// Of a directory.
    Name(String, usize),
    Remove(String),
    Move {
        from: String,
        to: String,
        inode: usize,
    },
}

#[derive(Default)]
struct Inode {
    is_dir: bool,
    bytes: Vec<u8>,
    names: BTreeMap<String, usize>,
    changes: Vec<(Change, Sure)>,
    /// How many changes are in `bytes` or `names` already.
    folded: usize,
}

/// A directory on a disk, and all below it.
pub struct Disk {
    root: PathBuf,
    inodes: Vec<Inode>,
    /// What a process sees there.
    seen: HashMap<PathBuf, usize>,
    /// The highest position that the server was told is durable.
    pub told: u64,
    /// When the last call that counts ended, in microseconds since 1970.
    pub at_micros: i64,
}

impl Disk {
    /// A directory as it is, all of it durable.
    pub fn read(root: &Path) -> Self {
        let top = Inode { is_dir: true, ..Inode::default() };
        let seen = HashMap::from([(root.to_owned(), 0)]);
        let mut disk = Self { root: root.to_owned(), inodes: vec![top], seen, told: 0, at_micros: 0 };
        disk.read_dir(root, 0);
        disk
    }

    fn read_dir(&mut self, path: &Path, dir: usize) {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            let (name, path) = (entry.file_name().into_string().expect("a name"), entry.path());
            let is_dir = path.is_dir();
            let bytes = if is_dir { Vec::new() } else { fs::read(&path).expect("a file") };
            let inode = self.add(Inode { is_dir, bytes, ..Inode::default() }, &path);
            self.inodes[dir].names.insert(name, inode);
            if is_dir {
                self.read_dir(&path, inode);
            }
        }
    }

    fn add(&mut self, inode: Inode, path: &Path) -> usize {
        self.inodes.push(inode);
        self.seen.insert(path.to_owned(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    /// Repeats what was recorded in `trace`. After each call that changed something, `each` may look.
    pub fn replay(&mut self, trace: &Path, mut each: impl FnMut(&Self, &str)) {
        let file = BufReader::new(File::open(trace).expect("a trace"));
        // Calls that have begun, by thread: their first part, and what an fsync found.
        let mut begun: HashMap<String, (String, Option<(usize, usize)>)> = HashMap::new();
        for line in file.split(b'\n') {
            // All that is not ASCII is escaped.
            let line = String::from_utf8(line.expect("a line")).expect("text");
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((time, text)) = rest.trim_start().split_once(' ') else { continue };
            if let Some(first) = text.strip_suffix(" <unfinished ...>") {
                let found = self.to_sync(first);
                begun.insert(thread.to_owned(), (first.to_owned(), found));
                continue;
            }
            let (text, found) = match text.strip_prefix("<... ") {
                Some(resumed) => {
                    let Some((_, last)) = resumed.split_once(" resumed>") else { continue };
                    let Some((first, found)) = begun.remove(thread) else { continue };
                    (first + last, found)
                }
                None => (text.to_owned(), self.to_sync(text)),
            };
            self.at_micros = (time.parse::<f64>().unwrap_or_default() * 1e6) as i64;
            if let Some(what) = self.call(&text, found) {
                each(self, &what);
            }
        }
    }

    /// The inode that an fsync is about, and how many of its changes had been made when it began.
    fn to_sync(&self, text: &str) -> Option<(usize, usize)> {
        let args = text.strip_prefix("fsync(").or_else(|| text.strip_prefix("fdatasync("))?;
        let inode = *self.seen.get(&path_of_fd(args)?)?;
        Some((inode, self.inodes[inode].folded + self.inodes[inode].changes.len()))
    }

    /// Repeats one call; gives its name if it changed anything here.
    fn call(&mut self, text: &str, found: Option<(usize, usize)>) -> Option<String> {
        let (call, args) = text.split_once('(')?;
        let (args, result) = args.rsplit_once(" = ")?;
        let done: Option<usize> = result.split(['<', ' ']).next().and_then(|number| number.parse().ok());
        match (call, done) {
            ("fsync" | "fdatasync", _) => {
                let (inode, count) = found?;
                let inode = &mut self.inodes[inode];
                let sure = if done.is_some() { Sure::Durable } else { Sure::Lost };
                let count = count.saturating_sub(inode.folded);
                for (_, change) in inode.changes.iter_mut().take(count).filter(|(_, change)| *change == Sure::Pending) {
                    *change = sure;
                }
                fold(inode);
            }
            (_, None) => return None,
            ("sendto", _) => {
                let told = acknowledged(&strings(args).concat());
                if told <= self.told {
                    return None;
                }
                self.told = told;
            }
            ("openat", _) => {
                let path = path_of_fd(result)?;
                if !path.starts_with(&self.root) {
                    return None;
                }
                match self.seen.get(&path) {
                    Some(inode) if args.contains("O_TRUNC") => self.change(*inode, Change::Resize(0)),
                    None if args.contains("O_CREAT") => {
                        let inode = self.add(Inode::default(), &path);
                        self.name(&path, |name| Change::Name(name, inode));
                    }
                    _ => return None,
                }
            }
            ("pwrite64" | "write" | "writev", Some(done)) => {
                let inode = *self.seen.get(&path_of_fd(args)?)?;
                let bytes = strings(args).concat();
                assert!(bytes.len() >= done, "the trace lacks what was written: {} of {done}", bytes.len());
                let at = match call {
                    "pwrite64" => {
                        args.trim_end_matches(')').rsplit(", ").next()?.parse().expect("where it was written")
                    }
                    // Those are appended to files that are new, or open for that.
                    _ => self.len(inode),
                };
                self.change(inode, Change::Write { at, bytes: bytes[..done].to_vec() });
            }
            ("ftruncate", _) => {
                let inode = *self.seen.get(&path_of_fd(args)?)?;
                let len = args.trim_end_matches(')').rsplit(", ").next()?.parse().expect("a length");
                self.change(inode, Change::Resize(len));
            }
            ("mkdir" | "mkdirat", _) => {
                let path = self.path(args, 0)?;
                let inode = self.add(Inode { is_dir: true, ..Inode::default() }, &path);
                self.name(&path, |name| Change::Name(name, inode));
            }
            ("unlink" | "unlinkat" | "rmdir", _) => {
                let path = self.path(args, 0)?;
                self.seen.remove(&path)?;
                self.name(&path, Change::Remove);
            }
            ("rename" | "renameat" | "renameat2", _) => {
                let (from, to) = (self.path(args, 0)?, self.path(args, 1)?);
                assert_eq!(from.parent(), to.parent(), "from one directory to another");
                let inode = self.seen.remove(&from)?;
                assert!(!self.inodes[inode].is_dir, "a directory");
                self.seen.insert(to.clone(), inode);
                let from = from.file_name()?.to_str()?.to_owned();
                self.name(&to, |to| Change::Move { from, to, inode });
            }
            ("link" | "linkat", _) => {
                let to = self.path(args, 1)?;
                let inode = *self.seen.get(&self.path(args, 0)?)?;
                self.seen.insert(to.clone(), inode);
                self.name(&to, |name| Change::Name(name, inode));
            }
            _ if self.path(args, 0).is_some() || path_of_fd(args).is_some_and(|path| path.starts_with(&self.root)) => {
                panic!("a call that is not understood: {text:.200}")
            }
            _ => return None,
        }
        Some(call.to_owned())
    }

    /// The path that is the given one of a call's strings, if it lies here.
    fn path(&self, args: &str, which: usize) -> Option<PathBuf> {
        let path = PathBuf::from(String::from_utf8(strings(args).into_iter().nth(which)?).ok()?);
        path.starts_with(&self.root).then_some(path)
    }

    fn name(&mut self, path: &Path, change: impl FnOnce(String) -> Change) {
        let dir = self.seen[path.parent().expect("a directory")];
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        self.change(dir, change(name));
    }

    fn change(&mut self, inode: usize, change: Change) {
        self.inodes[inode].changes.push((change, Sure::Pending));
    }

    /// How long a process sees the file.
    fn len(&self, inode: usize) -> usize {
        let inode = &self.inodes[inode];
        inode.changes.iter().fold(inode.bytes.len(), |len, (change, _)| match change {
            Change::Write { at, bytes } => len.max(at + bytes.len()),
            Change::Resize(len) => *len,
            _ => len,
        })
    }

    /// Lays the disk out in `to` as it may be found if the power fails now.
    pub fn lay_out(&self, to: &Path, dice: &mut StdRng) {
        let luck = Luck::draw(dice);
        self.lay_out_dir(0, to, luck, dice);
    }

    fn lay_out_dir(&self, dir: usize, to: &Path, luck: Luck, dice: &mut StdRng) {
        fs::create_dir_all(to).expect("a directory");
        let dir = &self.inodes[dir];
        let mut names = dir.names.clone();
        for change in kept(&dir.changes, luck, dice) {
            match change {
                Change::Name(name, inode) => drop(names.insert(name, inode)),
                Change::Remove(name) => drop(names.remove(&name)),
                Change::Move { from, to, inode } => {
                    names.remove(&from);
                    names.insert(to, inode);
                }
                Change::Write { .. } | Change::Resize(_) => {}
            }
        }
        for (name, inode) in names {
            let to = to.join(name);
            if self.inodes[inode].is_dir {
                self.lay_out_dir(inode, &to, luck, dice);
            } else {
                fs::write(to, contents(&self.inodes[inode], luck, dice)).expect("a file");
            }
        }
    }
}

/// What becomes of what is not durable.
#[derive(Clone, Copy, Debug)]
enum Luck {
    None,
    All,
    /// In order, up to somewhere.
    Some,
    /// Any part of it.
    Any,
}

impl Luck {
    fn draw(dice: &mut StdRng) -> Self {
        [Self::None, Self::All, Self::Some, Self::Any][dice.random_range(0..4)]
    }
}

/// Those of `changes` that are found on the disk.
fn kept(changes: &[(Change, Sure)], luck: Luck, dice: &mut StdRng) -> Vec<Change> {
    let unsure = changes.iter().filter(|(_, sure)| *sure != Sure::Durable).count();
    let until = dice.random_range(0..=unsure);
    let mut met = 0;
    let mut found = Vec::new();
    for (change, sure) in changes {
        met += usize::from(*sure != Sure::Durable);
        let keep = match (sure, luck) {
            (Sure::Durable, _) | (_, Luck::All) => true,
            (_, Luck::None) => false,
            (_, Luck::Some) => met <= until,
            (_, Luck::Any) => dice.random(),
        };
        if keep {
            found.push(change.clone());
        }
    }
    found
}

/// A file's bytes as they are found.
fn contents(inode: &Inode, luck: Luck, dice: &mut StdRng) -> Vec<u8> {
    let mut found = inode.bytes.clone();
    let unsure = inode.changes.iter().filter(|(_, sure)| *sure != Sure::Durable).count();
    let until = dice.random_range(0..=unsure);
    let mut met = 0;
    for (change, sure) in &inode.changes {
        met += usize::from(*sure != Sure::Durable);
        let sure = match luck {
            _ if *sure == Sure::Durable => true,
            Luck::None => false,
            Luck::All => true,
            Luck::Some if met != until => met < until,
            // The last one may be there in part.
            Luck::Some | Luck::Any => {
                torn(&mut found, change, dice);
                continue;
            }
        };
        if sure {
            apply(&mut found, change);
        }
    }
    found
}

fn apply(found: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { at, bytes } => {
            let end = at + bytes.len();
            found.resize(found.len().max(end), 0);
            found[*at..end].copy_from_slice(bytes);
        }
        Change::Resize(len) => found.resize(*len, 0),
        Change::Name(..) | Change::Remove(_) | Change::Move { .. } => {}
    }
}

/// Some sectors of a write are there and others are not. The file may have become longer without them.
fn torn(found: &mut Vec<u8>, change: &Change, dice: &mut StdRng) {
    let Change::Write { at, bytes } = change else { return apply(found, change) };
    if dice.random() {
        found.resize(found.len().max(at + bytes.len()), 0);
    }
    let mut from = 0;
    while from < bytes.len() {
        let to = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
        if dice.random() {
            apply(found, &Change::Write { at: at + from, bytes: bytes[from..to].to_vec() });
        }
        from = to;
    }
}

/// Takes what is durable, and nothing unsure lies before, for the file itself.
fn fold(inode: &mut Inode) {
    let durable = inode.changes.iter().take_while(|(_, sure)| *sure == Sure::Durable).count();
    inode.folded += durable;
    for (change, _) in inode.changes.drain(..durable) {
        match change {
            Change::Name(name, inode_of) => drop(inode.names.insert(name, inode_of)),
            Change::Remove(name) => drop(inode.names.remove(&name)),
            Change::Move { from, to, inode: moved } => {
                inode.names.remove(&from);
                inode.names.insert(to, moved);
            }
            write => apply(&mut inode.bytes, &write),
        }
    }
}

/// `12</some/path>, ...`: the path.
fn path_of_fd(args: &str) -> Option<PathBuf> {
    let (_, rest) = args.split_once('<').filter(|(number, _)| number.parse::<u32>().is_ok())?;
    Some(PathBuf::from(rest.split_once('>')?.0))
}

/// The strings among a call's arguments.
fn strings(args: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = args.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'"') {
        rest = &rest[at + 1..];
        let mut text = Vec::new();
        loop {
            let special = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).expect("the end of a string");
            text.extend_from_slice(&rest[..special]);
            if rest[special] == b'"' {
                rest = &rest[special + 1..];
                break;
            }
            rest = &rest[special + 1..];
            let digits = rest.iter().take(3).take_while(|byte| (b'0'..b'8').contains(byte)).count();
            if digits == 0 {
                text.push(match rest[0] {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 11,
                    b'f' => 12,
                    other => other,
                });
            } else {
                text.push(rest[..digits].iter().fold(0, |value: u8, digit| value.wrapping_mul(8) + (digit - b'0')));
            }
            rest = &rest[digits.max(1)..];
        }
        all.push(text);
    }
    all
}

/// The flush position of the last standby status update in what was sent: `d`, length 38, `r`, write, flush, apply, time, reply.
fn acknowledged(mut sent: &[u8]) -> u64 {
    let mut told = 0;
    while let Some((message, rest)) = sent.split_at_checked(39) {
        if !message.starts_with(b"d\0\0\0\x26r") {
            break;
        }
        told = u64::from_be_bytes(message[14..22].try_into().expect("eight bytes"));
        sent = rest;
    }
    told
}

/// A directory that tells what it holds when its test fails. Removed with its end.
pub struct State(pub PathBuf);

impl Drop for State {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tree(&self.0);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn print_tree(dir: &Path) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            print_tree(&path);
        } else {
            let bytes = fs::read(&path).unwrap_or_default();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            let last = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            eprintln!("{}: {} bytes, of which {first:x} to {last:x} are not zero", path.display(), bytes.len());
        }
    }
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} told", format_lsn(self.told))
    }
}
