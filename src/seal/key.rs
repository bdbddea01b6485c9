//! The two files that `pitr key new` makes, and what they are good for.
//!
//! Both are text, a value on each line; what begins with `#` is for people, but for the line of a
//! restore key that names the writer. A restore key is an age identity file as well: `age -d -i` takes it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use age::x25519;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;

use super::object::{Key, Writer, derive};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{ClusterName, Identity};
use crate::model::time::Timestamp;

const ARCHIVER: &str = "PITR-ARCHIVER-KEY-1";
const WRITER: &str = "# pitr writer: ";

/// A secret that no log line shows.
#[derive(Clone)]
pub struct Secret(Arc<secrecy::SecretBox<Key>>);

impl Secret {
    /// Keeps a key.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self(Arc::new(secrecy::SecretBox::new(Box::new(key))))
    }

    /// A new one, from the operating system's randomness.
    ///
    /// # Errors
    /// [`Kind::Failure`] when there is none.
    pub fn random() -> Result<Self> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|e| Error::failure("the system gives no random bytes").because(e))?;
        Ok(Self::new(key))
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &Key {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What an archiver has: it signs, and says for whom data keys are wrapped.
#[derive(Clone)]
pub struct ArchiverKey {
    secret: Secret,
    recipients: Vec<x25519::Recipient>,
}

impl ArchiverKey {
    /// A new one, for these restore keys.
    ///
    /// # Errors
    /// [`Kind::Failure`] when the system gives no random bytes.
    pub fn generate(recipients: Vec<x25519::Recipient>) -> Result<Self> {
        Ok(Self { secret: Secret::random()?, recipients })
    }

    /// The restore keys that can open what this one seals.
    #[must_use]
    pub fn recipients(&self) -> &[x25519::Recipient] {
        &self.recipients
    }

    /// What signs.
    ///
    /// # Errors
    /// [`Kind::Failure`] when the library fails.
    pub fn signer(&self) -> Result<Ed25519KeyPair> {
        let seed = derive(self.secret.expose(), &[], &[b"pitr signing"])?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|e| Error::failure("cannot make a signing key").because(e))
    }

    /// The public half of what signs.
    ///
    /// # Errors
    /// As [`ArchiverKey::signer`].
    pub fn writer(&self) -> Result<Writer> {
        let signer = self.signer()?;
        let public = signer.public_key().as_ref().first_chunk().copied();
        public.ok_or_else(|| Error::failure("the library gives a public key of another length"))
    }

    /// The metadata key of one archive.
    ///
    /// # Errors
    /// As [`ArchiverKey::signer`].
    pub fn metadata(&self, archive: &str) -> Result<Secret> {
        derive(self.secret.expose(), &[], &[b"pitr metadata\0", archive.as_bytes()]).map(Secret::new)
    }

    /// Its file.
    #[must_use]
    pub fn to_text(&self, made: Timestamp) -> String {
        let secret = STANDARD.encode(self.secret.expose());
        let recipients: String = self.recipients.iter().map(|recipient| format!("recipient {recipient}\n")).collect();
        format!(
            "# pitr archiver key, made at {made}. Who has it can archive in its name and read times, positions and the\n\
             # names of tables and files; no data. Each recipient is the public half of a restore key that opens all.\n\
             {ARCHIVER} {secret}\n{recipients}"
        )
    }

    /// Reads its file.
    ///
    /// # Errors
    /// [`Kind::Config`] saying what is wrong, without what the file holds.
    pub fn from_text(text: &str) -> Result<Self> {
        let (mut secret, mut recipients) = (None, Vec::new());
        for line in lines(text) {
            if let Some(encoded) = line.strip_prefix(ARCHIVER) {
                let bytes = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| Key::try_from(bytes).ok());
                secret = Some(Secret::new(bytes.ok_or_else(|| Error::config("its key is not 32 bytes in base64"))?));
            } else if let Some(recipient) = line.strip_prefix("recipient ") {
                recipients.push(recipient_of(recipient)?);
            } else if line.starts_with("AGE-SECRET-KEY-") {
                return Err(
                    Error::config("it is a restore key").hint("an archiver has no use for it: keep it elsewhere")
                );
            } else {
                return Err(Error::config("it has a line that is neither key nor recipient"));
            }
        }
        let secret = secret.ok_or_else(|| Error::config(format!("it has no line that begins with {ARCHIVER}")))?;
        if recipients.is_empty() {
            return Err(Error::config("it names no recipient: nobody could restore")
                .hint("add a line `recipient age1...` with the public half of a restore key"));
        }
        Ok(Self { secret, recipients })
    }
}

