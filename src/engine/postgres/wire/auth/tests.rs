//! What may be answered, and what a server that is not the server could try.

use super::*;

fn rules() -> Rules {
    Rules { require_auth: RequireAuth::default(), binding: Binding::Prefer, endpoint: None, private: false }
}

fn tls(binding: Binding) -> Rules {
    Rules { binding, endpoint: Some(vec![1; 32]), private: true, ..rules() }
}

fn require(text: &str) -> Rules {
    Rules { require_auth: RequireAuth::parse(text).unwrap(), ..rules() }
}

fn sasl(names: &[&str]) -> Authentication {
    Authentication::Sasl(names.iter().map(|n| (*n).to_owned()).collect())
}

fn both() -> Authentication {
    sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
}

/// The first SASL message as `mechanism` and the SCRAM header before the name.
fn first(rules: &Rules, step: Authentication) -> Result<(String, String)> {
    let message = Authenticator::new(rules, "u", Some("secret")).step(step)?.unwrap();
    let body = &message[5..];
    let end = body.iter().position(|b| *b == 0).unwrap();
    let scram = String::from_utf8(body[end + 5..].to_vec()).unwrap();
    let header = scram.split(",n=").next().unwrap().to_owned();
    Ok((String::from_utf8(body[..end].to_vec()).unwrap(), header))
}

#[test]
fn the_password_is_never_sent_in_the_clear_unless_asked_for() {
    let plain = rules();
    let error = Authenticator::new(&plain, "u", Some("secret")).step(Authentication::Cleartext).unwrap_err();
    assert_eq!(error.kind(), Kind::DatabaseUnreachable);
    assert!(!format!("{error:?}").contains("secret"));
    for rules in [tls(Binding::Prefer), require("password")] {
        let sent = Authenticator::new(&rules, "u", Some("secret")).step(Authentication::Cleartext).unwrap();
        assert_eq!(sent.unwrap(), b"p\0\0\0\x0bsecret\0");
    }
    // Not forbidden is not yet asked for.
    let rules = require("!md5");
    assert!(Authenticator::new(&rules, "u", Some("secret")).step(Authentication::Cleartext).is_err());
}

#[test]
fn md5_is_over_password_user_and_salt() {
    let rules = rules();
    let sent =
        Authenticator::new(&rules, "md5_user", Some("password")).step(Authentication::Md5([0x2a, 0x3d, 0x8f, 0xe0]));
    assert_eq!(&sent.unwrap().unwrap()[5..], b"md562af4dd09bbb41884907a838a3233294\0");
}

#[test]
fn binding_is_used_refused_or_reported_as_the_rules_say() {
    let plus = ("SCRAM-SHA-256-PLUS".to_owned(), "p=tls-server-end-point,".to_owned());
    let plain = |header: &str| ("SCRAM-SHA-256".to_owned(), header.to_owned());
    assert_eq!(first(&tls(Binding::Prefer), both()).unwrap(), plus);
    assert_eq!(first(&tls(Binding::Require), both()).unwrap(), plus);
    assert_eq!(first(&tls(Binding::Disable), both()).unwrap(), plain("n,"));
    assert_eq!(first(&rules(), sasl(&["SCRAM-SHA-256"])).unwrap(), plain("n,"));
    // We could have bound: the server learns it, and sees a removed offer.
    assert_eq!(first(&tls(Binding::Prefer), sasl(&["SCRAM-SHA-256"])).unwrap(), plain("y,"));
    assert!(first(&tls(Binding::Require), sasl(&["SCRAM-SHA-256"])).is_err());
    let unbindable = Rules { endpoint: None, ..tls(Binding::Require) };
    assert!(first(&unbindable, both()).is_err());
    assert!(first(&rules(), sasl(&["SCRAM-SHA-512"])).is_err());
}

#[test]
fn a_bound_session_is_required_of_every_method() {
    let rules = tls(Binding::Require);
    for step in [Authentication::Ok, Authentication::Cleartext, Authentication::Md5([0; 4])] {
        assert!(Authenticator::new(&rules, "u", Some("secret")).step(step.clone()).is_err(), "{step:?}");
    }
}

#[test]
fn a_server_cannot_skip_its_proof() {
    let rules = rules();
    let mut run = Authenticator::new(&rules, "u", Some("secret"));
    run.step(sasl(&["SCRAM-SHA-256"])).unwrap();
    assert!(run.step(Authentication::Ok).is_err());
}

#[test]
fn a_server_cannot_change_the_method_half_way() {
    let rules = tls(Binding::Prefer);
    let mut run = Authenticator::new(&rules, "u", Some("secret"));
    run.step(both()).unwrap();
    assert!(run.step(Authentication::Cleartext).is_err());
}

#[test]
fn steps_out_of_turn_are_refused() {
    let rules = rules();
    for step in
        [Authentication::SaslContinue(Vec::new()), Authentication::SaslFinal(Vec::new()), Authentication::Other(7)]
    {
        assert!(Authenticator::new(&rules, "u", Some("secret")).step(step).is_err());
    }
}

#[test]
fn a_nonce_that_is_not_ours_is_refused() {
    let rules = rules();
    let mut run = Authenticator::new(&rules, "u", Some("secret"));
    run.step(sasl(&["SCRAM-SHA-256"])).unwrap();
    let stranger = b"r=stranger,s=c2FsdA==,i=4096".to_vec();
    assert!(run.step(Authentication::SaslContinue(stranger)).is_err());
}

#[test]
fn require_auth_allows_what_it_names() {
    let allows = |text: &str, method| RequireAuth::parse(text).unwrap().allows(method);
    assert!(allows("", Method::None) && allows("", Method::Password));
    assert!(allows("scram-sha-256,none", Method::None) && allows("scram-sha-256", Method::Scram));
    assert!(!allows("scram-sha-256", Method::None) && !allows("scram-sha-256", Method::Md5));
    assert!(!allows("!password,!none", Method::None) && allows("!password,!none", Method::Scram));
    // A server that asks for nothing at all is refused where a method is required.
    let rules = require("scram-sha-256");
    assert!(Authenticator::new(&rules, "u", Some("secret")).step(Authentication::Ok).is_err());
}

#[test]
fn a_missing_password_names_where_to_put_it() {
    let rules = rules();
    let error = Authenticator::new(&rules, "u", None).step(sasl(&["SCRAM-SHA-256"])).unwrap_err();
    assert!(error.advice().unwrap().contains(".pgpass"));
}
