//! What people and programs see: text, JSON, log lines, progress, errors.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::settings::{Global, LogFormat};
use crate::error::{Error, Result};

/// Version of every JSON document's shape.
pub const SCHEMA_VERSION: u32 = 1;

/// Between two plain lines of progress where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// What logs whole requests below this level, and so signatures and session tokens. `PITR_LOG=trace` does not mean them.
const TALKATIVE: [&str; 8] = [
    "aws_config",
    "aws_credential_types",
    "aws_runtime",
    "aws_sdk_s3",
    "aws_sdk_sts",
    "aws_sigv4",
    "aws_smithy_http_client",
    "aws_smithy_runtime",
];

/// Log lines go to standard error.
pub fn start_logging(global: &Global) {
    let level = match global.verbose {
        0 => "pitr=info",
        1 => "pitr=debug",
        _ => "info,pitr=trace",
    };
    let filter = EnvFilter::try_from_env("PITR_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let filter = TALKATIVE
        .iter()
        .filter_map(|target| format!("{target}=info").parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process (tests) keeps the first.
    let _ = match global.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Writes to standard output. A reader that has gone away is not our failure.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failure("cannot write to standard output").because(error))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON document with its `schema_version`.
///
/// # Errors
/// As [`print()`].
pub fn print_json<T: Serialize>(document: &T) -> Result<()> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        schema_version: u32,
        #[serde(flatten)]
        document: &'a T,
    }
    let document = Versioned { schema_version: SCHEMA_VERSION, document };
    let mut text =
        serde_json::to_string_pretty(&document).map_err(|e| Error::failure("cannot write JSON").because(e))?;
    text.push('\n');
    print(&text)
}

/// Prints an error and its advice to standard error.
pub fn print_error(error: &Error) {
    let mut text = format!("pitr: {error}\n");
    if let Some(hint) = error.advice() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// A size for people: IEC units, three digits.
#[must_use]
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A duration for people, in seconds.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Progress of long work: a bar on a terminal, a plain line now and then elsewhere.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    plain: Mutex<Instant>,
    begun: Instant,
}

impl Progress {
    /// Progress of `what`, in bytes.
    #[must_use]
    pub fn bytes(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        let now = Instant::now();
        Self { what, bar, plain: Mutex::new(now), begun: now }
    }

    /// `done` of about `total` bytes are done.
    pub fn set(&self, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.unwrap_or(done).max(done));
            bar.set_position(done);
            return;
        }
        let Ok(mut last) = self.plain.lock() else { return };
        if last.elapsed() >= PLAIN_INTERVAL {
            *last = Instant::now();
            let elapsed = self.begun.elapsed().as_secs_f64();
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "shown to people"
            )]
            let rate = (done as f64 / elapsed) as u64;
            let of = total.map_or_else(String::new, |total| format!(" of {}", size(total)));
            let left = total
                .filter(|total| *total > done && rate > 0)
                .map_or_else(String::new, |total| format!(", about {} s left", (total - done) / rate));
            let line = format!("{}: {}{of}, {}/s{left}\n", self.what, size(done), size(rate));
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
