//! What the servers' own clients do with option files and variables, pitr does too. The
//! environment is a table, and the machine's own option files are others, so that a test sees
//! nothing of the machine it runs on.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

/// A machine with these variables and no option file but those in `home` and `global`.
fn resolve_at(text: &str, env: &[(&str, &str)], home: &Path, global: &[&Path]) -> Result<ConnInfo> {
    let mut env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    env.push(("HOME".to_owned(), home.display().to_string()));
    ConnInfo::resolve_with(text, &move |name| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()), global)
}

fn resolve_with(text: &str, env: &[(&str, &str)]) -> Result<ConnInfo> {
    resolve_at(text, env, Path::new("/nonexistent"), &[])
}

fn resolve(text: &str) -> ConnInfo {
    resolve_with(text, &[]).unwrap()
}

/// Resolves `mysql://` with this option file in the home directory.
fn with_file(text: &str) -> Result<ConnInfo> {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".my.cnf"), text).unwrap();
    resolve_at("mysql://", &[], home.path(), &[])
}

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp { host: host.to_owned(), port }
}

fn password(info: &ConnInfo) -> Option<&str> {
    info.password.as_ref().map(|p| p.expose_secret())
}

#[test]
fn reads_a_full_url() {
    let info = resolve(
        "mysql://p%40tr:s%3Ac%2Fret@db.internal:6000/app?connect-timeout=7&ssl-mode=verify_ca&ssl-ca=/ca.pem\
         &ssl_cert=/c.pem&ssl-key=/k%20k.pem&semi-sync=off",
    );
    assert_eq!(info.endpoints, [tcp("db.internal", 6000)]);
    assert_eq!((info.user.as_str(), password(&info)), ("p@tr", Some("s:c/ret")));
    assert_eq!(info.database.as_deref(), Some("app"));
    assert_eq!(info.connect_timeout, Duration::from_secs(7));
    assert_eq!(info.tls.mode, Some(SslMode::VerifyCa));
    assert_eq!(info.tls.ca.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(info.tls.cert.as_deref(), Some(Path::new("/c.pem")));
    assert_eq!(info.tls.key.as_deref(), Some(Path::new("/k k.pem")));
    assert!(!info.semi_sync && resolve("mysql://u@h").semi_sync);
}

#[test]
fn reads_several_hosts_and_ipv6() {
    let info = resolve("mariadb://u@a:1,[::1]:2,c/");
    assert_eq!(info.endpoints, [tcp("a", 1), tcp("::1", 2), tcp("c", 3306)]);
    assert_eq!(info.endpoints[1].to_string(), "[::1]:2");
    assert_eq!(info.redacted(), "mysql://u@a:1,[::1]:2,c:3306/");
}

#[test]
fn a_password_may_hold_a_bare_at_sign() {
    let info = resolve("mysql://u:p@ss@h/");
    assert_eq!((info.user.as_str(), password(&info)), ("u", Some("p@ss")));
}

#[test]
fn without_a_host_it_is_the_socket() {
    let info = resolve("mysql://u@/?socket=/run/x.sock");
    assert_eq!(info.endpoints, [Endpoint::Unix("/run/x.sock".into())]);
    assert_eq!(info.ssl_mode(&info.endpoints[0]), SslMode::Disabled);
    let info = resolve_with("mysql://u@", &[("MYSQL_UNIX_PORT", "/run/y.sock")]).unwrap();
    assert_eq!(info.endpoints, [Endpoint::Unix("/run/y.sock".into())]);
    // One that is not there yet, and the loopback address after it.
    let info = with_file("[client]\nsocket=/nonexistent/z.sock\nport=7").unwrap();
    assert!(matches!(
        info.endpoints.as_slice(),
        [Endpoint::Unix(_)] | [Endpoint::Unix(_), Endpoint::Tcp { port: 7, .. }]
    ));
    assert!(resolve_with("mysql://u@h/?socket=/x", &[]).is_err());
}

#[test]
fn the_environment_stands_behind_the_url_and_before_option_files() {
    let env = [("MYSQL_HOST", "e"), ("MYSQL_TCP_PORT", "77"), ("MYSQL_PWD", "from env")];
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".my.cnf"), "[client]\nhost=f\nport=8\npassword=from file\nuser=file\n").unwrap();
    let at = |text: &str, env: &[(&str, &str)]| resolve_at(text, env, home.path(), &[]).unwrap();
    let info = at("mysql://", &env);
    assert_eq!((info.endpoints.as_slice(), password(&info)), (&[tcp("e", 77)][..], Some("from env")));
    assert_eq!(info.user, "file");
    let info = at("mysql://u:url@h:9", &env);
    assert_eq!((info.endpoints.as_slice(), password(&info)), (&[tcp("h", 9)][..], Some("url")));
    assert_eq!(at("mysql://h", &env).endpoints, [tcp("h", 77)]);
    let info = at("mysql://", &[]);
    assert_eq!((info.endpoints.as_slice(), password(&info)), (&[tcp("f", 8)][..], Some("from file")));
}