/// What opens an archive, and the writers that it believes.
#[derive(Clone)]
pub struct RestoreKey {
    /// Each of them may open a data key.
    pub identities: Vec<x25519::Identity>,
    /// Who must have signed.
    pub writer: Writer,
}

impl RestoreKey {
    /// Its file.
    #[must_use]
    pub fn to_text(&self, made: Timestamp) -> String {
        let identities: String = self
            .identities
            .iter()
            .map(|id| format!("# recipient: {}\n{}\n", id.to_public(), id.to_string().expose_secret()))
            .collect();
        format!(
            "# pitr restore key, made at {made}. Who has it reads everything that is archived for it. Keep it where no\n\
             # archiver can read it, and more than once: without it nothing can be restored.\n{WRITER}{}\n{identities}",
            STANDARD.encode(self.writer)
        )
    }

    /// Reads its file.
    ///
    /// # Errors
    /// [`Kind::Config`] saying what is wrong, without what the file holds.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut identities = Vec::new();
        for line in lines(text) {
            if line.starts_with(ARCHIVER) {
                return Err(Error::config("it is an archiver key, which reads no data").hint("name it with --key-file"));
            }
            let identity = x25519::Identity::from_str(line);
            identities.push(identity.map_err(|_| Error::config("it has a line that is no age identity"))?);
        }
        if identities.is_empty() {
            return Err(Error::config("it has no line that begins with AGE-SECRET-KEY-1"));
        }
        let writer = text.lines().find_map(|line| line.trim().strip_prefix(WRITER.trim_end()));
        let writer = writer.and_then(|text| STANDARD.decode(text.trim()).ok()).and_then(|b| Writer::try_from(b).ok());
        let writer = writer.ok_or_else(|| {
            Error::config(format!("it does not say whose archive it opens: a line `{WRITER}...` is missing"))
                .hint("`pitr key new` writes it; `pitr key check --key-file ARCHIVER_KEY` prints it")
        })?;
        Ok(Self { identities, writer })
    }
}

/// Reads the public half of a restore key.
///
/// # Errors
/// [`Kind::Config`] when it is none.
pub fn recipient_of(text: &str) -> Result<x25519::Recipient> {
    x25519::Recipient::from_str(text.trim()).map_err(|problem| {
        // Not what was given: it may be the secret half.
        Error::config(format!("that is no recipient: {problem}")).hint("it looks like age1..., and 62 characters long")
    })
}

/// How a writer is named to people.
#[must_use]
pub fn writer_text(writer: &Writer) -> String {
    STANDARD.encode(writer)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What tells one archive from all others, to which its keys and its objects are bound: everything in its `cluster.json`.
#[must_use]
pub fn archive_id(cluster: &ClusterName, identity: &Identity) -> String {
    let Identity { engine, system, log_file_bytes, server_version, encryption, .. } = identity;
    let id = encryption.as_ref().map_or("", |encryption| &encryption.id);
    format!("{cluster} {engine} {log_file_bytes} {server_version} {id} {system}")
}

/// The keys that were given to this process.
#[derive(Clone, Default)]
pub struct Keys {
    /// To write.
    pub archiver: Option<ArchiverKey>,
    /// To read data.
    pub restore: Option<RestoreKey>,
}

impl Keys {
    /// Reads key files.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the file.
    pub fn read(archiver: Option<&Path>, restore: Option<&Path>) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|e| Error::config(format!("cannot read the key in {}", path.display())).because(e))
        };
        let named = |path: &Path| {
            let path: PathBuf = path.to_owned();
            move |error: Error| error.context(format_args!("key {}", path.display()))
        };
        Ok(Self {
            archiver: archiver.map(|path| ArchiverKey::from_text(&read(path)?).map_err(named(path))).transpose()?,
            restore: restore.map(|path| RestoreKey::from_text(&read(path)?).map_err(named(path))).transpose()?,
        })
    }

    /// Whether none was given.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.archiver.is_none() && self.restore.is_none()
    }

    /// The writer that they believe.
    ///
    /// # Errors
    /// [`Kind::WrongKey`] without a key, or when they believe different ones.
    pub fn writer(&self) -> Result<Writer> {
        let own = self.archiver.as_ref().map(ArchiverKey::writer).transpose()?;
        match (own, self.restore.as_ref().map(|key| key.writer)) {
            (Some(own), Some(believed)) if own != believed => {
                Err(Error::new(Kind::WrongKey, "archiver key and restore key do not belong together")
                    .hint("the restore key names the writer that it believes; `pitr key check` shows both"))
            }
            (own, believed) => own.or(believed).ok_or_else(|| Error::new(Kind::WrongKey, "no key is given")),
        }
    }
}
