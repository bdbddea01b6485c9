//! Proves the password to the server, by the plugin the server names.
//!
//! | plugin | what leaves this process |
//! |---|---|
//! | `mysql_native_password` | a SHA-1 proof over the server's nonce |
//! | `caching_sha2_password` | a SHA-256 proof; when the server has none cached, the password, see below |
//! | `sha256_password` | the password, see below |
//! | `client_ed25519` (MariaDB) | a signature of the nonce |
//! | `parsec` (MariaDB) | a signature of both sides' nonces |
//!
//! The password itself is sent through TLS or a Unix socket only; on a TCP connection in the
//! clear it is encrypted with the RSA key the server gives (OAEP), which protects it from
//! those who listen, not from one who stands in between: that is what `ssl-mode` is for.
//! `mysql_clear_password`, `dialog` and `mysql_old_password` are refused by name, whoever asks.
//!
//! No socket here: packets in, packets out. Source: MySQL Internals, "Authentication Methods";
//! `sql-common/client_authentication.cc`; MariaDB `plugin/auth_ed25519`, `plugin/auth_parsec`.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use mysql_common::packets::parse_parsec_salt;
use mysql_common::scramble::{
    create_response_for_ed25519, create_response_for_parsec, scramble_native, scramble_sha256,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

use super::handshake::Greeting;
use super::reply::Cursor;
use super::server_error::ServerError;
use crate::error::{Error, Kind, Result};

/// PARSEC's iterations, at most: 2^20, half a second. A server that asks for more keeps us
/// busy; MariaDB asks for 2^13.
const PARSEC_ITERATIONS_MAX: u32 = 1 << 20;

/// Bytes of nonce that Ed25519 signatures are made over.
const SIGNED_NONCE_BYTES: usize = 32;

/// A way to prove the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    Native,
    CachingSha2,
    Sha256,
    Ed25519,
    Parsec,
}

impl Plugin {
    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "mysql_native_password" => Self::Native,
            "caching_sha2_password" => Self::CachingSha2,
            "sha256_password" => Self::Sha256,
            "client_ed25519" => Self::Ed25519,
            "parsec" => Self::Parsec,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
            Self::Ed25519 => "client_ed25519",
            Self::Parsec => "parsec",
        }
    }
}

/// What to do after a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send this packet.
    Send(Vec<u8>),
    /// Wait for the next.
    Wait,
    /// We are in.
    Done,
    /// The server says no.
    Refused(ServerError),
}

/// One login.
pub(super) struct Authenticator<'a> {
    password: &'a str,
    /// Whether nobody can read along.
    private: bool,
    plugin: Plugin,
    nonce: Vec<u8>,
    /// Whether the server has named a plugin after the greeting; it may do so once.
    switched: bool,
    /// Whether the server's RSA key was asked for.
    key_asked: bool,
}

impl<'a> Authenticator<'a> {
    /// Begins with what the greeting supposes, where we know it; else with MySQL's default,
    /// and the server names the account's own plugin.
    pub(super) fn new(greeting: &Greeting, password: Option<&'a str>, private: bool) -> Self {
        let plugin = match Plugin::by_name(&greeting.plugin) {
            // Only these take the greeting's nonce.
            Some(plugin @ (Plugin::Native | Plugin::CachingSha2)) => plugin,
            _ => Plugin::CachingSha2,
        };
        Self {
            password: password.unwrap_or_default(),
            private,
            plugin,
            nonce: greeting.nonce.clone(),
            switched: false,
            key_asked: false,
        }
    }

