//! moto, a service that knows versions of objects and locks on them, with one bucket that has both.
//! Its own client, boto3, says what is in it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pitr::model::time::SystemClock;
use pitr::store::s3::{Keys, S3Store};

use super::s3::{KEY_ID, KEY_SECRET};
use super::{PATIENCE, Scratch, condition};

const BUCKET: &str = "locked";

/// The service, until it is dropped.
pub struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    /// One with an empty bucket.
    pub fn start(scratch: &Scratch) -> Self {
        let log = scratch.join("moto.log");
        let file = std::fs::File::create(&log).expect("a log file");
        let child = Command::new(program("moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .expect("starting moto");
        let mut moto = Self { child, endpoint: String::new() };
        moto.endpoint = condition("moto to listen", PATIENCE, || {
            let said = std::fs::read_to_string(&log).ok()?;
            let rest = said.split_once("Running on ")?.1;
            rest.split_once('\n').map(|(url, _)| url.trim().to_owned())
        });
        moto.ask("s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)");
        moto
    }

    /// The URL of a store in the bucket, with more options.
    pub fn url(&self, prefix: &str, options: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}{options}", self.endpoint)
    }

    /// The same store, for use in this process.
    pub fn store(&self, prefix: &str, options: &str) -> S3Store {
        let url = self.url(prefix, options);
        let keys = Keys { id: KEY_ID.into(), secret: KEY_SECRET.into() };
        S3Store::with_keys(url.strip_prefix("s3://").unwrap(), Arc::new(SystemClock), keys).expect("a store")
    }

    /// What an expression of Python's gives, of `s3`, a client, and `bucket`.
    #[track_caller]
    pub fn ask(&self, expression: &str) -> String {
        let script = format!(
            "import boto3\nbucket = '{BUCKET}'\ns3 = boto3.client('s3', endpoint_url='{}', region_name='us-east-1', \
             aws_access_key_id='{KEY_ID}', aws_secret_access_key='{KEY_SECRET}')\nprint({expression})",
            self.endpoint
        );
        let done = Command::new(program("python")).args(["-c", &script]).output().expect("running python");
        assert!(done.status.success(), "{expression}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".deps/moto/bin").join(name);
    assert!(path.exists(), "{} is missing; install it with: scripts/install-moto.sh", path.display());
    path
}
