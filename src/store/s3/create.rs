//! Creating objects that nobody overwrites.

use std::future::{poll_fn, ready};
use std::task::Poll;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ObjectLockMode, ServerSideEncryption, StorageClass,
};
use aws_sdk_s3::{Client, Config};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use rand::Rng;

use super::place::Checksum;
use super::{Inner, client, refusal};
use crate::error::{Error, Kind, Result};
use crate::store::{Created, Part};

/// Objects above this size go up in parts.
const WHOLE_BYTES_MAX: usize = 64 << 20;
/// Objects of this size and more that must wait for their turn are brought to the service meanwhile, in parts.
const AHEAD_BYTES_MIN: usize = 1 << 20;
/// Largest object by which a service is tried out.
const TRIED_BYTES_MAX: usize = 64 << 10;
/// How long an attempt to put parts together may take: a service copies them first.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(600);
/// Size of a part; a service takes at most 10,000 of them.
const PART_BYTES: usize = 16 << 20;
/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// How often a create is tried that met another of the same name (409), which is over soon.
const CONFLICTS_MAX: u32 = 6;

/// What became of a conditional create.
enum Put {
    /// The object is there, and by us.
    Done,
    /// There is one of that name.
    Exists,
    /// The service does not know conditions.
    NoConditions,
    /// Somebody is creating one of that name.
    Conflict(Error),
}

impl Inner {
    pub(super) async fn create(&self, name: &str, body: Vec<Bytes>) -> Result<Created> {
        let body = joined(body);
        let mut known = self.conditional.lock().await;
        match *known {
            Some(conditional) => {
                drop(known);
                if conditional {
                    self.create_if_none(name, &body).await
                } else {
                    self.look_and_create(name, &body).await
                }
            }
            // Too large to be sent twice, and for others to wait for.
            None if body.len() > TRIED_BYTES_MAX => {
                drop(known);
                let mut found = None;
                let created = self.unsure_create(name, &body, &mut found).await;
                if found.is_some() {
                    *self.conditional.lock().await = found;
                }
                created
            }
            None => self.first_create(name, &body, &mut known).await,
        }
    }

    pub(super) async fn create_behind(
        &self,
        name: &str,
        body: Vec<Bytes>,
        mut turn: BoxFuture<'_, Result<()>>,
    ) -> Result<Created> {
        let known = *self.conditional.lock().await;
        let waits = match poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await {
            Poll::Ready(come) => come.map(|()| false)?,
            Poll::Pending => true,
        };
        let bytes = body.iter().map(Bytes::len).sum::<usize>();
        if !waits || bytes < AHEAD_BYTES_MIN || known != Some(true) {
            if waits {
                turn.await?;
            }
            return self.create(name, body).await;
        }
        let body = joined(body);
        match self.put_parts(name, &body, true, turn).await? {
            Put::Done => Ok(Created::New),
            // As if it had been put in one piece.
            _ => self.create_if_none(name, &body).await,
        }
    }

    /// Creates, and finds out whether the service keeps a create's condition.
    async fn first_create(&self, name: &str, body: &Bytes, conditional: &mut Option<bool>) -> Result<Created> {
        let created = self.unsure_create(name, body, conditional).await?;
        if created == Created::New && conditional.is_none() {
            // The same bytes once more: whatever the service does with them, no harm is done.
            *conditional = match self.put(name, body, true).await {
                Ok(Put::Exists) => Some(true),
                Ok(Put::Done | Put::NoConditions) => {
                    self.tell_no_conditions();
                    Some(false)
                }
                // Not known yet.
                Ok(Put::Conflict(_)) | Err(_) => None,
            };
        }
        Ok(created)
    }

    /// Creates in both ways, as long as nothing is known.
    async fn unsure_create(&self, name: &str, body: &Bytes, conditional: &mut Option<bool>) -> Result<Created> {
        if let Some(bytes) = self.head(name).await? {
            return self.compare(name, bytes, body).await;
        }
        match self.put(name, body, true).await? {
            Put::Done => Ok(Created::New),
            Put::Exists => self.exists(name, body).await,
            Put::NoConditions => {
                self.tell_no_conditions();
                *conditional = Some(false);
                self.look_and_create(name, body).await
            }
            Put::Conflict(error) => Err(error),
        }
    }

    fn tell_no_conditions(&self) {
        tracing::warn!(
            store = self.place.location(),
            "this store overwrites objects: it cannot keep two archivers apart, so see to it that there is only one"
        );
    }

