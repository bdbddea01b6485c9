//! The SDK's client: where it gets its credentials, whom it trusts, how long it waits.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use secrecy::ExposeSecret;

use super::Keys;
use super::place::{self, Place};
use crate::error::{Error, Result};

/// A file of certificates that are trusted instead of the system's, as for the `aws` command. The
/// SDK does not read it.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// Where another service is, as for the `aws` command; the first counts.
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
/// Services that have no regions are signed for with this one.
const REGION: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No byte of a body for so long ends an attempt.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for an answer to begin, whatever was sent. The same for all requests: the SDK keeps
/// connections apart by it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a body may come slower than a byte a second. The SDK's 20 s have given false alarms
/// on machines that were short of processor time.
const STALL_GRACE: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 5;

/// The address of another service that the environment names.
///
/// # Errors
/// [`crate::Kind::Config`] when it is none.
pub(super) fn endpoint_of_environment() -> Result<Option<String>> {
    let named = |name: &'static str| Some((name, std::env::var(name).ok().filter(|url| !url.is_empty())?));
    ENDPOINTS.into_iter().find_map(named).map(|(name, url)| place::endpoint(name, &url)).transpose()
}

/// Makes the client. The credentials are looked for now and renewed when they expire.
pub(super) async fn connect(place: &Place, keys: Option<&Keys>) -> Result<Client> {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http_client()?);
    if let Some(region) = &place.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(Keys { id, secret }) = keys {
        loader = loader.credentials_provider(Credentials::new(id, secret.expose_secret(), None, None, "given"));
    }
    let shared = loader.load().await;
    let mut config = Builder::from(&shared)
        .force_path_style(place.path_style.unwrap_or(place.endpoint.is_some()))
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts(super::Inner::attempt_timeout(0)))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build())
        // What is sent is decided for each object; see `Place::checksum`.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &place.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if shared.region().is_none() {
        if place.endpoint.is_none() {
            return Err(Error::config(format!("the region of {} is not known", place.location()))
                .hint("add ?region=NAME to the store's URL, or set AWS_REGION"));
        }
        config = config.region(Region::new(REGION));
    }
    Ok(Client::from_conf(config.build()))
}

/// The timeouts of one request, whose attempts may take so long each.
pub(super) fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(ANSWER_TIMEOUT)
        .operation_attempt_timeout(attempt)
        .build()
}

fn http_client() -> Result<SharedHttpClient> {
    let trust = match std::env::var_os(CA_BUNDLE).filter(|path| !path.is_empty()) {
        None => TrustStore::default(),
        Some(path) => {
            let bad = |why: &dyn std::fmt::Display| Error::config(format!("{CA_BUNDLE} {}: {why}", path.display()));
            let pem = std::fs::read(&path).map_err(|error| bad(&error))?;
            if !pem.windows(11).any(|window| window == b"-----BEGIN ") {
                return Err(bad(&"it holds no certificate in PEM form"));
            }
            TrustStore::empty().with_pem_certificate(pem)
        }
    };
    let context = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| Error::config("TLS cannot be set up").because(error))?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https())
}
