//! Reading, listing and deleting objects.

use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use bytes::{Bytes, BytesMut};

use super::{Inner, client, refusal};
use crate::error::{Error, Kind, Result};
use crate::store::{ObjectInfo, Part, name};

/// How often a body that broke off without a byte more is asked for again.
const RESUMES_MAX: u32 = 5;
/// Memory that is set aside on a service's word.
const CAPACITY_MAX: u64 = 64 << 20;
/// Longer than any object: some services cannot read larger numbers in a range.
const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// Which bytes of an object are asked for.
#[derive(Clone, Copy)]
enum Wanted {
    All,
    /// From the first to the last, which is included.
    Range(u64, u64),
    /// The last ones.
    Suffix(u64),
}

impl Wanted {
    fn header(self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Range(first, last) => Some(format!("bytes={first}-{last}")),
            Self::Suffix(len) => Some(format!("bytes=-{len}")),
        }
    }
}

/// What a service has of what was asked for.
enum Asked {
    /// There is no such object.
    Gone,
    /// The object has no such bytes.
    Nothing,
    Answer(Box<GetObjectOutput>),
}

/// Which bytes of an object an answer holds: from the first, so many.
struct Held {
    first: u64,
    len: u64,
    /// How long the whole object is.
    total: u64,
}

impl Inner {
    pub(super) async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        let wanted = match part {
            Part::All => Wanted::All,
            Part::Range { len: 0, .. } | Part::Last(0) => return Ok(self.head(name).await?.map(|_| Bytes::new())),
            Part::Range { start, len } => {
                let start = start.min(OBJECT_BYTES_MAX);
                Wanted::Range(start, start.saturating_add(len - 1).min(2 * OBJECT_BYTES_MAX))
            }
            Part::Last(len) => Wanted::Suffix(len.min(OBJECT_BYTES_MAX)),
        };
        let mut answer = match self.ask(name, wanted, None).await? {
            Asked::Gone => return Ok(None),
            Asked::Nothing => return Ok(Some(Bytes::new())),
            Asked::Answer(answer) => answer,
        };
        let held = held(&answer, wanted).map_err(|why| self.broken_off(name, 0, 0, why))?;
        let tag = answer.e_tag.clone();
        let mut body = BytesMut::with_capacity(usize::try_from(held.len.min(CAPACITY_MAX)).unwrap_or_default());
        let mut resumes = 0;
        loop {
            let before = body.len();
            let Err(why) = collect(*answer, &mut body, held.len).await else { break };
            resumes = if body.len() > before { 0 } else { resumes + 1 };
            let got = body.len() as u64;
            if resumes > RESUMES_MAX || got >= held.len {
                return Err(self.broken_off(name, got, held.len, &why));
            }
            tracing::debug!(name, why, "an answer broke off; asking for the rest");
            let rest = Wanted::Range(held.first + got, held.first + held.len - 1);
            let Asked::Answer(more) = self.ask(name, rest, tag.clone()).await? else {
                return Err(self.broken_off(name, got, held.len, "the rest is gone"));
            };
            match self::held(&more, rest) {
                Ok(rest) if (rest.first, rest.len) == (held.first + got, held.len - got) => answer = more,
                _ => return Err(self.broken_off(name, got, held.len, "the rest is not what was asked for")),
            }
        }
        let body = body.freeze();
        // A service that does not know ranges gives everything.
        let at = |offset: u64| {
            usize::try_from(offset.clamp(held.first, held.first + held.len) - held.first).unwrap_or(body.len())
        };
        Ok(Some(match wanted {
            Wanted::All => body,
            Wanted::Range(first, last) => body.slice(at(first)..at(last + 1)),
            Wanted::Suffix(len) => body.slice(at(held.total.saturating_sub(len))..),
        }))
    }

    fn broken_off(&self, name: &str, got: u64, of: u64, why: &str) -> Error {
        let place = self.place.location();
        Error::new(Kind::StoreUnreachable, format!("cannot read {name} in {place}: {got} of {of} bytes came: {why}"))
    }

    /// Asks for bytes of an object.
    async fn ask(&self, name: &str, wanted: Wanted, tag: Option<String>) -> Result<Asked> {
        let sent = self
            .client()
            .await?
            .get_object()
            .bucket(&self.place.bucket)
            .key(self.place.key(name))
            .set_range(wanted.header())
            .set_if_match(tag)
            .send()
            .await;
        match sent {
            Ok(output) => Ok(Asked::Answer(Box::new(output))),
            Err(error) if refusal::status(&error) == Some(416) => Ok(Asked::Nothing),
            Err(error) if error.as_service_error().is_some_and(GetObjectError::is_no_such_key) => Ok(Asked::Gone),
            Err(error) => Err(self.explain("read", name, &error)),
        }
    }

    /// The size of an object. A service does not tell here whether the bucket is missing.
    pub(super) async fn head(&self, name: &str) -> Result<Option<u64>> {
        let sent = self.client().await?.head_object().bucket(&self.place.bucket).key(self.place.key(name)).send().await;
        match sent {
            Ok(output) => Ok(Some(output.content_length().and_then(|len| u64::try_from(len).ok()).unwrap_or_default())),
            Err(error) if refusal::status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.explain("look at", name, &error)),
        }
    }

    /// Lists objects; with `shallow`, folders as well.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
        each_folder: &mut (dyn FnMut(String) + Send),
    ) -> Result<()> {
        let client = self.client().await?;
        let ours = |key: &str| key.strip_prefix(&self.place.prefix).map(str::to_owned);
        let mut token = None;
        loop {
            let page = client
                .list_objects_v2()
                .bucket(&self.place.bucket)
                .prefix(self.place.key(prefix))
                .set_start_after(after.filter(|_| token.is_none()).map(|after| self.place.key(after)))
                .set_continuation_token(token.clone())
                .set_delimiter(shallow.then(|| "/".to_owned()))
                .send()
                .await
                .map_err(|error| self.explain("list", prefix, &error))?;
            for object in page.contents() {
                let name = object.key().and_then(ours).filter(|name| name::check(name).is_ok());
                let Some(name) = name.filter(|name| after.is_none_or(|after| name.as_str() > after)) else { continue };
                let bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                each(ObjectInfo { name, bytes });
            }
            for folder in page.common_prefixes() {
                if let Some(folder) = folder.prefix().and_then(ours) {
                    each_folder(folder);
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(());
            }
            let next = page.next_continuation_token().map(str::to_owned).filter(|next| token.as_ref() != Some(next));
            token = Some(next.ok_or_else(|| {
                let place = self.place.location();
                Error::new(
                    Kind::StoreUnreachable,
                    format!("cannot list {prefix} in {place}: the service says that there is more and not where"),
                )
            })?);
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let sent =
            self.client().await?.delete_object().bucket(&self.place.bucket).key(self.place.key(name)).send().await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if refusal::status(&error) == Some(404) => Ok(()),
            Err(error) => Err(self.explain("delete", name, &error)),
        }
    }
}

