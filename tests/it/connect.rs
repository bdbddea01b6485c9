//! Promise: pitr connects wherever `psql` would, proves the server before it trusts
//! it, and says what to do when it cannot.
//!
//! The rulers are OpenSSL, which makes the certificates, and the server's own view in
//! `pg_stat_ssl` and `pg_replication_slots`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pitr::engine::postgres::connect::{Connection, Mode, connect};
use pitr::engine::postgres::conninfo::ConnInfo;
use pitr::engine::postgres::wal::name::parse_lsn;
use pitr::engine::postgres::{inspect, source};
use pitr::engine::{Finding, Level, SourceOptions};
use pitr::model::position::Resume;
use pitr::model::time::SystemClock;
use pitr::{Error, Kind, Result};

use crate::support::programs::{give_to_server_user, must, tool};
use crate::support::{PATIENCE, Scratch, Server, condition};

/// All on one runtime: a session lives on the one it was opened on.
fn run<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).block_on(work)
}

/// Opens a session with no environment but an empty home.
fn open(scratch: &Scratch, text: &str, mode: Mode) -> Result<Connection> {
    let home = scratch.join("home").display().to_string();
    let info = ConnInfo::resolve(text, &|name| (name == "HOME").then(|| home.clone()))?;
    run(connect(&info, mode))
}

fn openssl(args: &[&str]) {
    must(tool("openssl").args(args));
}

/// Puts key and certificate where the server looks for them.
fn install(server: &mut Server, key: &Path, certificate: &Path) {
    server.stop();
    for (from, name) in [(key, "server.key"), (certificate, "server.crt")] {
        let to = server.data().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        give_to_server_user(&to);
    }
    server.launch(&[("ssl", "on")]);
    condition("the server to answer", PATIENCE, || server.try_sql("select 1").ok());
}

/// A certificate that is its own authority, as the PostgreSQL manual makes it.
fn self_signed(scratch: &Scratch, name: &str, algorithm: &[&str]) -> (PathBuf, PathBuf) {
    let (key, certificate) = (scratch.join(&format!("{name}.key")), scratch.join(&format!("{name}.crt")));
    let mut args = vec!["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=db.example"];
    args.extend(algorithm);
    args.extend(["-keyout", key.to_str().unwrap(), "-out", certificate.to_str().unwrap()]);
    openssl(&args);
    (key, certificate)
}