#[test]
fn quotes_escapes_and_comments_are_the_clients_own() {
    let info = with_file(
        "# a comment\n; another\n[mysqld]\nuser=no\n[client] # ours\n  user = \"o'neil\"  # who\n\
         password='a\\\\b \"c\" # d'\n\
         database=x\\sy\\z\n[mysqldump]\nuser=no\n[client-mariadb]\n\
         ssl_ca = /ca.pem\nhost=h\nloose-ssl-mode=required\n",
    )
    .unwrap();
    assert_eq!((info.user.as_str(), password(&info)), ("o'neil", Some("a\\b \"c\" # d")));
    assert_eq!(info.database.as_deref(), Some("x y\\z"));
    assert_eq!(info.tls.ca.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(info.tls.mode, Some(SslMode::Required));
}

#[test]
fn mariadbs_words_for_tls_are_understood() {
    for (text, mode) in [
        ("ssl-verify-server-cert", SslMode::VerifyIdentity),
        ("ssl-verify-server-cert=ON", SslMode::VerifyIdentity),
        ("disable-ssl-verify-server-cert", SslMode::Required),
        ("ssl_verify_server_cert=0", SslMode::Required),
        ("skip-ssl", SslMode::Disabled),
        ("ssl=0", SslMode::Disabled),
        ("skip-ssl\nssl-mode=VERIFY_CA", SslMode::VerifyCa),
    ] {
        assert_eq!(with_file(&format!("[client]\n{text}\n")).unwrap().tls.mode, Some(mode), "{text}");
    }
    assert_eq!(with_file("[client]\nssl\n").unwrap().tls.mode, None);
    assert!(with_file("[client]\nssl=perhaps\n").is_err());
}

#[test]
fn localhost_in_a_file_is_the_socket_unless_tcp_is_asked_for() {
    let info = with_file("[client]\nhost=localhost\nprotocol=TCP\nport=5\n").unwrap();
    assert_eq!(info.endpoints, [tcp("localhost", 5)]);
    let info = with_file("[client]\nhost=localhost\nport=5\n").unwrap();
    assert!(matches!(info.endpoints.first(), Some(Endpoint::Unix(_))));
    // In a URL it is what it says.
    assert_eq!(resolve("mysql://localhost").endpoints, [tcp("localhost", 3306)]);
}

#[test]
fn files_include_others_and_the_last_word_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("conf.d")).unwrap();
    fs::write(path("conf.d/b.cnf"), "[client]\nuser=b\n").unwrap();
    fs::write(path("conf.d/a.cnf"), "[client]\nuser=a\nport=4\n").unwrap();
    fs::write(path("conf.d/c.txt"), "[client]\nuser=c\n").unwrap();
    fs::write(path("one.cnf"), "[client]\nhost=one\n").unwrap();
    let global = path("my.cnf");
    let text = format!(
        "[client]\nuser=first\n!include {}\n!includedir {}\nhost=two\n",
        path("one.cnf").display(),
        path("conf.d").display()
    );
    fs::write(&global, text).unwrap();
    let info = resolve_at("mysql://", &[], Path::new("/nonexistent"), &[&global]).unwrap();
    assert_eq!((info.endpoints.as_slice(), info.user.as_str()), (&[tcp("two", 4)][..], "b"));
    // A file that includes itself ends somewhere.
    fs::write(&global, format!("!include {}\n", global.display())).unwrap();
    assert!(resolve_at("mysql://", &[], Path::new("/nonexistent"), &[&global]).is_err());
}

#[test]
fn a_named_file_is_read_alone_or_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let (global, named) = (dir.path().join("my.cnf"), dir.path().join("named.cnf"));
    fs::write(&global, "[client]\nuser=global\nhost=g\n").unwrap();
    fs::write(&named, "[client]\nhost=n\n").unwrap();
    let at = |query: &str| resolve_at(&format!("mysql://?{query}"), &[], Path::new("/nonexistent"), &[&global]);
    let info = at(&format!("defaults-extra-file={}", named.display())).unwrap();
    assert_eq!((info.endpoints.as_slice(), info.user.as_str()), (&[tcp("n", 3306)][..], "global"));
    let info = at(&format!("defaults-file={}", named.display())).unwrap();
    assert_eq!(info.endpoints, [tcp("n", 3306)]);
    assert_ne!(info.user, "global");
    assert!(at("defaults-file=/nonexistent/my.cnf").unwrap_err().message().contains("/nonexistent/my.cnf"));
}

