//! Client certificates: as identities, and as what a token is bound to.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::{
    identity::{
        Identity,
        certificate::{CertificateField, CertificateRule},
        profile::{Authority as Name, MatchBy},
    },
    time::Timestamp,
};
use rcgen::SanType;
use serde_json::json;

use crate::{
    conformance::through_tls,
    support::{
        ALICES, Stage, Version,
        certificates::{Authority, Certificate},
        host, port_host,
    },
};
use dev_idp::{DevIdp, TokenRequest};

fn rule(field: CertificateField) -> CertificateRule {
    let authority = Name {
        accepted: [].into(),
        ..Name::new("machines", "certificate:common_name:", vec![MatchBy::Subject])
    };
    CertificateRule { authority: Arc::new(authority), field, prefix: "".into(), issuer: None }
}

fn subject(rule: &CertificateRule, certificate: &Certificate) -> Option<String> {
    rule.identify(&certificate.der, Timestamp::now()).map(|i: Identity| i.subject.into())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn mail(address: &str) -> SanType {
    SanType::Rfc822Name(address.try_into().unwrap())
}

#[test]
fn a_certificate_is_who_its_field_says() {
    let authority = Authority::new("corp");
    let names = [
        dns("ci.corp.test"),
        mail("Ci@corp.test"),
        SanType::URI("spiffe://corp/ci".try_into().unwrap()),
    ];
    let certificate = authority.certificate("runner 7", &names, |_| ());
    for (field, want) in [
        (CertificateField::CommonName, "runner 7"),
        (CertificateField::DnsName, "ci.corp.test"),
        (CertificateField::Email, "Ci@corp.test"),
        (CertificateField::Uri, "spiffe://corp/ci"),
    ] {
        assert_eq!(subject(&rule(field), &certificate).as_deref(), Some(want), "{field:?}");
    }
    let prefixed =
        CertificateRule { prefix: "spiffe://corp/".into(), ..rule(CertificateField::Uri) };
    assert_eq!(subject(&prefixed, &certificate).as_deref(), Some("ci"));
    let identity =
        rule(CertificateField::Email).identify(&certificate.der, Timestamp::now()).unwrap();
    assert_eq!(identity.email.as_deref(), Some("ci@corp.test"));
    assert_eq!(&*identity.issuer, "CN=corp");
}

#[test]
fn a_certificate_with_several_names_or_none_gives_no_identity() {
    let authority = Authority::new("corp");
    let several = authority.certificate("a", &[dns("a.test"), dns("b.test")], |_| ());
    assert_eq!(subject(&rule(CertificateField::DnsName), &several), None);
    assert_eq!(subject(&rule(CertificateField::Uri), &several), None);
    let elsewhere =
        CertificateRule { prefix: "spiffe://other/".into(), ..rule(CertificateField::Uri) };
    assert_eq!(subject(&elsewhere, &authority.of_uri("spiffe://corp/ci")), None);
    let empty =
        CertificateRule { prefix: "spiffe://corp/ci".into(), ..rule(CertificateField::Uri) };
    assert_eq!(subject(&empty, &authority.of_uri("spiffe://corp/ci")), None);
    let issuer = |text: &str| CertificateRule {
        issuer: Some(text.into()),
        ..rule(CertificateField::CommonName)
    };
    let plain = authority.certificate("a", &[], |_| ());
    assert_eq!(subject(&issuer("CN=corp"), &plain).as_deref(), Some("a"));
    assert_eq!(subject(&issuer("CN=corp2"), &plain), None);
    for name in ["", "a\nb", "\u{e4}", &"x".repeat(256)] {
        let strange = authority.certificate(name, &[], |_| ());
        assert_eq!(subject(&rule(CertificateField::CommonName), &strange), None, "{name:?}");
    }
    let over = authority.certificate("a", &[], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    assert_eq!(subject(&rule(CertificateField::CommonName), &over), None);
    // Whatever is changed or cut, there is no panic, and no other identity by a cut.
    let der = &plain.der;
    for length in 0..der.len() {
        assert!(
            rule(CertificateField::CommonName).identify(&der[..length], Timestamp::now()).is_none()
        );
    }
    let longer = [der.as_slice(), b"x"].concat();
    assert!(rule(CertificateField::CommonName).identify(&longer, Timestamp::now()).is_none());
}

/// A stage whose HAProxy knows the authority and whose agent knows its machines.
pub(crate) async fn stage(version: &Version, authority: &Authority) -> Stage {
    Stage::changed(version, DevIdp::start().await, |directory, config, list| {
        std::fs::write(directory.join("client-ca.pem"), authority.pem()).unwrap();
        config.push_str(
            "\n[[certificate]]\nname = 'machines'\nidentity = 'uri'\nprefix = 'spiffe://corp/'\n",
        );
        // With two authorities a record says whose subject it means.
        *list = list
            .replace("subject: sub-alice", "issuer: dev, subject: sub-alice")
            .replace("username: bob", "issuer: dev, username: bob")
            .replace("{ email: carol", "{ issuer: dev, email: carol")
            .replace("group: engineers", "group: engineers\n        issuer: dev")
            .replace(
                "    grants:\n",
                "    grants:\n      - user: { issuer: machines, subject: ci }\n",
            );
    })
    .await
}

fn client(stage: &Stage, certificate: Option<&Certificate>) -> reqwest::Client {
    let mut builder = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve(&host(ALICES), stage.haproxy.https);
    if let Some(certificate) = certificate {
        builder =
            builder.identity(reqwest::Identity::from_pem(certificate.pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

async fn status(
    stage: &Stage,
    certificate: Option<&Certificate>,
    token: Option<&str>,
) -> Option<u16> {
    let url = format!("https://{}:{}/", host(ALICES), stage.haproxy.https.port());
    let mut request = client(stage, certificate).get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.ok().map(|reply| reply.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_verified_certificate_reaches_what_is_granted_to_it() {
    let (ours, theirs) = (Authority::new("corp"), Authority::new("corp"));
    let ci = ours.of_uri("spiffe://corp/ci");
    for version in Version::all() {
        let stage = stage(version, &ours).await;
        assert_eq!(status(&stage, Some(&ci), None).await, Some(200), "{version:?}");
        assert_eq!(status(&stage, None, None).await, Some(401));
        assert_eq!(
            status(&stage, Some(&ours.of_uri("spiffe://corp/other")), None).await,
            Some(403)
        );
        // Not ours to judge: no credential.
        assert_eq!(
            status(&stage, Some(&ours.of_uri("spiffe://elsewhere/ci")), None).await,
            Some(401)
        );
        // Of another authority: HAProxy ends the handshake.
        assert_eq!(status(&stage, Some(&theirs.of_uri("spiffe://corp/ci")), None).await, None);
        // A token decides alone.
        let bob = stage.idp.token_of("bob");
        assert_eq!(status(&stage, Some(&ci), Some(&bob)).await, Some(403));

        let file = stage.directory.path().join("ci.pem");
        std::fs::write(&file, &ci.pem).unwrap();
        let (gate, name) = (stage.haproxy.tcp, port_host(2222, ALICES));
        let request = "GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
        let text =
            tokio::task::spawn_blocking(move || through_tls(gate, &name, Some(&file), request));
        let text = text.await.unwrap();
        assert!(text.contains("workspace alices"), "{version:?} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn j18_a_bound_token_is_accepted_only_with_its_certificate() {
    let authority = Authority::new("corp");
    let (hers, other) = (authority.of_uri("x:alice"), authority.of_uri("x:other"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &hers.der);
    let cnf = json!({"x5t#S256": URL_SAFE_NO_PAD.encode(digest)});
    for version in Version::all() {
        let stage = stage(version, &authority).await;
        let claims = json!({"cnf": cnf}).as_object().unwrap().clone();
        let token = stage.idp.token(&TokenRequest { claims, ..TokenRequest::default() });
        // Remembered from a request that proved it, it is still refused without the proof.
        for (certificate, want) in
            [(None, 401), (Some(&hers), 200), (None, 401), (Some(&other), 401), (Some(&hers), 200)]
        {
            assert_eq!(status(&stage, certificate, Some(&token)).await, Some(want), "{version:?}");
        }
        assert!(stage.haproxy.log().contains("reason=token_bound"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn j18_p1_a_token_sent_with_dpop_is_refused_and_does_not_travel_on() {
    let stage = Stage::start(Version::newest()).await;
    let ask = async |name: &str, token: &str| {
        let line = format!("Authorization: DPoP {token}\r\nDPoP: a.b.c\r\n");
        stage.client().await.send(name, line.as_bytes()).await
    };
    let plain = stage.idp.token_of("alice");
    let reply = ask(&host(ALICES), &plain).await;
    assert_eq!((reply.status, reply.body.contains("token_bound")), (401, true), "{}", reply.body);
    // A public port opens anyway; a token of a configured issuer is removed, any other goes to the port.
    let public = port_host(3000, ALICES);
    let reply = ask(&public, &plain).await;
    assert_eq!((reply.status, reply.body.contains(&plain)), (200, false));
    let reply = ask(&public, "some.other.token").await;
    assert_eq!((reply.status, reply.body.contains("some.other.token")), (200, true));
}