/// A certificate signed by `authority`, with an extension file or, without, of the
/// version OpenSSL chooses.
fn signed(
    scratch: &Scratch,
    name: &str,
    authority: &(PathBuf, PathBuf),
    extension: Option<&str>,
) -> (PathBuf, PathBuf) {
    let path = |suffix: &str| scratch.join(&format!("{name}.{suffix}")).display().to_string();
    let (key, request, certificate, extensions) = (path("key"), path("csr"), path("crt"), path("ext"));
    openssl(&[
        "req",
        "-new",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/CN=db.example",
        "-keyout",
        &key,
        "-out",
        &request,
    ]);
    let (ca_key, ca) = (authority.0.to_str().unwrap(), authority.1.to_str().unwrap());
    let mut args = vec!["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &request, "-CA", ca, "-CAkey", ca_key];
    if let Some(extension) = extension {
        std::fs::write(&extensions, extension).unwrap();
        args.extend(["-extfile", &extensions]);
    }
    args.extend(["-out", &certificate]);
    openssl(&args);
    (key.into(), certificate.into())
}

fn with_password(scratch: &Scratch, settings: &[(&str, &str)]) -> Server {
    let mut builder = Server::builder(scratch, "source")
        .hba("hostssl all,replication keeper 127.0.0.1/32 scram-sha-256")
        .hba("host all,replication old 127.0.0.1/32 md5")
        .hba("host all,replication naked 127.0.0.1/32 password")
        .hba("host all,replication stranger 127.0.0.1/32 reject");
    for (key, value) in settings {
        builder = builder.setting(key, value);
    }
    let server = builder.start();
    server.sql(
        "create role keeper login replication password 'right one'; \
         set password_encryption = 'md5'; create role old login replication password 'old one'; \
         create role naked login replication password 'naked one'; create role stranger login replication",
    );
    server
}

fn text(server: &Server, user: &str, host: &str, more: &str) -> String {
    format!("host={host} hostaddr=127.0.0.1 port={} dbname=postgres user={user} {more}", server.port())
}

#[test]
fn scram_is_bound_to_every_kind_of_certificate_that_can_be_bound() {
    let scratch = Scratch::new();
    let mut server = with_password(&scratch, &[]);
    for (name, algorithm) in [
        ("rsa256", &["-newkey", "rsa:2048", "-sha256"][..]),
        ("rsa512", &["-newkey", "rsa:2048", "-sha512"]),
        ("ec384", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-sha384"]),
        ("pss384", &["-newkey", "rsa:2048", "-sha384", "-sigopt", "rsa_padding_mode:pss"]),
        ("ed25519", &["-newkey", "ed25519"]),
    ] {
        let (key, certificate) = self_signed(&scratch, name, algorithm);
        install(&mut server, &key, &certificate);
        let root = format!("password='right one' sslrootcert={}", certificate.display());
        let bound = text(&server, "keeper", "db.example", &format!("{root} channel_binding=require"));
        let result = open(&scratch, &bound, Mode::Sql);
        if name == "ed25519" {
            // Its signature names no hash, so there is nothing to bind to: refused when
            // required, and done without when only preferred.
            assert_eq!(result.unwrap_err().kind(), Kind::DatabaseUnreachable);
            open(&scratch, &text(&server, "keeper", "db.example", &root), Mode::Replication).unwrap();
            continue;
        }
        let mut session = result.unwrap_or_else(|e| panic!("{name}: {e}"));
        let seen =
            run(session.value("select ssl and version like 'TLSv1.%' from pg_stat_ssl where pid = pg_backend_pid()"));
        assert_eq!(seen.unwrap().as_deref(), Some("t"), "{name}");
    }
}

#[test]
fn a_server_is_believed_only_as_far_as_sslmode_says() {
    let scratch = Scratch::new();
    let mut server = with_password(&scratch, &[]);
    let authority = self_signed(&scratch, "authority", &["-newkey", "rsa:2048"]);
    let stranger = self_signed(&scratch, "stranger", &["-newkey", "rsa:2048"]);
    let modern = signed(&scratch, "modern", &authority, Some("subjectAltName=DNS:*.alt.example,IP:127.0.0.1"));
    let plain = signed(&scratch, "plain", &authority, None);
    let try_as = |server: &Server, host: &str, mode: &str, root: &Path| {
        let more = format!("password='right one' sslmode={mode} sslrootcert={}", root.display());
        open(&scratch, &text(server, "keeper", host, &more), Mode::Replication).map(drop)
    };
    install(&mut server, &modern.0, &modern.1);
    for host in ["db.alt.example", "127.0.0.1"] {
        try_as(&server, host, "verify-full", &authority.1).unwrap();
    }
    // With alternative names the common name no longer counts.
    for host in ["db.example", "a.b.alt.example", "alt.example"] {
        let error = try_as(&server, host, "verify-full", &authority.1).unwrap_err();
        assert_eq!(error.kind(), Kind::DatabaseUnreachable);
        assert!(error.advice().unwrap().contains("hostaddr"), "{error}");
        try_as(&server, host, "verify-ca", &authority.1).unwrap();
    }
    install(&mut server, &plain.0, &plain.1);
    try_as(&server, "db.example", "verify-full", &authority.1).unwrap();
    assert!(try_as(&server, "127.0.0.1", "verify-full", &authority.1).is_err());
    for mode in ["verify-full", "verify-ca"] {
        let error = try_as(&server, "db.example", mode, &stranger.1).unwrap_err();
        assert!(error.advice().unwrap().contains("sslrootcert"), "{mode}: {error}");
    }
    // A root file at hand makes `require` check like verify-ca.
    assert!(try_as(&server, "db.example", "require", &stranger.1).is_err());
    let unchecked = text(&server, "keeper", "db.example", "password='right one' sslmode=require");
    open(&scratch, &unchecked, Mode::Replication).unwrap();
}

#[test]
fn a_refusal_names_the_place_and_the_cure_but_no_password() {
    let scratch = Scratch::new();
    let mut server = with_password(&scratch, &[]);
    let (key, certificate) = self_signed(&scratch, "own", &["-newkey", "rsa:2048"]);
    let refused = |server: &Server, user: &str, host: &str, more: &str| -> Error {
        let result = open(&scratch, &text(server, user, host, more), Mode::Replication).map(drop);
        let error = result.expect_err(&format!("{user} is let in"));
        assert!(!format!("{error:?}").contains("secretword"), "{error:?}");
        assert!(error.to_string().contains(&server.port().to_string()), "{error}");
        assert!(error.advice().is_some(), "{error}");
        assert_eq!(error.kind(), Kind::DatabaseUnreachable, "{error}");
        error
    };
    let error = refused(&server, "keeper", "localhost", "password=secretword sslmode=verify-full");
    assert!(error.to_string().contains("does not offer TLS"), "{error}");
    // On loopback TLS is preferred, no more: this server has none.
    let error = refused(&server, "stranger", "localhost", "password=secretword");
    assert!(error.advice().unwrap().contains("pg_hba.conf"), "{error}");
    // In the clear only where it was asked for.
    let error = refused(&server, "naked", "localhost", "password=secretword");
    assert!(error.to_string().contains("clear text"), "{error}");
    open(&scratch, &text(&server, "naked", "localhost", "password='naked one' require_auth=password"), Mode::Sql)
        .unwrap();
    open(&scratch, &text(&server, "old", "localhost", "password='old one'"), Mode::Sql).unwrap();
    assert!(
        open(&scratch, &text(&server, "old", "localhost", "password='old one' require_auth=!md5"), Mode::Sql).is_err()
    );

    install(&mut server, &key, &certificate);
    let error = refused(&server, "keeper", "localhost", "password=secretword");
    assert!(error.advice().unwrap().contains("password"), "{error}");
    let error = refused(&server, "keeper", "localhost", "");
    assert!(error.advice().unwrap().contains(".pgpass"), "{error}");
}

#[test]
fn a_client_certificate_is_shown_and_its_key_must_be_private() {
    let scratch = Scratch::new();
    let authority = self_signed(&scratch, "authority", &["-newkey", "rsa:2048"]);
    let ca = scratch.join("authority.crt");
    give_to_server_user(&ca);
    let mut server = Server::builder(&scratch, "source")
        .hba("hostssl all,replication db.example 127.0.0.1/32 cert")
        .setting("ssl_ca_file", ca.display())
        .start();
    server.sql("create role \"db.example\" login replication");
    let own = self_signed(&scratch, "own", &["-newkey", "rsa:2048"]);
    install(&mut server, &own.0, &own.1);
    let (key, certificate) = signed(&scratch, "client", &authority, Some("keyUsage=digitalSignature"));
    let show = format!("sslrootcert={} sslcert={} sslkey={}", own.1.display(), certificate.display(), key.display());
    let text = text(&server, "db.example", "db.example", &show);
    open(&scratch, &text, Mode::Replication).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = open(&scratch, &text, Mode::Replication).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.advice().unwrap().contains("chmod"), "{error}");
}

#[test]
fn the_host_that_suits_is_chosen_of_several() {
    let scratch = Scratch::new();
    let primary = Server::new(&scratch, "primary");
    let standby = primary.standby(&scratch, "standby");
    let hosts = format!(
        "host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,{},{} user=postgres dbname=postgres",
        primary.port(),
        standby.port()
    );
    for (attrs, wanted) in [
        ("any", &primary),
        ("read-write", &primary),
        ("primary", &primary),
        ("standby", &standby),
        ("read-only", &standby),
        ("prefer-standby", &standby),
    ] {
        for mode in [Mode::Replication, Mode::Sql] {
            let session = open(&scratch, &format!("{hosts} target_session_attrs={attrs}"), mode).unwrap();
            assert_eq!(session.place(), format!("127.0.0.1:{}", wanted.port()), "{attrs}");
        }
    }
    let alone = format!("host=127.0.0.1 port={} user=postgres", primary.port());
    open(&scratch, &format!("{alone} target_session_attrs=prefer-standby"), Mode::Replication).unwrap();
    assert!(open(&scratch, &format!("{alone} target_session_attrs=standby"), Mode::Replication).is_err());
}

fn options(slot: &str) -> SourceOptions {
    SourceOptions { slot: Some(slot.to_owned()), application_name: "pitr".to_owned(), ..SourceOptions::default() }
}

#[test]
fn a_slot_is_made_kept_and_not_shared() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source").wal_segment_mib(1).start();
    run(async {
        let mut first = source::connect(&server.url(), &options("pitr")).await.unwrap();
        let begin = first.prepare_slot().await.unwrap().unwrap();
        assert_eq!(begin.offset.0 % (1 << 20), 0);
        let kept = server
            .sql("select restart_lsn from pg_replication_slots where slot_name = 'pitr' and slot_type = 'physical'");
        let kept = parse_lsn(&kept).unwrap();
        assert!(begin.offset <= kept && kept.since(begin.offset) < 1 << 20);
        assert_eq!(first.prepare_slot().await.unwrap(), Some(begin.clone()), "it is there now, and the same");

        first.stream(&begin).await.unwrap();
        let mut second = source::connect(&server.url(), &options("pitr")).await.unwrap();
        let error = second.stream(&begin).await.unwrap_err();
        let holder = server.sql("select active_pid from pg_replication_slots where slot_name = 'pitr'");
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains(&holder), "{error} names {holder}");
        first.stop().await.unwrap();
        second.stream(&begin).await.unwrap();
    });
}

