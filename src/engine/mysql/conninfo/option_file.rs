//! Option files (`my.cnf`) as the clients read them.
//!
//! ```text
//! # comment                       ; comment
//! [client]
//! password = "a \"b\" # c"        # comment after a value
//! ssl_ca=/etc/ca.pem              the same as ssl-ca
//! skip-ssl                        the same as ssl=0
//! !include /etc/other.cnf
//! !includedir /etc/mysql/conf.d
//! ```
//!
//! The last of two equal options counts. Source: MySQL manual, "Using Option Files";
//! `mysys/my_default.cc` (both families).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::url::Given;
use super::{Lookup, invalid};
use crate::error::{Error, Result};

/// Files that count for everybody on this machine, in the order they are read.
pub(super) const GLOBAL_FILES: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];

/// Groups that every client reads, and every client of MariaDB.
const GROUPS: [&str; 3] = ["client", "client-server", "client-mariadb"];

/// How deep files may include each other (`max_recursion_level`).
const DEPTH_MAX: usize = 10;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What option files say.
#[derive(Default)]
pub(super) struct Options {
    /// By name, `-` between words; empty for an option without a value.
    values: BTreeMap<String, String>,
    pub(super) password: Option<SecretString>,
}

impl Options {
    pub(super) fn get(&self, key: &str) -> Option<&String> {
        self.values.get(key)
    }

    /// An option that is on or off.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(text) = self.values.get(key) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "" | "1" | "on" | "true" | "yes" => Ok(Some(true)),
            "0" | "off" | "false" | "no" => Ok(Some(false)),
            _ => Err(invalid(key, text, "on or off")),
        }
    }

    fn set(&mut self, name: &str, value: Option<String>) {
        let name = name.replace('_', "-").to_ascii_lowercase();
        let name = name.strip_prefix("loose-").unwrap_or(&name);
        if name == "password" {
            // Without a value the clients ask on the terminal.
            self.password = value.map(SecretString::from);
            return;
        }
        let off = name.strip_prefix("skip-").or_else(|| name.strip_prefix("disable-"));
        let (name, value) = match off {
            Some(name) => (name, "0".to_owned()),
            None => (name, value.unwrap_or_default()),
        };
        self.values.insert(name.to_owned(), value);
    }
}

/// Reads the files that count, taking `defaults-file` and `defaults-extra-file` out of the
/// URL's parameters.
///
/// # Errors
/// [`crate::Kind::Config`] when a file the URL names cannot be read, or a line is not to be
/// understood.
pub(super) fn read(given: &mut Given, lookup: Lookup<'_>, global_files: &[&Path]) -> Result<Options> {
    let mut options = Options::default();
    if let Some(only) = given.values.remove("defaults-file") {
        file(Path::new(&only), true, 0, &mut options)?;
        return Ok(options);
    }
    for path in global_files {
        file(path, false, 0, &mut options)?;
    }
    if let Some(extra) = given.values.remove("defaults-extra-file") {
        file(Path::new(&extra), true, 0, &mut options)?;
    }
    if let Some(home) = lookup("HOME").filter(|h| !h.is_empty()) {
        file(&Path::new(&home).join(".my.cnf"), false, 0, &mut options)?;
    }
    Ok(options)
}

/// Reads one file and what it includes.
fn file(path: &Path, required: bool, depth: usize, options: &mut Options) -> Result<()> {
    let Some(text) = text(path, required)? else { return Ok(()) };
    let mut is_ours = false;
    let mut has_group = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let wrong = |why: &str| {
            Error::config(format!("line {} of option file {} {why}", number + 1, path.display()))
                .hint("`my_print_defaults --defaults-file=FILE client` shows how the clients read it")
        };
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(include) = line.strip_prefix('!') {
            if depth == DEPTH_MAX {
                return Err(wrong("includes a file, and more than ten include each other"));
            }
            for included in included(include).ok_or_else(|| wrong("is neither !include nor !includedir"))? {
                file(&included, false, depth + 1, options)?;
            }
        } else if let Some(group) = line.strip_prefix('[') {
            let (group, _) = group.split_once(']').ok_or_else(|| wrong("has a group that is not closed"))?;
            has_group = true;
            is_ours = GROUPS.contains(&group.trim());
        } else if !has_group {
            return Err(wrong("stands before any group"));
        } else if is_ours {
            let line = without_comment(line);
            match line.split_once('=') {
                Some((name, value)) => options.set(name.trim_end(), Some(unquote(value.trim()))),
                None => options.set(line.trim_end(), None),
            }
        }
    }
    Ok(())
}

/// A file's text; `None` when there is none that counts.
fn text(path: &Path, required: bool) -> Result<Option<String>> {
    let failed = |e| Error::config(format!("option file {} cannot be read", path.display())).because(e);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if required => return Err(failed(error)),
        Err(_) => return Ok(None),
    };
    if metadata.permissions().mode() & 0o002 != 0 && metadata.is_file() {
        tracing::warn!(path = %path.display(), "the option file is ignored, since anybody may write it: chmod o-w");
        return Ok(None);
    }
    if metadata.len() > FILE_BYTES_MAX {
        let size = metadata.len();
        return Err(Error::config(format!("option file {} has {size} bytes", path.display()))
            .hint("is it an option file? 1 MiB is the most"));
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if required => Err(failed(error)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the option file cannot be read and is ignored");
            Ok(None)
        }
    }
}

/// The files that `include FILE` or `includedir DIR` names: in a directory those that end in
/// `.cnf`, by name.
fn included(line: &str) -> Option<Vec<PathBuf>> {
    let (word, path) = line.split_once(char::is_whitespace)?;
    let path = Path::new(path.trim());
    match word {
        "include" => Some(vec![path.to_owned()]),
        "includedir" => {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
            let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "cnf")).collect();
            files.sort();
            Some(files)
        }
        _ => None,
    }
}

/// The line up to a `#` that stands outside quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match (c, quote) {
            ('#', None) => return line.get(..at).unwrap_or(line).trim_end(),
            ('\'' | '"', None) if !escaped => quote = Some(c),
            (c, Some(open)) if c == open && !escaped => quote = None,
            _ => {}
        }
        escaped = quote.is_some() && c == '\\' && !escaped;
    }
    line
}

/// Takes quotes off and resolves escapes.
fn unquote(value: &str) -> String {
    let bare = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
    let mut out = String::with_capacity(value.len());
    let mut chars = bare.unwrap_or(value).chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('s') => out.push(' '),
            Some(c @ ('"' | '\'' | '\\')) => out.push(c),
            // Others stay as they stand: paths of another system.
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    out
}
