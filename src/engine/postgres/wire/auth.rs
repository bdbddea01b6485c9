//! Proving who we are, and that the server knows it: the messages and the decisions,
//! no socket.
//!
//! A server chooses the method, so a server (or somebody in its place) could choose
//! the one that gives the password away. [`Rules`] says what may be answered:
//! `require_auth` as in libpq, cleartext only where nobody can listen, and channel
//! binding when asked for.
//! Source: PostgreSQL manual, "SASL Authentication"; `fe-auth.c`, `fe-auth-scram.c`.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};

use super::cursor::Cursor;
use super::frame::put;
use crate::error::{Error, Kind, Result};

/// What the server wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing more.
    Ok,
    /// The password as it is.
    Cleartext,
    /// MD5 over password, user and this salt.
    Md5([u8; 4]),
    /// One of these SASL mechanisms.
    Sasl(Vec<String>),
    /// The server's first SASL answer.
    SaslContinue(Vec<u8>),
    /// The server's proof.
    SaslFinal(Vec<u8>),
    /// A method pitr does not speak (GSSAPI, SSPI, ...), by its number.
    Other(i32),
}

impl Authentication {
    /// Parses the body of an `Authentication` message.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for a body that is none.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new("Authentication", body);
        Ok(match cursor.i32()? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5(cursor.take(4)?.try_into().map_err(|_| cursor.broken())?),
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    let name = cursor.text()?;
                    if name.is_empty() {
                        break;
                    }
                    mechanisms.push(name);
                    if cursor.is_empty() {
                        return Err(cursor.broken());
                    }
                }
                Self::Sasl(mechanisms)
            }
            11 => Self::SaslContinue(cursor.rest().to_vec()),
            12 => Self::SaslFinal(cursor.rest().to_vec()),
            other => Self::Other(other),
        })
    }
}

/// A way to authenticate, by libpq's name in `require_auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// No authentication at all (`trust`, `peer`, a client certificate).
    None,
    /// The password as it is.
    Password,
    /// MD5.
    Md5,
    /// SCRAM-SHA-256, with or without channel binding.
    Scram,
}

impl Method {
    /// The method's name in `require_auth`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::Scram => "scram-sha-256",
        }
    }
}

/// `require_auth`: which methods may be answered. Empty allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequireAuth {
    names: Vec<String>,
    negated: bool,
}

impl RequireAuth {
    /// Reads libpq's list: `scram-sha-256,none`, or `!password,!md5`.
    ///
    /// # Errors
    /// [`Kind::Config`] for unknown names and for lists that mix both forms.
    pub fn parse(text: &str) -> Result<Self> {
        let mut rules = Self::default();
        for (index, item) in text.split(',').map(str::trim).filter(|i| !i.is_empty()).enumerate() {
            let (name, negated) = item.strip_prefix('!').map_or((item, false), |name| (name, true));
            if !matches!(name, "none" | "password" | "md5" | "scram-sha-256" | "gss" | "sspi" | "oauth" | "creds") {
                return Err(Error::config(format!("require_auth method {name:?} is not known")));
            }
            if index > 0 && negated != rules.negated {
                return Err(Error::config(format!("require_auth {text:?} mixes methods with and without `!`")));
            }
            rules.negated = negated;
            rules.names.push(name.to_owned());
        }
        Ok(rules)
    }

    /// Whether the method may be answered.
    #[must_use]
    pub fn allows(&self, method: Method) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == method.name()) != self.negated
    }

    /// Whether the method was asked for by name.
    #[must_use]
    pub fn names(&self, method: Method) -> bool {
        !self.negated && self.names.iter().any(|n| n == method.name())
    }
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// Never.
    Disable,
    /// When TLS and server can.
    #[default]
    Prefer,
    /// Always, else no connection.
    Require,
}

/// What the connection offers and what the user allows.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which methods may be answered.
    pub require_auth: RequireAuth,
    /// Whether the SCRAM proof must be tied to the TLS session.
    pub binding: Binding,
    /// Hash of the server's certificate (`tls-server-end-point`), when there is TLS
    /// and the certificate's signature has a hash.
    pub endpoint: Option<Vec<u8>>,
    /// Whether nobody can listen: TLS or a Unix socket.
    pub private: bool,
}

enum State {
    Start,
    Scram(Box<ScramSha256>),
    /// The server proved that it knows the password.
    Proven {
        bound: bool,
    },
    Sent,
}

/// One run of authentication.
pub struct Authenticator<'a> {
    rules: &'a Rules,
    user: &'a str,
    password: Option<&'a str>,
    state: State,
    bound: bool,
    method: Method,
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(Kind::DatabaseUnreachable, message)
}

impl<'a> Authenticator<'a> {
    /// Begins.
    #[must_use]
    pub fn new(rules: &'a Rules, user: &'a str, password: Option<&'a str>) -> Self {
        Self { rules, user, password, state: State::Start, bound: false, method: Method::None }
    }