#[test]
fn a_lost_slot_is_made_anew_and_its_log_is_absent() {
    let scratch = Scratch::new();
    let server = Server::builder(&scratch, "source")
        .wal_segment_mib(1)
        .setting("wal_keep_size", "0")
        .setting("max_wal_size", "4MB")
        .setting("min_wal_size", "2MB")
        .setting("max_slot_wal_keep_size", "2MB")
        .start();
    run(async {
        let mut source = source::connect(&server.url(), &options("pitr")).await.unwrap();
        let old = source.prepare_slot().await.unwrap().unwrap();
        condition("the slot to be lost", PATIENCE, || {
            server.sql(
                "create table if not exists t (a int); insert into t values (1); select pg_switch_wal(); checkpoint",
            );
            (server.sql("select wal_status from pg_replication_slots") == "lost").then_some(())
        });
        let finding =
            |findings: Vec<Finding>, subject: &str| findings.into_iter().find(|f| f.subject == subject).unwrap();
        let findings = inspect::inspect(&server.url(), &options("pitr"), &SystemClock).await.unwrap();
        assert_eq!(finding(findings, "slot").level, Level::Critical);

        let new = source.prepare_slot().await.unwrap().unwrap();
        assert!(new.offset > old.offset, "what is missing shows as a gap");
        assert_eq!(server.sql("select wal_status from pg_replication_slots"), "reserved");
        let error = match source.stream(&old).await {
            Ok(()) => source.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), Kind::Absent, "{error}");

        let mut again = source::connect(&server.url(), &options("pitr")).await.unwrap();
        again.stream(&new).await.unwrap();
        again.next().await.unwrap();
        let ahead = Resume { offset: pitr::model::offset::Offset(1 << 40), ..new };
        again.stop().await.unwrap();
        let error = match again.stream(&ahead).await {
            Ok(()) => again.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), Kind::NotRecoverable, "{error}");
    });
}

