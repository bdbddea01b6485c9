//! Encryption at rest: what lies in the store can be read by whoever has the restore key, and by
//! nobody else; it was written by whoever has the archiver key, and by nobody else.
//!
//! ```text
//! archiver key   a secret from which come the key that signs, and for each archive its metadata key
//! restore key    an age identity, and the public half of the signing key that it believes
//! data key       random, made by each archiver for itself; `key/<n>` holds it with the metadata key,
//!                wrapped with age for the restore keys, and signed
//! ```
//!
//! An object is sealed in two parts ([`object`]): the *closed* one (log, contents of files) with a data
//! key, which an archiver forgets when it ends; the *open* one (footers, indexes, manifests, what is
//! needed to go on) with the metadata key. So an archiver writes what it cannot read, and yet finds
//! out where to go on. Every object is signed, under its name.
//!
//! [`store::Sealed`] does all of this below the store's interface: nothing else knows of it, but
//! for what cannot be read ([`crate::Kind::WrongKey`]). `cluster.json`, the writers' epochs and `key/`
//! are readable by all; `docs/format.md` has the bytes.

mod kept;
pub mod key;
pub mod object;
pub mod ring;
pub mod store;
