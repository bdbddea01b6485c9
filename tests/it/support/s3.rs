//! A bucket on this machine: the server of the crate `s3s-fs` in this process, which keeps
//! objects as files, so that the oracles of directories read what is in it; and harm on the way
//! to it. In front of it creates are made one after the other, for its own look at a condition and its
//! write are two steps.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use pitr::model::time::SystemClock;
use pitr::store::s3::{Keys, S3Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::Scratch;

/// The one key that is accepted.
pub const KEY_ID: &str = "AKIATEST";
/// Its secret.
pub const KEY_SECRET: &str = "canary-of-the-secret-key";
const BUCKET: &str = "backups";

/// An answer's body.
type Body = BoxBody<Bytes, std::io::Error>;

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// One that ends in the middle: what its head says of its length is more.
fn cut(bytes: Bytes) -> Body {
    let pieces = [Ok(Frame::data(bytes)), Err(std::io::Error::other("cut"))];
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    /// Without the bucket; empty for a list.
    pub key: String,
    pub query: String,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It is not done; a status says so, with the service's word for it.
    Refused(u16, &'static str),
    /// The connection ends before it is done.
    Reset,
    /// It is done, and the connection ends without an answer.
    AnswerLost,
    /// The answer's body ends after so many bytes.
    CutAt(usize),
    /// A bit of the answer's body is another one.
    Flipped(usize),
}

type Hook = Box<dyn Fn(&Asked) -> Option<Harm> + Send + Sync>;

struct State {
    root: PathBuf,
    service: S3Service,
    hook: Mutex<Option<Hook>>,
    /// Conditions of creates are ignored, as many services do.
    overwrites: bool,
    creating: tokio::sync::Mutex<()>,
    requests: AtomicU64,
}

/// The service, until it is dropped.
pub struct S3 {
    state: Arc<State>,
    port: u16,
    /// Its thread ends when this goes.
    _stop: oneshot::Sender<()>,
}

impl S3 {
    /// One with an empty bucket, below `scratch`.
    pub fn start(scratch: &Scratch) -> Self {
        Self::launch(scratch, false)
    }

    /// One that ignores the condition of a create.
    pub fn overwriting(scratch: &Scratch) -> Self {
        Self::launch(scratch, true)
    }

    fn launch(scratch: &Scratch, overwrites: bool) -> Self {
        let root = scratch.join("s3");
        std::fs::create_dir_all(root.join(BUCKET)).expect("a bucket");
        let mut service = S3ServiceBuilder::new(FileSystem::new(&root).expect("s3s-fs"));
        service.set_auth(SimpleAuth::from_single(KEY_ID, KEY_SECRET));
        let state = Arc::new(State {
            root,
            service: service.build(),
            hook: Mutex::new(None),
            overwrites,
            creating: tokio::sync::Mutex::new(()),
            requests: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, port) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { state, port: port.recv().expect("the service's port"), _stop: stop }
    }

    /// The URL of a store in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{}", self.port)
    }

    /// The same store, for use in this process.
    pub fn store(&self, prefix: &str) -> S3Store {
        let url = self.url(prefix);
        let keys = Keys { id: KEY_ID.into(), secret: KEY_SECRET.into() };
        S3Store::with_keys(url.strip_prefix("s3://").unwrap(), Arc::new(SystemClock), keys).expect("a store")
    }

    /// Where the objects with that prefix lie as files.
    pub fn dir(&self, prefix: &str) -> PathBuf {
        self.state.root.join(BUCKET).join(prefix)
    }

    /// Asks `hook` of every request what goes wrong with it, until another hook is set.
    pub fn harm_when(&self, hook: impl Fn(&Asked) -> Option<Harm> + Send + Sync + 'static) {
        *self.state.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// One of `every` requests goes wrong in one way or another.
    pub fn harm_at_random(&self, seed: u64, every: u32) {
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        self.harm_when(move |_| {
            let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
            if dice.random_range(0..every) != 0 {
                return None;
            }
            Some(match dice.random_range(0..32) {
                // These end a session at once, of which each needs some twenty requests.
                0 => Harm::Refused(403, "RequestTimeTooSkewed"),
                1 => Harm::Refused(400, "ExpiredToken"),
                2..7 => Harm::Refused(503, "SlowDown"),
                7..12 => Harm::Refused(500, "InternalError"),
                12..17 => Harm::Refused(409, "ConditionalRequestConflict"),
                17..22 => Harm::Reset,
                22..27 => Harm::CutAt(dice.random_range(0..5000)),
                _ => Harm::AnswerLost,
            })
        });
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        *self.state.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(Arc::clone(&state), request));
            // It ends with an error whenever an answer is withheld.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let withheld = || std::io::Error::other("withheld");
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let key = head.uri.path().trim_start_matches('/').strip_prefix(BUCKET).unwrap_or_default().trim_start_matches('/');
    let asked = Asked {
        method: head.method.clone(),
        key: key.to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
    };
    state.requests.fetch_add(1, Ordering::Relaxed);
    let harm = state.hook.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|hook| hook(&asked));
    match harm {
        Some(Harm::Refused(status, code)) => return Ok(refused(status, code)),
        Some(Harm::Reset) => return Err(withheld()),
        _ => {}
    }
    if let Some(response) = mended(&state, &asked, &head.headers) {
        return Ok(response);
    }
    let creates = head.headers.contains_key("if-none-match");
    let creating = if creates { Some(state.creating.lock().await) } else { None };
    if creates && state.overwrites {
        remove(&state.root.join(BUCKET).join(&asked.key));
    }
    let request = Request::from_parts(head, s3s::Body::from(body));
    let response = state.service.call(request).await.map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    drop(creating);
    let (mut head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| std::io::Error::other(error.to_string()))?.to_bytes();
    head.headers.remove("transfer-encoding");
    if asked.method != Method::HEAD {
        // It was a stream; its length is to be told, so that a short one can be seen.
        head.headers.insert("content-length", body.len().into());
    }
    Ok(match harm {
        Some(Harm::AnswerLost) => return Err(withheld()),
        Some(Harm::CutAt(at)) => {
            let first = body.slice(..at.min(body.len()));
            Response::from_parts(head, cut(first))
        }
        Some(Harm::Flipped(at)) if !body.is_empty() => {
            let mut changed = body.to_vec();
            let at = at % changed.len();
            changed[at] ^= 1;
            Response::from_parts(head, whole(changed.into()))
        }
        _ => Response::from_parts(head, whole(body)),
    })
}

/// What `s3s-fs` does otherwise than Amazon: it seeks before the start of a file that is shorter than
/// the end asked for, panics at a range of an empty object, and takes a folder's name and one below a file for its own failures.
fn mended(state: &State, asked: &Asked, headers: &HeaderMap) -> Option<Response<Body>> {
    let path = state.root.join(BUCKET).join(&asked.key);
    if !asked.key.is_empty() && (path.is_dir() || path.ancestors().skip(1).any(Path::is_file)) {
        let body = if asked.method == Method::HEAD { "" } else { "NoSuchKey" };
        return Some(refused(404, body));
    }
    let range = headers.get("range")?.to_str().ok()?;
    let body = std::fs::read(&path).ok()?;
    let size = body.len() as u64;
    if size == 0 {
        return Some(refused(416, "InvalidRange"));
    }
    let suffix: u64 = range.strip_prefix("bytes=-")?.parse().ok()?;
    if suffix <= size {
        return None;
    }
    let response = Response::builder().status(206).header("content-range", format!("bytes 0-{}/{size}", size - 1));
    Some(response.body(whole(body.into())).expect("a response"))
}

/// Whether there was one or not.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

fn refused(status: u16, code: &str) -> Response<Body> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
    let response = Response::builder().status(status).header("content-type", "application/xml");
    response.body(whole(body.into())).expect("a response")
}
