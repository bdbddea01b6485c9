//! What libpq does with a connection string, pitr does too. The environment is a
//! table, so that a test sees no variable of its own process.

use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

fn resolve_with(text: &str, env: &[(&str, &str)]) -> Result<ConnInfo> {
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ConnInfo::resolve(text, &move |name| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
}

fn resolve(text: &str) -> ConnInfo {
    resolve_with(text, &[]).unwrap()
}

fn tcp(name: &str, port: u16) -> Endpoint {
    Endpoint { host: Host::Tcp { name: name.to_owned(), address: None }, port }
}

fn unix(dir: &str, port: u16) -> Endpoint {
    Endpoint { host: Host::Unix(dir.into()), port }
}

#[test]
fn reads_a_full_uri() {
    let info = resolve("postgresql://p%40tr:s%3Ac%2Fret@db.internal:6000/app?application_name=a%20b&connect_timeout=7");
    assert_eq!(info.endpoints, [tcp("db.internal", 6000)]);
    assert_eq!(info.user, "p@tr");
    assert_eq!(info.password.as_ref().unwrap().expose_secret(), "s:c/ret");
    assert_eq!(info.database(), "app");
    assert_eq!(info.application_name.as_deref(), Some("a b"));
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(7)));
}

#[test]
fn reads_several_hosts_and_ipv6() {
    let info = resolve("postgres://u@a:1,[::1]:2,c/?port=");
    assert_eq!(info.endpoints, [tcp("a", 1), tcp("::1", 2), tcp("c", 5432)]);
    assert_eq!(info.endpoints[1].to_string(), "[::1]:2");
    assert_eq!(info.database(), "u");
    let info = resolve("host=a,b port=7 user=u");
    assert_eq!(info.endpoints, [tcp("a", 7), tcp("b", 7)]);
    assert!(resolve_with("host=a,b,c port=1,2", &[]).is_err());
}

#[test]
fn a_directory_is_a_unix_socket_in_every_spelling() {
    for text in ["postgres://u@%2Frun%2Fpg:99/", "postgres://u@/d?host=/run/pg&port=99", "host=/run/pg port=99 user=u"]
    {
        assert_eq!(resolve(text).endpoints, [unix("/run/pg", 99)], "{text}");
    }
}

#[test]
fn keyword_strings_quote_as_libpq_does() {
    let info = resolve(r"host = h user='o\'neil x' password=a\ b dbname = ''");
    assert_eq!(info.user, "o'neil x");
    assert_eq!(info.password.as_ref().unwrap().expose_secret(), "a b");
    assert_eq!(info.database(), "o'neil x");
}

#[test]
fn the_string_comes_before_the_environment() {
    let env = [("PGHOST", "envhost"), ("PGPORT", "1"), ("PGUSER", "envuser"), ("PGDATABASE", "envdb")];
    let info = resolve_with("postgres://u@h/", &env).unwrap();
    assert_eq!((info.endpoints[0].clone(), info.user.as_str()), (tcp("h", 1), "u"));
    let info = resolve_with("", &env).unwrap();
    assert_eq!(info.redacted(), "postgres://envuser@envhost:1/envdb");
}

#[test]
fn a_hostaddr_saves_the_look_up_and_keeps_the_name() {
    let info = resolve("host=db hostaddr=10.0.0.1 user=u");
    let address = Some("10.0.0.1".parse().unwrap());
    assert_eq!(info.endpoints[0].host, Host::Tcp { name: "db".to_owned(), address });
    assert!(resolve_with("hostaddr=db user=u", &[]).is_err());
}

#[test]
fn tcp_is_verified_unless_it_stays_on_this_machine() {
    let mode = |text: &str| {
        let info = resolve(text);
        info.ssl_mode(&info.endpoints[0])
    };
    assert_eq!(mode("postgres://u@db/"), SslMode::VerifyFull);
    assert_eq!(mode("postgres://u@10.1.2.3/"), SslMode::VerifyFull);
    for local in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"] {
        assert_eq!(mode(&format!("postgres://u@{local}/")), SslMode::Prefer, "{local}");
    }
    assert_eq!(mode("postgres://u@db/?sslmode=require"), SslMode::Require);
    assert_eq!(mode("host=/run/pg user=u sslmode=verify-full"), SslMode::Disable);
    assert_eq!(mode("postgres://u@localhost/?sslrootcert=system"), SslMode::VerifyFull);
    // The name decides nothing when the address is another machine's.
    assert_eq!(mode("host=localhost hostaddr=10.0.0.1 user=u"), SslMode::VerifyFull);
}

