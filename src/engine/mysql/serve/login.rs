//! Whether a client knows the password.
//!
//! Both plugins prove it with a scramble of the password and the greeting's nonce. We know the
//! password, so that the scramble is made again and compared, and nothing secret is sent.

use mysql_common::scramble::scramble_native;
use mysql_common::scramble::scramble_sha256;

use super::Flavor;
use super::packets::NONCE;

/// The authentication plugins a replica can log in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    /// `mysql_native_password`: the only one every MariaDB has; MySQL 9 no longer has it.
    Native,
    /// `caching_sha2_password`: MySQL's.
    CachingSha2,
}

impl Plugin {
    /// What a server of this kind begins with.
    pub(super) fn default_of(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MySql => Self::CachingSha2,
            Flavor::MariaDb => Self::Native,
        }
    }

    /// The plugin of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Native, Self::CachingSha2].into_iter().find(|plugin| plugin.name() == name)
    }

    /// Its name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
        }
    }

    /// Whether `proof` is that of a client that knows `password`.
    pub(super) fn proves(self, proof: &[u8], nonce: &[u8; NONCE], password: &[u8]) -> bool {
        let expected = match self {
            Self::Native => scramble_native(nonce, password).map(Vec::from),
            Self::CachingSha2 => scramble_sha256(nonce, password).map(Vec::from),
        };
        // Every byte is looked at: how long it takes tells nothing.
        expected.is_some_and(|expected| {
            expected.len() == proof.len() && expected.iter().zip(proof).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
        })
    }
}
