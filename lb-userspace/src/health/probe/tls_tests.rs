use rcgen::{BasicConstraints, IsCa, KeyPair};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    super::testing::{Authority, LONG, check, compile, params, pem_file, serve, serve_tls},
    tests::{outcome, with_body},
    *,
};
use crate::config::model::{HealthCheck, Probe, TlsProbe, TlsVerify};

fn https(server_name: Option<&str>, verify: TlsVerify) -> HealthCheck {
    let tls = TlsProbe { server_name: server_name.map(Into::into), verify };
    check(Probe::Https { http: with_body("^ok$"), tls }, LONG)
}

#[tokio::test]
async fn certificates_are_verified_as_configured() {
    let authority = Authority::new("ours");
    let file = authority.file();
    let ca = || TlsVerify::CaFile(file.path().to_owned());
    let expired = authority.serve(&["shop.internal"], 2021, &[]).await;
    let namesake = Authority::new("ours").serve(&["shop.internal"], 2199, &[]).await;
    let stranger = Authority::new("theirs").serve(&["shop.internal"], 2199, &[]).await;

    let server = authority.serve(&["shop.internal", "127.0.0.1"], 2199, &[b"http/1.1", b"h2"]).await;
    for name in [Some("shop.internal"), Some("127.0.0.1"), None] {
        assert_eq!(outcome(&https(name, ca()), server.address).await, Ok(()), "{name:?}");
    }
    for target in [server.address, expired.address, namesake.address, stranger.address] {
        assert_eq!(outcome(&https(Some("other"), TlsVerify::None), target).await, Ok(()));
    }

    let cases = [
        (
            https(Some("bank.internal"), ca()),
            server.address,
            "certificate: not valid for bank.internal, but for shop.internal, 127.0.0.1",
        ),
        (https(Some("shop.internal"), ca()), stranger.address, "certificate: unknown issuer"),
        (
            https(Some("shop.internal"), ca()),
            namesake.address,
            "certificate: its signature is by another key than expected",
        ),
        (https(Some("shop.internal"), TlsVerify::System), server.address, "certificate: unknown issuer"),
    ];
    for (check, target, text) in cases {
        assert_eq!(outcome(&check, target).await.expect_err("not trusted").to_string(), text);
    }
    let outcome = outcome(&https(Some("shop.internal"), ca()), expired.address).await;
    let text = outcome.expect_err("not trusted").to_string();
    assert!(text.starts_with("certificate: expired ") && text.ends_with(" days ago"), "{text}");
}

#[tokio::test]
async fn what_is_not_tls_or_not_http1_is_called_so() {
    let plain = serve("127.0.0.1:0", |mut stream| async move {
        stream.read_u8().await.expect("the client speaks first");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    })
    .await;
    let outcome_of_plain = outcome(&https(None, TlsVerify::None), plain.address).await;
    assert!(matches!(outcome_of_plain, Err(Reason::Tls(_))), "{outcome_of_plain:?}");

    let h2_only = Authority::new("ours").serve(&["shop.internal"], 2199, &[b"h2"]).await;
    let outcome = outcome(&https(None, TlsVerify::None), h2_only.address).await;
    assert!(matches!(outcome, Err(Reason::Tls(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_when_it_is_the_one_in_the_file() {
    for (is_ca, years) in
        [(IsCa::NoCa, [2199, 2021]), (IsCa::Ca(BasicConstraints::Unconstrained), [2199, 2021])]
    {
        for not_after in years {
            let mut params = params(&["shop.internal"], not_after);
            params.is_ca = is_ca;
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            let another = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
            let server = serve_tls(&certificate, &key, &[]).await;
            let (file, other_file) = (pem_file(&certificate), pem_file(&another));
            let asked = async |name, file: &tempfile::NamedTempFile| {
                let check = https(Some(name), TlsVerify::CaFile(file.path().to_owned()));
                outcome(&check, server.address).await.map_err(|reason| reason.to_string())
            };
            let what = format!("{is_ca:?} until {not_after}");
            let right = asked("shop.internal", &file).await;
            if not_after == 2199 {
                assert_eq!(right, Ok(()), "{what}");
                let other_name = "certificate: not valid for bank.internal, but for shop.internal";
                assert_eq!(asked("bank.internal", &file).await, Err(other_name.into()), "{what}");
            } else {
                let expired = right.expect_err("expired");
                assert!(expired.starts_with("certificate: expired "), "{what}: {expired}");
            }
            let stranger = asked("shop.internal", &other_file).await;
            assert!(stranger.is_err_and(|text| text.starts_with("certificate: ")), "{what}");
        }
    }
}

#[tokio::test]
async fn whoever_lacks_the_certificates_key_fails_even_unverified() {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(&["shop.internal"], 2199).self_signed(&key).expect("a certificate");
    let server = serve_tls(&certificate, &KeyPair::generate().expect("another key"), &[]).await;
    let outcome = outcome(&https(None, TlsVerify::None), server.address).await;
    let text = outcome.expect_err("no proof of the key").to_string();
    assert_eq!(text, "certificate: its signature is by another key than expected");
}

#[tokio::test]
async fn the_certificate_is_shown_at_every_check() {
    let mut server = Authority::new("ours").serve(&["shop.internal"], 2199, &[]).await;
    let check = compile(&https(None, TlsVerify::None)).expect("a check that can run");
    for _ in 0..2 {
        assert_eq!(probe(&check, server.address).await.outcome, Ok(()));
        assert_eq!(server.seen.recv().await, Some(Some(HandshakeKind::Full)));
    }
}
