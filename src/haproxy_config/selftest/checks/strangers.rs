//! Requests that a stranger could send, without a valid token.

use super::{ASK, CANARY, COUNTS, DENY, Expected, HEADERS, HOSTS, PARSER, UNSIGNED};

/// One request: the id of its check, what must be true, the request, the expected response, and what to do otherwise.
pub(super) struct Attempt {
    pub(super) id: &'static str,
    pub(super) what: &'static str,
    pub(super) request: String,
    pub(super) want: Expected,
    pub(super) fix: &'static str,
}

/// All requests.
pub(super) fn all(host: &str) -> Vec<Attempt> {
    let mut all = tokens(host);
    all.extend(shapes(host));
    all
}

fn get(host: &str, lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")
}

/// Requests to the host of the workspace without a valid token.
fn tokens(host: &str) -> Vec<Attempt> {
    let spoofed = "X-Forwarded-User: admin\r\nX_Forwarded_User: admin\r\nX-Identity-Subject: admin\r\nX-Auth-Request-User: admin\r\nRemote-User: admin\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n";
    vec![
        Attempt {
            id: "no-token",
            what: "a request without a token is asked for one",
            request: get(host, ""),
            want: Expected::Challenged,
            fix: DENY,
        },
        Attempt {
            id: "garbage-token",
            what: "a token of garbage is refused",
            request: get(host, "Authorization: Bearer garbage\r\n"),
            want: Expected::Challenged,
            fix: DENY,
        },
        Attempt {
            id: "unsigned-token",
            what: "a token without a signature is refused",
            request: get(host, &format!("Authorization: Bearer {UNSIGNED}\r\n")),
            want: Expected::Challenged,
            fix: DENY,
        },
        Attempt {
            id: "spoofed-identity",
            what: "headers that claim an identity let no request in",
            request: get(host, spoofed),
            want: Expected::Challenged,
            fix: HEADERS,
        },
    ]
}

/// Requests that two servers could understand differently.
fn shapes(host: &str) -> Vec<Attempt> {
    let attempt =
        |id, what, request, fix| Attempt { id, what, request, want: Expected::Refused, fix };
    let routed = format!(
        "X-Forwarded-Host: {host}\r\nX-Original-Host: {host}\r\nForwarded: host={host}\r\nX-Original-URL: /\r\n"
    );
    let unknown = format!("{CANARY}.invalid");
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\nhello");

    vec![
        attempt(
            "unknown-host",
            "a host that is not a workspace is refused",
            get(&unknown, ""),
            HOSTS,
        ),
        attempt(
            "host-that-begins-so",
            "a host that only begins with a workspace's is refused",
            get(&format!("{host}.{unknown}"), ""),
            HOSTS,
        ),
        attempt(
            "routed-by-header",
            "only Host selects the workspace",
            get(&unknown, &routed),
            HEADERS,
        ),
        attempt(
            "no-host",
            "a request without a host is refused",
            "GET / HTTP/1.0\r\n\r\n".into(),
            ASK,
        ),
        attempt(
            "two-hosts",
            "a request with two hosts is refused",
            get(&unknown, &format!("Host: {host}\r\n")),
            COUNTS,
        ),
        attempt(
            "two-hosts-absolute",
            "a request whose line names another host is refused",
            format!("GET http://{unknown}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            PARSER,
        ),
        attempt(
            "two-tokens",
            "a request with two Authorization headers is refused",
            get(
                host,
                &format!("Authorization: Bearer garbage\r\nAuthorization: Bearer {UNSIGNED}\r\n"),
            ),
            COUNTS,
        ),
        attempt(
            "smuggling-lengths",
            "two different lengths of a body are refused",
            post("Content-Length: 5\r\nContent-Length: 6\r\n"),
            PARSER,
        ),
        attempt(
            "smuggling-sign",
            "a length with a sign is refused",
            post("Content-Length: +5\r\n"),
            PARSER,
        ),
        attempt(
            "smuggling-encoding",
            "an unknown transfer encoding is refused",
            post("Transfer-Encoding: xchunked\r\n"),
            PARSER,
        ),
        attempt(
            "smuggling-space",
            "a header with a space before its colon is refused",
            get(host, "Transfer-Encoding : chunked\r\n"),
            PARSER,
        ),
        attempt(
            "null-byte",
            "a header with a NUL byte is refused",
            get(host, "X-A: a\0b\r\n"),
            PARSER,
        ),
    ]
}