/// Which bytes an answer holds: what was asked for, as far as there is so much, or the whole object.
fn held(answer: &GetObjectOutput, wanted: Wanted) -> Result<Held, &'static str> {
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or("the answer does not tell its length")?;
    let Some(range) = answer.content_range() else { return Ok(Held { first: 0, len, total: len }) };
    parse_range(range)
        .filter(|held| held.len == len && is_as_wanted(held, wanted))
        .ok_or("the answer holds other bytes than those asked for")
}

/// Reads `bytes 3-6/10` (RFC 9110, 14.4).
fn parse_range(text: &str) -> Option<Held> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| Held { first, len: last - first + 1, total })
}

fn is_as_wanted(held: &Held, wanted: Wanted) -> bool {
    let Held { first, len, total } = *held;
    match wanted {
        Wanted::All => len == total,
        Wanted::Range(from, to) => first == from && first + len == total.min(to.saturating_add(1)),
        Wanted::Suffix(wanted) => first == total.saturating_sub(wanted) && first + len == total,
    }
}

/// Moves a body's bytes to those that have come before, until there are `len` of them.
async fn collect(output: GetObjectOutput, body: &mut BytesMut, len: u64) -> Result<(), String> {
    let mut stream = output.body;
    loop {
        let next = tokio::time::timeout(client::READ_TIMEOUT, stream.next()).await;
        match next {
            Err(_) => return Err(format!("nothing came for {} s", client::READ_TIMEOUT.as_secs())),
            Ok(Some(Ok(piece))) => body.extend_from_slice(&piece),
            Ok(Some(Err(error))) => return Err(refusal::causes(&error)),
            Ok(None) if body.len() as u64 == len => return Ok(()),
            Ok(None) => return Err("it ended early".to_owned()),
        }
        if body.len() as u64 > len {
            return Err("more bytes came than were told".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(range: Option<&str>, len: i64) -> GetObjectOutput {
        GetObjectOutput::builder().content_length(len).set_content_range(range.map(str::to_owned)).build()
    }

    #[test]
    fn an_answer_is_believed_only_if_it_holds_what_was_asked_for() {
        for (wanted, range, len, first) in [
            (Wanted::All, None, 10, 0),
            (Wanted::Range(3, 6), Some("bytes 3-6/10"), 4, 3),
            (Wanted::Range(3, 60), Some("bytes 3-9/10"), 7, 3),
            (Wanted::Range(3, 6), None, 10, 0),
            (Wanted::Suffix(4), Some("bytes 6-9/10"), 4, 6),
            (Wanted::Suffix(40), Some("bytes 0-9/10"), 10, 0),
        ] {
            assert_eq!(held(&output(range, len), wanted).map(|held| held.first), Ok(first), "{range:?}");
        }
        for (wanted, range, len) in [
            (Wanted::Range(3, 6), Some("bytes 3-5/10"), 3),
            (Wanted::Range(3, 6), Some("bytes 2-6/10"), 5),
            (Wanted::Range(3, 6), Some("bytes 3-6/10"), 5),
            (Wanted::Range(3, 6), Some("bytes 3-6/*"), 4),
            (Wanted::Range(3, 6), Some("3-6/10"), 4),
            (Wanted::Range(3, 6), Some("bytes 6-3/10"), 4),
            (Wanted::Suffix(4), Some("bytes 5-8/10"), 4),
            (Wanted::All, Some("bytes 0-4/10"), 5),
        ] {
            assert!(held(&output(range, len), wanted).is_err(), "{range:?}");
        }
        assert!(held(&GetObjectOutput::builder().build(), Wanted::All).is_err());
    }
}