#[test]
fn the_printed_grants_are_enough_and_a_poorer_role_is_only_warned() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    let grants: String =
        inspect::grants("pitr").lines().filter(|l| !l.starts_with('\\')).map(|l| format!("{l}\n")).collect();
    server.sql(&grants);
    server.sql("create role poor login replication; create role outsider login");
    let look = |user: &str| run(inspect::inspect(&server.url_as(user), &options("pitr"), &SystemClock)).unwrap();
    let level = |findings: &[Finding], subject: &str| findings.iter().find(|f| f.subject == subject).map(|f| f.level);

    let full = look("pitr");
    assert_eq!(level(&full, "replication"), Some(Level::Ok));
    assert!(full.iter().all(|f| f.level < Level::Critical), "{full:?}");
    let poor = look("poor");
    assert_eq!(level(&poor, "replication"), Some(Level::Warning));
    assert!(poor.iter().all(|f| f.level < Level::Critical), "{poor:?}");
    assert_eq!(level(&look("outsider"), "connection"), Some(Level::Critical));
    assert!(full.iter().chain(&poor).all(|f| (f.level == Level::Ok) == f.cure.is_none()), "a cure for each complaint");
}

#[test]
fn the_server_lists_us_under_our_application_name() {
    let scratch = Scratch::new();
    let server = Server::new(&scratch, "source");
    let named = SourceOptions { application_name: "archiver \"one\"".to_owned(), ..options("pitr") };
    run(async {
        let mut source = source::connect(&server.url(), &named).await.unwrap();
        let begin = source.prepare_slot().await.unwrap().unwrap();
        source.stream(&begin).await.unwrap();
        let listed = condition("the walsender to be listed", PATIENCE, || {
            let name = server.sql("select application_name from pg_stat_replication");
            (!name.is_empty()).then_some(name)
        });
        assert_eq!(listed, "archiver \"one\"");
        let findings = inspect::inspect(&server.url(), &named, &SystemClock).await.unwrap();
        let lag = findings.iter().find(|f| f.subject == "lag").unwrap();
        assert_eq!(lag.level, Level::Ok, "{lag:?}");
    });
}
