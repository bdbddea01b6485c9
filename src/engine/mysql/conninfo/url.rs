//! The URL into its parts.
//!
//! `mysql://[user[:password]@][host[:port],...][/database][?key=value&...]`, IPv6 addresses in
//! brackets, every part percent-encoded where it holds one of `:@/?#[]%,&`.

use std::collections::BTreeMap;

use secrecy::SecretString;

use crate::engine::percent;
use crate::error::{Error, Result};

/// What a URL says.
#[derive(Default)]
pub(super) struct Given {
    /// Hosts and ports, in order; none for a URL without a host.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    pub(super) password: Option<SecretString>,
    /// The other parts and the parameters, `-` between words.
    pub(super) values: BTreeMap<String, String>,
}

/// Parameters that are known.
const KEYS: [&str; 9] = [
    "socket",
    "ssl-mode",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "connect-timeout",
    "semi-sync",
    "defaults-file",
    "defaults-extra-file",
];

/// Splits a URL. Errors never repeat it: it may hold a password.
pub(super) fn parse(text: &str) -> Result<Given> {
    let text = text.trim();
    let rest = text
        .strip_prefix("mysql://")
        .or_else(|| text.strip_prefix("mariadb://"))
        .ok_or_else(|| broken("it begins neither with mysql:// nor with mariadb://"))?;
    let mut given = Given::default();
    let (main, query) = rest.split_once('?').map_or((rest, None), |(main, query)| (main, Some(query)));
    let (authority, database) = main.split_once('/').map_or((main, ""), |(a, d)| (a, d));
    // The last `@` ends the user part: a password typed with a bare `@` still works.
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let (user, password) = user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)));
    given.password = password.map(decode).transpose()?.map(SecretString::from);
    for (key, value) in [("user", user), ("database", database)] {
        if !value.is_empty() {
            given.values.insert(key.to_owned(), decode(value)?);
        }
    }
    if !hosts.is_empty() {
        given.hosts = hosts.split(',').map(place).collect::<Result<_>>()?;
    }
    for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| broken("a parameter after `?` has no `=`"))?;
        let key = decode(key)?.replace('_', "-").to_ascii_lowercase();
        if !KEYS.contains(&key.as_str()) {
            return Err(Error::config(format!("connection parameter {key:?} is not known to pitr"))
                .hint(format!("known are {}", KEYS.join(", "))));
        }
        if given.values.insert(key.clone(), decode(value)?).is_some() {
            return Err(broken(&format!("{key} is given twice")));
        }
    }
    Ok(given)
}

/// `host`, `host:port`, `[address]:port`.
fn place(text: &str) -> Result<(String, Option<u16>)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) =
                rest.split_once(']').ok_or_else(|| broken("`[` before an IPv6 address is not closed"))?;
            match after.strip_prefix(':') {
                Some(port) => (name, port),
                None if after.is_empty() => (name, ""),
                None => return Err(broken("something other than a port follows `]`")),
            }
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let name = decode(name)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '@') {
        return Err(broken("a host is neither a name nor an address (an IPv6 address is written [::1])"));
    }
    Ok((name, if port.is_empty() { None } else { Some(super::settings::port(port)?) }))
}

fn broken(why: &str) -> Error {
    Error::config(format!("the source's URL cannot be read: {why}"))
        .hint("use mysql://USER@HOST:PORT/?ssl-mode=VERIFY_IDENTITY")
}

/// Resolves `%xx`.
fn decode(text: &str) -> Result<String> {
    percent::decode(text).map_err(broken)
}
