//! What a service answers, said so that a tired reader knows what to do next.
//!
//! The SDK's own errors are never printed with `Debug`: they hold requests, and so session tokens.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::Inner;
use crate::error::{Error, Kind};
use crate::store::Denied;

/// The status of an answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

impl Inner {
    /// The error for what became of `doing` something with `what`, a name or a prefix.
    pub(super) fn explain<E>(&self, doing: &str, what: &str, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let place = self.place.location();
        let said = match error {
            SdkError::ServiceError(answer) => {
                let (code, message) = (answer.err().code(), answer.err().message());
                let status = answer.raw().status().as_u16();
                match (code, message) {
                    (Some(code), Some(message)) => format!("{code}: {message} (status {status})"),
                    (Some(code), None) => format!("{code} (status {status})"),
                    _ => format!("status {status}"),
                }
            }
            SdkError::TimeoutError(_) => "no answer in time".to_owned(),
            other => causes(other),
        };
        let mut refused = Error::new(Kind::StoreUnreachable, format!("cannot {doing} {what} in {place}: {said}"));
        if matches!(error, SdkError::ServiceError(answer) if answer.err().code() == Some("AccessDenied")) {
            refused = refused.because(Denied);
        }
        match self.advice(error) {
            Some(advice) => refused.hint(advice),
            None => refused,
        }
    }

    fn advice<E>(&self, error: &SdkError<E, HttpResponse>) -> Option<String>
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let bucket = &self.place.bucket;
        let SdkError::ServiceError(answer) = error else {
            let why = causes(error);
            let no_credentials = why.contains("credential");
            return Some(if no_credentials {
                "is there a key? set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give this machine a role".to_owned()
            } else if why.contains("certificate") {
                "is the service's certificate signed by your own authority? name its file in AWS_CA_BUNDLE".to_owned()
            } else {
                "does the service run, and can this machine reach it?".to_owned()
            });
        };
        let headers = answer.raw().headers();
        let region = headers.get("x-amz-bucket-region");
        let status = answer.raw().status().as_u16();
        Some(match (answer.err().code().unwrap_or_default(), status) {
            ("NoSuchBucket", _) => format!("is the bucket's name right? pitr does not make buckets: make {bucket} first"),
            ("RequestTimeTooSkewed" | "RequestExpired", _) => {
                let theirs = headers.get("date").unwrap_or("not told");
                format!("is this machine's clock right? it says {}, and the service's {theirs}", self.clock.now())
            }
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => {
                "the credentials have expired: does whoever gave them renew them?".to_owned()
            }
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "UnrecognizedClientException", _) => {
                "the service does not accept the key: are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile) those of this service?".to_owned()
            }
            ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _) | (_, 301) => {
                match region {
                    Some(region) => format!("the bucket is in region {region}: add region={region} to the store's URL"),
                    None => "is the region right? add region=NAME to the store's URL".to_owned(),
                }
            }
            ("AccessDenied" | "AllAccessDisabled" | "Forbidden", _) | (_, 401 | 403) => {
                format!("what pitr needs on {bucket}: s3:PutObject, s3:GetObject, s3:ListBucket; s3:DeleteObject only to expire")
            }
            ("NotImplemented" | "XNotImplemented", _) | (_, 501) => {
                "the service lacks something: do checksum=none, and neither object_lock nor sse, help?".to_owned()
            }
            ("SlowDown" | "ServiceUnavailable" | "Throttling" | "RequestLimitExceeded", _) | (_, 429 | 500..) => {
                "the service is overloaded or ill; it may answer later".to_owned()
            }
            _ => return None,
        })
    }
}

/// An error and what lies under it, without repetition.
pub(super) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
