//! What a bucket is set to: versions, locks. To ask needs rights that archiving does not, so no answer is no error.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockConfiguration};

use super::Inner;
use crate::store::Guards;

impl Inner {
    /// What the bucket's settings say, as far as they may be asked for.
    pub(super) async fn guards(&self) -> Guards {
        let Ok(client) = self.client().await else { return Guards::default() };
        let bucket = &self.place.bucket;
        let (versioning, lock) = tokio::join!(
            client.get_bucket_versioning().bucket(bucket).send(),
            client.get_object_lock_configuration().bucket(bucket).send()
        );
        let versioning = versioning.ok().map(|answer| match answer.status() {
            Some(BucketVersioningStatus::Enabled) => "on",
            Some(BucketVersioningStatus::Suspended) => "suspended",
            _ => "off",
        });
        let object_lock = match lock {
            Ok(answer) => Some(answer.object_lock_configuration().map_or_else(|| "off".to_owned(), lock_text)),
            Err(error) => {
                let off = error.as_service_error().and_then(ProvideErrorMetadata::code);
                (off == Some("ObjectLockConfigurationNotFoundError")).then(|| "off".to_owned())
            }
        };
        Guards { versioning: versioning.map(str::to_owned), object_lock }
    }
}

fn lock_text(set: &ObjectLockConfiguration) -> String {
    if set.object_lock_enabled().is_none() {
        return "off".to_owned();
    }
    let Some(kept) = set.rule().and_then(|rule| rule.default_retention()) else { return "on".to_owned() };
    let mode = kept.mode().map_or("retention", |mode| mode.as_str());
    match (kept.days(), kept.years()) {
        (Some(days), _) => format!("on, {mode} for {days} days"),
        (None, Some(years)) => format!("on, {mode} for {years} years"),
        (None, None) => format!("on, {mode}"),
    }
}