    async fn create_if_none(&self, name: &str, body: &Bytes) -> Result<Created> {
        match self.put(name, body, true).await? {
            Put::Done => Ok(Created::New),
            Put::Exists => self.exists(name, body).await,
            // It kept conditions before: something stands between it and us now, or another service.
            Put::NoConditions => Err(Error::new(
                Kind::StoreUnreachable,
                format!("{} does not know the condition of a create any more", self.place.location()),
            )
            .hint("is it another service than before? start the archiver anew when it is meant to be")),
            Put::Conflict(error) => Err(error),
        }
    }

    /// For services without conditions.
    async fn look_and_create(&self, name: &str, body: &Bytes) -> Result<Created> {
        if let Some(bytes) = self.head(name).await? {
            return self.compare(name, bytes, body).await;
        }
        match self.put(name, body, false).await? {
            Put::Exists => self.exists(name, body).await,
            Put::Done | Put::NoConditions => Ok(Created::New),
            Put::Conflict(error) => Err(error),
        }
    }

    /// The service says that there is an object of that name.
    async fn exists(&self, name: &str, body: &Bytes) -> Result<Created> {
        match self.head(name).await? {
            Some(bytes) => self.compare(name, bytes, body).await,
            None => Err(Error::new(
                Kind::StoreUnreachable,
                format!("{} says that {name} is there, and then that it is not", self.place.location()),
            )
            .hint("does somebody else remove objects there, or is a delete marker on it?")),
        }
    }

    async fn compare(&self, name: &str, bytes: u64, body: &Bytes) -> Result<Created> {
        if bytes == body.len() as u64 && self.get(name, Part::All).await?.as_ref() == Some(body) {
            return Ok(Created::Same);
        }
        Err(Error::new(
            Kind::Fenced,
            format!("object {name} in store {} holds other bytes than those to be written", self.place.location()),
        ))
    }

    /// Puts an object, on condition that there is none if `if_none`.
    async fn put(&self, name: &str, body: &Bytes, if_none: bool) -> Result<Put> {
        let mut conflicts = 0;
        loop {
            let put = if body.len() > WHOLE_BYTES_MAX {
                self.put_parts(name, body, if_none, Box::pin(ready(Ok(())))).await?
            } else {
                self.put_whole(name, body, if_none).await?
            };
            match put {
                Put::Conflict(error) if conflicts == CONFLICTS_MAX => return Err(error),
                Put::Conflict(_) => {
                    conflicts += 1;
                    let pause = Duration::from_millis(20 << conflicts).mul_f64(rand::rng().random_range(0.5..1.0));
                    tokio::time::sleep(pause).await;
                }
                done => return Ok(done),
            }
        }
    }