    /// The plugin in use.
    pub(super) const fn plugin(&self) -> &'static str {
        self.plugin.name()
    }

    /// The plugin's first packet, which is also part of our answer to the greeting.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for a nonce the plugin cannot use.
    pub(super) fn proof(&mut self) -> Result<Vec<u8>> {
        let password = self.password.as_bytes();
        Ok(match self.plugin {
            // No password is no proof here.
            Plugin::Native => scramble_native(&self.nonce, password).map(Vec::from).unwrap_or_default(),
            Plugin::CachingSha2 => scramble_sha256(&self.nonce, password).map(Vec::from).unwrap_or_default(),
            Plugin::Sha256 if password.is_empty() => vec![0],
            Plugin::Sha256 if self.private => self.clear(),
            Plugin::Sha256 => self.ask_for_key(1),
            Plugin::Ed25519 if password.is_empty() => Vec::new(),
            Plugin::Ed25519 => create_response_for_ed25519(password, &self.signed_nonce()?).to_vec(),
            // It begins with the server's salt, which an empty packet asks for.
            Plugin::Parsec => Vec::new(),
        })
    }

    /// Takes a packet of the server.
    ///
    /// # Errors
    /// [`Kind::DatabaseUnreachable`] for a plugin that is not known, or what no plugin says.
    pub(super) fn step(&mut self, payload: &[u8]) -> Result<Next> {
        match payload.split_first() {
            Some((0x00, _)) => Ok(Next::Done),
            Some((0x01, data)) => self.more(data),
            Some((0xfe, switch)) => self.switch(switch),
            Some((0xff, _)) => ServerError::parse(payload).map(Next::Refused).ok_or_else(|| self.unexpected()),
            // The first servers with PARSEC sent the salt without the 1 before it.
            Some(_) if self.plugin == Plugin::Parsec => self.more(payload),
            _ => Err(self.unexpected()),
        }
    }

    /// The account's own plugin and a new nonce.
    fn switch(&mut self, payload: &[u8]) -> Result<Next> {
        if self.switched {
            return Err(self.unexpected());
        }
        self.switched = true;
        let mut cursor = Cursor::new("request for another authentication", payload);
        // Nothing more than the 0xfe asks for the passwords of MySQL 4.0.
        let name = if payload.is_empty() { "mysql_old_password".to_owned() } else { cursor.text()? };
        self.plugin = Plugin::by_name(&name).ok_or_else(|| unknown_plugin(&name))?;
        let nonce = cursor.remainder();
        self.nonce = nonce.strip_suffix(&[0]).unwrap_or(nonce).to_vec();
        if matches!(self.plugin, Plugin::Ed25519 | Plugin::Parsec) {
            // Random bytes that may end in a zero of their own.
            self.nonce = nonce.to_vec();
        }
        Ok(Next::Send(self.proof()?))
    }

    /// Goes on in the plugin's own exchange.
    fn more(&mut self, data: &[u8]) -> Result<Next> {
        match (self.plugin, data) {
            // The proof was enough.
            (Plugin::CachingSha2, [3]) => Ok(Next::Wait),
            // The server has no proof of this account cached: it needs the password.
            (Plugin::CachingSha2, [4]) if self.private => Ok(Next::Send(self.clear())),
            (Plugin::CachingSha2, [4]) => Ok(Next::Send(self.ask_for_key(2))),
            (Plugin::CachingSha2 | Plugin::Sha256, key) if self.key_asked => {
                self.key_asked = false;
                Ok(Next::Send(self.encrypted(key)?))
            }
            (Plugin::Parsec, salt) => {
                let (iterations, salt) = parse_parsec_salt(salt).ok_or_else(|| self.unexpected())?;
                if iterations > PARSEC_ITERATIONS_MAX {
                    return Err(refusal(format!(
                        "the server asks for {iterations} iterations of parsec, and {PARSEC_ITERATIONS_MAX} is the most"
                    )));
                }
                let nonce = self.signed_nonce()?;
                Ok(Next::Send(create_response_for_parsec(self.password.as_bytes(), &nonce, iterations, salt).to_vec()))
            }
            _ => Err(self.unexpected()),
        }
    }

    fn signed_nonce(&self) -> Result<[u8; SIGNED_NONCE_BYTES]> {
        self.nonce.first_chunk().copied().ok_or_else(|| {
            refusal(format!(
                "the server sent a nonce of {} bytes for {}, and {SIGNED_NONCE_BYTES} were expected",
                self.nonce.len(),
                self.plugin.name()
            ))
        })
    }

    fn ask_for_key(&mut self, request: u8) -> Vec<u8> {
        self.key_asked = true;
        vec![request]
    }

    /// The password as the server wants it where nobody can read along.
    fn clear(&self) -> Vec<u8> {
        let mut clear = self.password.as_bytes().to_vec();
        clear.push(0);
        clear
    }

    /// The password, mixed with the nonce, for the owner of `key`.
    fn encrypted(&self, key: &[u8]) -> Result<Vec<u8>> {
        let broken = |why: &dyn std::fmt::Display| {
            refusal(format!("the server's RSA key cannot be used: {why}"))
                .hint("connect with TLS (ssl-mode), or through the server's Unix socket")
        };
        let key = SubjectPublicKeyInfoDer::from_pem_slice(key).map_err(|e| broken(&e))?;
        let key = PublicEncryptingKey::from_der(key.as_ref()).map_err(|e| broken(&e))?;
        let key = OaepPublicEncryptingKey::new(key).map_err(|e| broken(&e))?;
        let mut secret = self.clear();
        for (byte, nonce) in secret.iter_mut().zip(self.nonce.iter().cycle()) {
            *byte ^= nonce;
        }
        let mut out = vec![0; key.ciphertext_size()];
        let length = key
            .encrypt(&OAEP_SHA1_MGF1SHA1, &secret, &mut out, None)
            .map_err(|_| broken(&format!("it takes no password of {} bytes", secret.len() - 1)))?
            .len();
        out.truncate(length);
        Ok(out)
    }

    fn unexpected(&self) -> Error {
        refusal(format!("the server sent something that {} does not know", self.plugin.name()))
            .hint("is it a MySQL or MariaDB server that listens there?")
    }
}

fn refusal(message: String) -> Error {
    Error::new(Kind::DatabaseUnreachable, message)
}

/// The account wants a plugin that is not known here.
pub(in crate::engine::mysql) fn unknown_plugin(name: &str) -> Error {
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    let error = refusal(format!("the account uses the authentication plugin {name:?}, which pitr does not speak"));
    error.hint(match name.as_str() {
        "mysql_clear_password" | "dialog" => {
            "pitr never sends a password as it is; make an account with caching_sha2_password, ed25519 or parsec"
        }
        _ => "make an account with caching_sha2_password (MySQL), ed25519 or mysql_native_password (MariaDB)",
    })
}