    /// Takes the server's next step and gives the message to answer with, if any.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] when the server asks for something the rules
    /// forbid, when there is no password, or when its proof is wrong.
    pub fn step(&mut self, step: Authentication) -> Result<Option<Vec<u8>>> {
        match step {
            Authentication::Ok => self.finish().map(|()| None),
            Authentication::Cleartext => {
                self.choose(Method::Password)?;
                if !self.rules.private && !self.rules.require_auth.names(Method::Password) {
                    return Err(refused("the server asks for the password in clear text on a connection without TLS")
                        .hint(
                            "use sslmode=verify-full, or scram-sha-256 in pg_hba.conf; require_auth=password allows it",
                        ));
                }
                let password = self.password()?;
                Ok(Some(password_message(password)))
            }
            Authentication::Md5(salt) => {
                self.choose(Method::Md5)?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt);
                Ok(Some(password_message(&hash)))
            }
            Authentication::Sasl(mechanisms) => self.begin_scram(&mechanisms).map(Some),
            Authentication::SaslContinue(data) => {
                let State::Scram(scram) = &mut self.state else {
                    return Err(refused("the server continued a SCRAM exchange that was not begun"));
                };
                scram.update(&data).map_err(|e| {
                    refused("the server's SCRAM answer is not acceptable").because(e).hint(
                        "is scram_iterations above 100000? pitr refuses that, since it lets a server stall a client",
                    )
                })?;
                let mut message = Vec::new();
                put(&mut message, b'p', scram.message());
                Ok(Some(message))
            }
            Authentication::SaslFinal(data) => {
                let State::Scram(scram) = &mut self.state else {
                    return Err(refused("the server ended a SCRAM exchange that was not begun"));
                };
                scram.finish(&data).map_err(|e| {
                    refused("the server could not prove that it knows the password")
                        .because(e)
                        .hint("is this really the server? somebody may have taken its place")
                })?;
                self.state = State::Proven { bound: self.bound };
                Ok(None)
            }
            Authentication::Other(number) => Err(refused(format!(
                "the server asks for authentication method {number}, which pitr does not speak"
            ))
            .hint("use scram-sha-256, a client certificate, or peer on a Unix socket; `pitr grants` prints the line")),
        }
    }

    fn choose(&mut self, method: Method) -> Result<()> {
        if !matches!(self.state, State::Start) {
            return Err(refused("the server changed the authentication method half-way"));
        }
        if !self.rules.require_auth.allows(method) {
            return Err(refused(format!("the server asks for method {:?}, which require_auth forbids", method.name())));
        }
        if self.rules.binding == Binding::Require && method != Method::Scram {
            return Err(refused(format!(
                "channel_binding=require, but the server asks for method {:?}, which cannot bind",
                method.name()
            )));
        }
        self.method = method;
        self.state = State::Sent;
        Ok(())
    }

    fn password(&self) -> Result<&'a str> {
        self.password.ok_or_else(|| {
            refused(format!("the server asks for the password of {:?} and none is known", self.user))
                .hint("put it into ~/.pgpass (mode 0600, database `replication`), PGPASSWORD or the URL")
        })
    }

    fn begin_scram(&mut self, mechanisms: &[String]) -> Result<Vec<u8>> {
        self.choose(Method::Scram)?;
        let offers = |name: &str| mechanisms.iter().any(|m| m == name);
        let endpoint = match self.rules.binding {
            Binding::Disable => None,
            Binding::Prefer | Binding::Require => self.rules.endpoint.clone(),
        };
        let (name, binding) = match endpoint {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                self.bound = true;
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            _ if self.rules.binding == Binding::Require => {
                return Err(refused("channel_binding=require, but it is not possible on this connection").hint(
                    "it needs TLS, a server that offers SCRAM-SHA-256-PLUS, and a certificate not signed with Ed25519",
                ));
            }
            // "y": we could bind but believe that the server cannot. A server that can
            // then knows that somebody between us removed the offer, and refuses.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(refused(format!("the server offers only {mechanisms:?}, none of which pitr speaks"))),
        };
        let password = self.password()?;
        let scram = ScramSha256::new(password.as_bytes(), binding);
        let first = scram.message();
        let mut body = name.as_bytes().to_vec();
        body.push(0);
        body.extend(u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend(first);
        let mut message = Vec::new();
        put(&mut message, b'p', &body);
        self.state = State::Scram(Box::new(scram));
        Ok(message)
    }

    fn finish(&mut self) -> Result<()> {
        match self.state {
            // AuthenticationOk in the middle of SCRAM would skip the server's proof.
            State::Scram(_) => Err(refused("the server skipped its proof that it knows the password")
                .hint("is this really the server? somebody may have taken its place")),
            State::Start => {
                self.choose(Method::None)?;
                Ok(())
            }
            State::Proven { bound: false } if self.rules.binding == Binding::Require => {
                Err(refused("channel_binding=require, but the exchange was not bound"))
            }
            State::Proven { .. } | State::Sent => Ok(()),
        }
    }
}

fn password_message(password: &str) -> Vec<u8> {
    let mut body = password.as_bytes().to_vec();
    body.push(0);
    let mut message = Vec::new();
    put(&mut message, b'p', &body);
    message
}

#[cfg(test)]
mod tests;
