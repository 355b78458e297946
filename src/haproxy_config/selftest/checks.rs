//! The checks of the self-test and how their responses are judged: `strangers` has requests without a valid token,
//! `allowed` what a person with a token could do.

use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use super::{Check, Outcome, ReplyKind, Target, client::Reply};

mod allowed;
mod strangers;

use strangers::Attempt;

/// A text that no other request contains.
const CANARY: &str = "identity-spoa-selftest";
/// A token without a signature: `{"alg":"none"}`, then `{"sub":"admin"}`.
const UNSIGNED: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.";

const ASK: &str = "keep 'http-request send-spoe-group identity authorize' and part 3 of haproxy/haproxy.cfg; run 'identity-spoa haproxy lint'";
const DENY: &str = "http-request deny deny_status 503 unless { var(txn.identity.allow) -m bool }   # after 'send-spoe-group', before every route";
const HOSTS: &str = "remove conditions on Host from the front end, or compare all of it: req.hdr(host),host_only -m str -i NAME";
const HEADERS: &str = "copy part 1 of haproxy/haproxy.cfg to the top of the front end (http-request del-header ^x[^a-z0-9]identity… -m reg)";
const COUNTS: &str = "pass hosts=req.fhdr_cnt(host) and authorizations=req.fhdr_cnt(authorization) in the SPOE file, as haproxy/identity.spoe.cfg does";
const SCOPE: &str = "use var(txn.identity.allow), and never a variable in the scope 'sess'";
const PATHS: &str = "use_backend identity-web if { path_beg /.well-known/identity-spoa/ }   # first, with 'http-request allow' above 'send-spoe-group'";
const PARSER: &str = "remove 'option accept-invalid-http-request' ('accept-unsafe-violations-in-http-request') from HAProxy's configuration";

/// What response is expected.
#[derive(Clone, Copy)]
enum Expected {
    /// A refusal of any kind, or no response.
    Refused,
    /// A challenge to present a token, or a redirect to sign-in.
    Challenged,
}

pub(super) async fn run(target: &Target, mut tell: impl FnMut(&Check)) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut keep = |check: Check| {
        tell(&check);
        checks.push(check);
    };
    for attempt in strangers::all(&target.host) {
        let outcome = match send(target, attempt.request.as_bytes()).await {
            Ok(reply) => judge(attempt.want, reply.as_ref()),
            Err(outcome) => outcome,
        };
        let Attempt { id, what, fix, .. } = attempt;
        keep(Check { id, what, outcome, fix });
    }
    let host = &target.host;
    // A server that takes the other length would read this as a second request.
    let hidden = format!("GET /{CANARY} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let next = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let two = send_two(target, smuggling(host, "", &hidden).as_bytes(), next.as_bytes()).await;
    let outcome = match two {
        Ok((first, second)) => match judge(Expected::Refused, first.as_ref()) {
            Outcome::Pass(_) => judge(Expected::Refused, second.as_ref()),
            open => open,
        },
        Err(outcome) => outcome,
    };
    let what = "a body with two lengths hides no request";
    keep(Check { id: "smuggling-both", what, outcome, fix: PARSER });
    let outcome = reserved(target).await;
    keep(Check {
        id: "reserved-path",
        what: "requests for the pages of sign-in do not reach the workspace",
        outcome,
        fix: PATHS,
    });
    for check in allowed::all(target).await {
        keep(check);
    }
    checks
}

/// Sends one request on its own connection and returns the response.
async fn send(target: &Target, request: &[u8]) -> Result<Option<Reply>, Outcome> {
    let mut connection = target.client.connect().await.map_err(failed)?;
    connection.exchange(request).await.map_err(failed)
}

/// Sends two requests on one connection and returns both responses. A request that is hidden in the body of the first
/// would get the second response.
async fn send_two(
    target: &Target,
    first: &[u8],
    second: &[u8],
) -> Result<(Option<Reply>, Option<Reply>), Outcome> {
    let mut connection = target.client.connect().await.map_err(failed)?;
    let before = connection.exchange(first).await.map_err(failed)?;
    // The gate closed the connection, so no second request can follow.
    if before.is_none() {
        return Ok((None, None));
    }
    let after = connection.exchange(second).await.map_err(failed)?;
    Ok((before, after))
}

#[expect(clippy::needless_pass_by_value, reason = "is given to map_err")]
fn failed(error: std::io::Error) -> Outcome {
    Outcome::Fail(format!("no answer: {error}"))
}

fn judge(want: Expected, reply: Option<&Reply>) -> Outcome {
    let saw = saw(reply);
    match (want, ReplyKind::classify(reply), reply) {
        (_, ReplyKind::LetThrough, _) => Outcome::Fail(format!("let through: {saw}")),
        (Expected::Refused, ..) | (Expected::Challenged, ReplyKind::SignIn, _) => {
            Outcome::Pass(saw)
        }
        // Only a challenge shows that the agent decided. Other refusals could come from a gate that is closed to
        // everyone.
        (Expected::Challenged, ReplyKind::Refused, Some(reply)) if reply.status == 401 => {
            Outcome::Pass(saw)
        }
        (Expected::Challenged, _, Some(reply)) if reply.status == 503 => {
            Outcome::Fail(format!("{saw}: refused, but because the agent does not answer"))
        }
        (Expected::Challenged, ..) => Outcome::Fail(format!("{saw} instead of 401 or a redirect")),
    }
}

/// The status, and whether the gate itself answered. Nothing else of a response is printed, since it could be secret.
fn saw(reply: Option<&Reply>) -> String {
    let Some(reply) = reply else { return "closed without an answer".into() };
    let ours = reply
        .header("www-authenticate")
        .is_some_and(|value| value.contains("realm=\"workspaces\""))
        || reply.body.contains("decision");
    format!("{}{}", reply.status, if ours { " of the gate" } else { "" })
}

/// With sign-in, checks that the paths of the agent's pages do not reach the workspace.
async fn reserved(target: &Target) -> Outcome {
    let Target { host, token, echo, .. } = target;
    let browser = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n\r\n"
    );
    match send(target, browser.as_bytes()).await {
        Ok(reply) if ReplyKind::classify(reply.as_ref()) == ReplyKind::SignIn => {}
        Ok(_) => return Outcome::Skip("this gate has no sign-in with a browser"),
        Err(outcome) => return outcome,
    }
    let path = format!("/.well-known/identity-spoa/{CANARY}");
    let bearer = token.as_ref().map(|token| token.expose_secret().to_owned()).unwrap_or_default();
    let request = Zeroizing::new(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {bearer}\r\n\r\n"
    ));
    match send(target, request.as_bytes()).await {
        Ok(Some(reply)) if *echo && reply.body.contains(CANARY) => {
            Outcome::Fail(format!("{}, and the workspace saw the request", reply.status))
        }
        Ok(reply) if ReplyKind::classify(reply.as_ref()) == ReplyKind::LetThrough => {
            Outcome::Fail(format!("let through: {}", saw(reply.as_ref())))
        }
        Ok(reply) => Outcome::Pass(saw(reply.as_ref())),
        Err(outcome) => outcome,
    }
}

/// A request with two lengths of its body, in which another request is hidden (RFC 9112 section 6.3).
fn smuggling(host: &str, lines: &str, hidden: &str) -> Zeroizing<String> {
    let length = hidden.len() + "0\r\n\r\n".len();
    Zeroizing::new(format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
    ))
}
