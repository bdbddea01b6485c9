//! Connection strings into keys and values, as libpq splits them.
//!
//! Source: `conninfo_uri_parse_options` and `conninfo_parse` in `fe-connect.c`.

use super::Given;
use crate::engine::percent;
use crate::error::{Error, Result};

/// Splits any of the three forms. Errors never repeat the string: it may hold a
/// password.
pub(super) fn parse(text: &str) -> Result<Given> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        uri(rest)
    } else if text.contains('=') {
        keywords(text)
    } else if text.contains("://") {
        Err(broken("its scheme is neither postgres:// nor postgresql://"))
    } else if let Some(place) = place_without_scheme(text) {
        Err(Error::usage("the source's connection string names a host and a port, but does not begin with postgres://")
            .hint(format!("write it as postgres://USER@{place}")))
    } else {
        let mut given = Given::new();
        if !text.is_empty() {
            given.insert("dbname".to_owned(), text.to_owned());
        }
        Ok(given)
    }
}

/// Host, port and database of `[USER[:PASSWORD]@]HOST:PORT[/DATABASE]`, which libpq would
/// take for the name of a database.
fn place_without_scheme(text: &str) -> Option<String> {
    let place = text.rsplit_once('@').map_or(text, |(_, place)| place);
    let (host, database) = place.split_once('/').unwrap_or((place, "postgres"));
    let (name, port) = host.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    (is_port && !name.is_empty()).then(|| format!("{name}:{port}/{database}"))
}

fn broken(why: &str) -> Error {
    Error::config(format!("the source's connection string cannot be read: {why}"))
        .hint("use postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full")
}

/// `[user[:password]@][host[:port],...][/database][?key=value&...]`
fn uri(rest: &str) -> Result<Given> {
    let mut given = Given::new();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            given.insert(key.to_owned(), value);
        }
    };
    let (main, query) = rest.split_once('?').map_or((rest, None), |(main, query)| (main, Some(query)));
    let (authority, database) = main.split_once('/').map_or((main, None), |(a, d)| (a, Some(d)));
    // The last `@` ends the user part: a password typed with a bare `@` still works.
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if let Some(user) = user {
        let (user, password) = user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)));
        put("user", decode(user)?);
        if let Some(password) = password {
            put("password", decode(password)?);
        }
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = split_port(host)?;
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    if names.iter().any(|n| !n.is_empty()) || names.len() > 1 {
        put("host", names.join(","));
    }
    if ports.iter().any(|p| !p.is_empty()) {
        put("port", ports.join(","));
    }
    if let Some(database) = database {
        put("dbname", decode(database)?);
    }
    for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| broken("a parameter after `?` has no `=`"))?;
        let (key, value) = (decode(key)?, decode(value)?);
        // The form JDBC users bring along, accepted by libpq too.
        if key == "ssl" && value == "true" {
            put("sslmode", "require".to_owned());
        } else {
            put(&key, value);
        }
    }
    Ok(given)
}

fn split_port(host: &str) -> Result<(&str, &str)> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, after) = rest.split_once(']').ok_or_else(|| broken("`[` before an IPv6 address is not closed"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if after.is_empty() => Ok((name, "")),
            None => Err(broken("something other than a port follows `]`")),
        };
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn decode(text: &str) -> Result<String> {
    percent::decode(text).map_err(broken)
}

/// `key = value key='quoted value with \' and \\'`
fn keywords(text: &str) -> Result<Given> {
    let mut given = Given::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(given);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') || key.is_empty() {
            return Err(broken("a keyword is not followed by `=`"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = chars.next_if_eq(&'\'').is_some();
        loop {
            match chars.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(broken("a quote is not closed")),
                None => break,
            }
        }
        if !value.is_empty() {
            given.insert(key, value);
        }
    }
}