#[test]
fn refuses_what_it_does_not_understand() {
    for text in [
        "postgres://u@h/?sslmod=require",
        "postgres://u@h/?sslmode=verify_full",
        "postgres://u@h/?sslcrl=/x",
        "postgres://u@h:0/",
        "postgres://u@h:65536/",
        "postgres://u@h/?x",
        "postgres://u%zz@h/",
        "postgres://u%00@h/",
        "postgres://u@[::1/",
        "mysql://u@h/",
        "host='h",
        "host",
        "host h=1",
        "postgres://u@h/?require_auth=scram-sha-256,!md5",
        "postgres://u@h/?require_auth=kerberos",
        "postgres://u@h/?target_session_attrs=master",
        "postgres://u@h/?sslrootcert=system&sslmode=require",
    ] {
        let result = resolve_with(text, &[]);
        if text == "host" {
            assert_eq!(result.unwrap().database(), "host");
        } else {
            assert_eq!(result.unwrap_err().kind(), crate::Kind::Config, "{text}");
        }
    }
}

#[test]
fn no_form_of_display_shows_a_password() {
    let info = resolve("postgres://u:verysecret@h/d?sslmode=require");
    assert!(!format!("{info:?}").contains("verysecret"));
    assert!(!info.redacted().contains("verysecret"));
    for broken in
        ["postgres://u:verysecret@h:x/", "postgres://u:verysecret%@h/", "password=verysecret host", "x://verysecret@"]
    {
        let error = resolve_with(broken, &[]).unwrap_err();
        assert!(!format!("{error:?}").contains("verysecret"), "{broken}");
    }
}

#[test]
fn the_password_file_is_asked_for_the_database_replication() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pass");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, b"h:5432:app:u:one\nh:5432:replication:u:two\n").unwrap();
    let env = [("PGPASSFILE", path.to_str().unwrap())];
    let info = resolve_with("postgres://u@h/app", &env).unwrap();
    let password = |database| info.password_for(&info.endpoints[0], database).unwrap().expose_secret();
    assert_eq!((password("app"), password("replication")), ("one", "two"));
    let info = resolve_with("postgres://u:three@h/app", &env).unwrap();
    assert_eq!(info.password_for(&info.endpoints[0], "app").unwrap().expose_secret(), "three");
}

#[test]
fn a_service_fills_in_what_the_string_leaves_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("services");
    std::fs::write(&path, "[prod]\nhost=sh\nuser=su\nport=1234\n").unwrap();
    let env = [("PGSERVICEFILE", path.to_str().unwrap()), ("PGUSER", "eu"), ("PGSYSCONFDIR", "/nonexistent")];
    let info = resolve_with("postgres:///d?service=prod&user=me", &env).unwrap();
    assert_eq!((info.endpoints[0].clone(), info.user.as_str()), (tcp("sh", 1234), "me"));
    assert_eq!(resolve_with("service=prod", &env).unwrap().user, "su");
    assert!(resolve_with("service=absent", &env).is_err());
}

proptest! {
    #[test]
    fn every_user_password_and_database_survives_the_uri(user in "\\PC{1,12}", password in "\\PC{1,12}", db in "\\PC{1,12}") {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
        let text = format!("postgres://{}:{}@h/{}", encode(&user), encode(&password), encode(&db));
        let info = resolve_with(&text, &[]).unwrap();
        prop_assert_eq!(info.user.as_str(), user.as_str());
        prop_assert_eq!(info.password.as_ref().unwrap().expose_secret(), password.as_str());
        prop_assert_eq!(info.database(), db.as_str());
    }

    #[test]
    fn no_string_panics(text in "(postgres://)?[\\PC]{0,40}") {
        let _ = resolve_with(&text, &[]);
    }
}

#[test]
fn a_host_and_port_are_not_taken_for_a_database() {
    for (text, hint) in [
        ("127.0.0.1:55601", "postgres://USER@127.0.0.1:55601/postgres"),
        ("[::1]:5432/app", "postgres://USER@[::1]:5432/app"),
        ("me:verysecret@db.internal:5432/app", "postgres://USER@db.internal:5432/app"),
    ] {
        let error = resolve_with(text, &[]).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Usage, "{text}");
        assert!(error.advice().unwrap().ends_with(hint), "{text}: {:?}", error.advice());
        assert!(!format!("{error:?}").contains("verysecret"), "{text}");
    }
    assert_eq!(resolve("app").database(), "app");
}