#[test]
fn a_file_that_anybody_may_write_is_ignored() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".my.cnf");
    fs::write(&path, "[client]\nuser=evil\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert_ne!(resolve_at("mysql://", &[], home.path(), &[]).unwrap().user, "evil");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(resolve_at("mysql://", &[], home.path(), &[]).unwrap().user, "evil");
}

#[test]
fn a_line_that_cannot_be_understood_is_named_without_its_text() {
    for text in ["password=secret\n", "[client\npassword=secret\n", "[client]\n!incl secret\n"] {
        let error = with_file(text).unwrap_err();
        assert!(error.message().starts_with("line ") && !error.to_string().contains("secret"), "{error}");
    }
    // Without a value the clients ask on the terminal: here there is none.
    assert_eq!(password(&with_file("[client]\npassword\n").unwrap()), None);
    assert_eq!(password(&with_file("[client]\npassword=\n").unwrap()), Some(""));
}

#[test]
fn tls_is_checked_by_default_but_on_this_machine() {
    for (url, mode) in [
        ("mysql://h", SslMode::VerifyIdentity),
        ("mysql://10.0.0.1", SslMode::VerifyIdentity),
        ("mysql://localhost", SslMode::Preferred),
        ("mysql://127.0.0.1", SslMode::Preferred),
        ("mysql://[::1]", SslMode::Preferred),
        ("mysql://h?ssl-mode=Preferred", SslMode::Preferred),
        ("mysql://localhost?ssl-mode=VERIFY-IDENTITY", SslMode::VerifyIdentity),
    ] {
        let info = resolve(url);
        assert_eq!(info.ssl_mode(&info.endpoints[0]), mode, "{url}");
    }
    assert_eq!(SslMode::VerifyIdentity.to_string(), "VERIFY_IDENTITY");
}

#[test]
fn what_is_wrong_is_refused_by_name_and_without_the_password() {
    for (url, text) in [
        ("postgres://u:secret@h", "neither with mysql://"),
        ("u:secret@h", "neither with mysql://"),
        ("mysql://u:secret@h?sslmode=x", "\"sslmode\" is not known"),
        ("mysql://u:secret@h?password=secret", "\"password\" is not known"),
        ("mysql://u:secret@h?ssl-mode=sometimes", "ssl-mode=\"sometimes\""),
        ("mysql://u:secret@h?ssl-ca", "has no `=`"),
        ("mysql://u:secret@h?socket=/a&socket=/b", "socket is given twice"),
        ("mysql://u:secret@h:0", "port=\"0\""),
        ("mysql://u:secret@h:70000", "port=\"70000\""),
        ("mysql://u:secret@[::1", "is not closed"),
        ("mysql://u:secret@[::1]x", "follows `]`"),
        ("mysql://u:secret@h,,i", "neither a name nor an address"),
        ("mysql://u:%zzsecret@h", "hexadecimal"),
        ("mysql://u:%00secret@h", "zero byte"),
        ("mysql://u:%ffsecret@h", "not UTF-8"),
        ("mysql://u:secret@h?connect-timeout=soon", "connect-timeout=\"soon\""),
        ("mysql://u:secret@h?semi-sync=no", "semi-sync=\"no\" is not on or off"),
    ] {
        let error = resolve_with(url, &[]).unwrap_err();
        assert!(error.to_string().contains(text), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn no_form_of_a_connection_shows_its_password() {
    let info = resolve("mysql://u:secret@h/d");
    assert!(!format!("{info:?}").contains("secret"));
    assert_eq!(info.redacted(), "mysql://u@h:3306/d");
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,80}", file in "[\\[\\]a-z=!#'\"\\\\ \n]{0,120}") {
        let _ = resolve_with(&text, &[]);
        let _ = resolve_with(&format!("mysql://{text}"), &[]);
        let _ = with_file(&file);
        let _ = with_file(&format!("[client]\n{file}"));
    }

    #[test]
    fn whatever_is_percent_encoded_comes_back(user in "[^\0]{1,20}", secret in "[^\0]{0,20}") {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
        let info = resolve(&format!("mysql://{}:{}@h", encode(&user), encode(&secret)));
        prop_assert_eq!(info.user.as_str(), user.as_str());
        prop_assert_eq!(password(&info), Some(secret.as_str()));
    }
}