    async fn put_whole(&self, name: &str, body: &Bytes, if_none: bool) -> Result<Put> {
        let timeout = client::timeouts(Self::attempt_timeout(body.len() as u64));
        let sent = self
            .client()
            .await?
            .put_object()
            .bucket(&self.place.bucket)
            .key(self.place.key(name))
            .set_if_none_match(if_none.then(|| "*".to_owned()))
            .set_checksum_algorithm(self.checksum())
            .set_storage_class(self.storage_class())
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.encryption_key())
            .set_object_lock_mode(self.lock_mode())
            .set_object_lock_retain_until_date(self.retain_until())
            .body(ByteStream::from(body.clone()))
            .customize()
            .config_override(Config::builder().timeout_config(timeout))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(Put::Done),
            Err(error) => self.refused(name, if_none, &error),
        }
    }

    /// Puts an object in parts, which become one when its `turn` has come.
    async fn put_parts(&self, name: &str, body: &Bytes, if_none: bool, turn: BoxFuture<'_, Result<()>>) -> Result<Put> {
        let (client, key) = (self.client().await?, self.place.key(name));
        let begun = client
            .create_multipart_upload()
            .bucket(&self.place.bucket)
            .key(&key)
            .set_checksum_algorithm(self.checksum())
            .set_storage_class(self.storage_class())
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.encryption_key())
            .set_object_lock_mode(self.lock_mode())
            .set_object_lock_retain_until_date(self.retain_until())
            .send()
            .await
            .map_err(|error| self.explain("create", name, &error))?;
        let upload = begun.upload_id().unwrap_or_default().to_owned();
        let put = match self.upload_parts(client, name, &upload, body).await {
            Ok(parts) => match turn.await {
                Ok(()) => self.complete(client, name, &upload, parts, if_none).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if !matches!(put, Ok(Put::Done)) {
            // Its parts cost money until somebody removes them. The bucket's rules may forbid that.
            let aborted = client.abort_multipart_upload().bucket(&self.place.bucket).key(&key).upload_id(&upload);
            if let Err(error) = aborted.send().await {
                let error = self.explain("give up", name, &error);
                tracing::warn!(%error, "parts of an object that was not completed stay");
            }
        }
        put
    }

    async fn upload_parts(
        &self,
        client: &Client,
        name: &str,
        upload: &str,
        body: &Bytes,
    ) -> Result<Vec<CompletedPart>> {
        let key = self.place.key(name);
        let part = |at: usize| {
            let bytes = body.slice(at..body.len().min(at + PART_BYTES));
            let number = i32::try_from(at / PART_BYTES + 1).unwrap_or(i32::MAX);
            let timeout = client::timeouts(Self::attempt_timeout(bytes.len() as u64));
            let sending = client
                .upload_part()
                .bucket(&self.place.bucket)
                .key(&key)
                .upload_id(upload)
                .part_number(number)
                .set_checksum_algorithm(self.checksum())
                .body(ByteStream::from(bytes))
                .customize()
                .config_override(Config::builder().timeout_config(timeout))
                .send();
            async move {
                let sent = sending.await.map_err(|error| self.explain("create", name, &error))?;
                Ok::<_, Error>(
                    CompletedPart::builder()
                        .part_number(number)
                        .set_e_tag(sent.e_tag)
                        .set_checksum_crc32(sent.checksum_crc32)
                        .set_checksum_crc32_c(sent.checksum_crc32_c)
                        .set_checksum_sha256(sent.checksum_sha256)
                        .build(),
                )
            }
        };
        stream::iter((0..body.len()).step_by(PART_BYTES).map(part)).buffered(PARTS_AT_ONCE).try_collect().await
    }

    async fn complete(
        &self,
        client: &Client,
        name: &str,
        upload: &str,
        parts: Vec<CompletedPart>,
        if_none: bool,
    ) -> Result<Put> {
        let completed = client
            .complete_multipart_upload()
            .bucket(&self.place.bucket)
            .key(self.place.key(name))
            .upload_id(upload)
            .set_if_none_match(if_none.then(|| "*".to_owned()))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .customize()
            .config_override(Config::builder().timeout_config(client::timeouts(COMPLETE_TIMEOUT)))
            .send()
            .await;
        match completed {
            Ok(_) => Ok(Put::Done),
            // Perhaps an earlier attempt completed it and its answer was lost: each service has a word of
            // its own for an upload that is over.
            Err(_) if self.head(name).await?.is_some() => Ok(Put::Exists),
            Err(error) => self.refused(name, if_none, &error),
        }
    }

    /// What a refusal means. A conditional create has its own ones: 412 says that there is an
    /// object, 409 that one is being made, 501 that conditions are not known.
    fn refused<E>(&self, name: &str, if_none: bool, error: &SdkError<E, HttpResponse>) -> Result<Put>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match refusal::status(error) {
            Some(412) if if_none => Ok(Put::Exists),
            Some(501) if if_none => Ok(Put::NoConditions),
            Some(409) if if_none => Ok(Put::Conflict(self.explain("create", name, error))),
            _ => Err(self.explain("create", name, error)),
        }
    }

    fn checksum(&self) -> Option<ChecksumAlgorithm> {
        match self.place.checksum() {
            Checksum::Crc32 => Some(ChecksumAlgorithm::Crc32),
            Checksum::Crc32c => Some(ChecksumAlgorithm::Crc32C),
            Checksum::Sha256 => Some(ChecksumAlgorithm::Sha256),
            Checksum::None | Checksum::Auto => None,
        }
    }

    fn storage_class(&self) -> Option<StorageClass> {
        self.place.storage_class.as_deref().map(StorageClass::from)
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        self.place.encryption.as_ref().map(|encryption| encryption.kind.as_str().into())
    }

    fn encryption_key(&self) -> Option<String> {
        self.place.encryption.as_ref().and_then(|encryption| encryption.key.clone())
    }

    fn lock_mode(&self) -> Option<ObjectLockMode> {
        let mode = |compliance| if compliance { ObjectLockMode::Compliance } else { ObjectLockMode::Governance };
        self.place.lock.map(|lock| mode(lock.compliance))
    }

    fn retain_until(&self) -> Option<DateTime> {
        let lock = self.place.lock?;
        let until = self.clock.now().0.div_euclid(1_000_000) + i64::try_from(lock.retain.as_secs()).ok()?;
        Some(DateTime::from_secs(until))
    }
}

fn joined(mut body: Vec<Bytes>) -> Bytes {
    if body.len() == 1 {
        return body.remove(0);
    }
    let mut whole = BytesMut::with_capacity(body.iter().map(Bytes::len).sum());
    for piece in &body {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}
