//! The variables that HAProxy gets of a response (`txn.identity.*`). docs/variables.md describes
//! them.
//!
//! HAProxy denies if `allow` is not set, and removes every credential that `keep` does not name. So
//! a variable that is lost makes a request fail, and never lets more through.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use arrayvec::ArrayString;

use crate::{
    authz::{
        decision::{DecisionId, Route},
        reason::{Reason, Verdict},
    },
    gate::{AuthorizationHeader, Cors, Metadata, Response},
    identity::TokenError,
    request::{Request, cookie, token_location},
    workspaces::{EndpointName, NamedServer, host::MAX_HOST},
};

/// The value of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// A number.
    Int(u32),
    /// An IP address.
    Ip(IpAddr),
    /// A text, or the bytes of a header.
    Text(&'a [u8]),
}

/// Whether the variable `groups` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupsText {
    /// With every group that it can hold.
    Whole,
    /// It is not set, and `groups_incomplete` says so: the response has no room for it.
    LeftOut,
}

/// Passes every variable of a response to `set`, `allow` and `reason` first.
pub fn each(
    response: &Response,
    request: &Request<'_>,
    id: &DecisionId,
    text: GroupsText,
    mut set: impl FnMut(&'static str, Value<'_>),
) {
    let decision = &response.decision;
    let allowed = decision.verdict() == Verdict::Allow;
    set("allow", Value::Bool(allowed));
    set("reason", Value::Text(decision.reason.id().as_bytes()));
    set("decision_id", Value::Text(id.as_bytes()));
    if !allowed {
        match &response.sign_in_redirect {
            Some(redirect) => {
                set("status", Value::Int(302));
                set("location", Value::Text(redirect.location.as_bytes()));
                set("set_cookie", Value::Text(redirect.cookie.as_bytes()));
            }
            None => set("status", Value::Int(decision.reason.status().into())),
        }
        let metadata = response.metadata.as_deref().zip(request.host);
        let missing = also_missing(response, request);
        set_challenge((decision.reason, missing), metadata.map(|(_, host)| host), |value| {
            set("www_authenticate", Value::Text(value.as_bytes()));
        });
        if let (Reason::ResourceMetadata, Some((metadata, host))) = (decision.reason, metadata) {
            set("metadata", Value::Text(document(metadata, host).as_bytes()));
        }
    }
    if let (Some(cors), Some(origin)) = (response.cors, request.origin()) {
        set_cors(cors, origin, request, &mut set);
    }
    if let Some(identity) = &decision.identity {
        set("user", Value::Text(identity.label().as_bytes()));
        set("subject", Value::Text(identity.subject.as_bytes()));
        set("issuer", Value::Text(identity.issuer.as_bytes()));
        if let Some(email) = &identity.email {
            set("email", Value::Text(email.as_bytes()));
        }
        let groups = &identity.groups_joined;
        let left_out = text == GroupsText::LeftOut && !groups.as_str().is_empty();
        if !groups.as_str().is_empty() && !left_out {
            set("groups", Value::Text(groups.as_str().as_bytes()));
        }
        // A rule by group must not take "not in the text" for "not a member".
        if left_out || groups.left_out() || identity.groups_overage {
            set("groups_incomplete", Value::Bool(true));
        }
    }
    if let Some(workspace) = &decision.workspace {
        set("workspace", Value::Text(workspace.id.as_str().as_bytes()));
        if let Some(owner) = &decision.owner {
            set("owner", Value::Text(owner.as_bytes()));
        }
        if let Some(endpoint) = &decision.endpoint {
            let mut text = ArrayString::<80>::new();
            match endpoint {
                EndpointName::Main => set("endpoint", Value::Text(b"main")),
                // At most "app:" and 63 bytes.
                named => {
                    let _ = write!(text, "{named}");
                    set("endpoint", Value::Text(text.as_bytes()));
                }
            }
        }
    }
    if allowed {
        set_route(response, request, set);
    }
}

/// Sets what a page of another origin is told by CORS. The origin is one that the gate recognized byte for byte, and the
/// preflight names only tokens.
fn set_cors(
    cors: Cors,
    origin: &[u8],
    request: &Request<'_>,
    set: &mut impl FnMut(&'static str, Value<'_>),
) {
    set("cors_origin", Value::Text(origin));
    if cors == Cors::Preflight
        && let Some(preflight) = request.preflight()
    {
        set("cors_methods", Value::Text(preflight.method));
        if let Some(headers) = preflight.headers {
            set("cors_headers", Value::Text(headers));
        }
    }
}

/// Sets where an allowed request goes, and which of its headers reach the workspace.
fn set_route(
    response: &Response,
    request: &Request<'_>,
    mut set: impl FnMut(&'static str, Value<'_>),
) {
    match &response.decision.route {
        Some(Route::Direct(address)) => {
            set("dst_ip", Value::Ip(address.ip()));
            set("dst_port", Value::Int(address.port().into()));
        }
        Some(Route::Named(address, gateway)) => {
            set_named_route(address, gateway, request, &mut set);
        }
        Some(Route::Backend(name)) => set("backend", Value::Text(name.as_bytes())),
        None => {}
    }
    let mut keep = Passthrough::default();
    // No credential was looked at for a preflight, so none travels on with it.
    let looked = response.decision.reason != Reason::PreflightPassed;
    let is_workspaces = response.authorization == AuthorizationHeader::Workspaces;
    if request.authorization.is_some() && is_workspaces && looked {
        keep.add("authorization");
    }
    let locations = response.token_locations.as_deref();
    if let Some(header) = request.cookie.filter(|_| looked) {
        let token = locations.and_then(|locations| locations.cookie.as_deref());
        match cookie::without_ours(header, token.map(str::as_bytes)) {
            Some(rest) => set("cookie", Value::Text(&rest)),
            None => keep.add("cookie"),
        }
    }
    let parameter = locations.and_then(|locations| locations.query.as_deref());
    match (request.query, parameter) {
        (Some(query), Some(name)) => {
            match token_location::without_parameter(query, name.as_bytes()) {
                Some(rest) => set("query", Value::Text(&rest)),
                None => keep.add("query"),
            }
        }
        // HAProxy does not pass the query, but the request may have one. No token is searched for
        // in it.
        (Some(_), None) => keep.add("query"),
        (None, _) if !request.passed.query => keep.add("query"),
        (None, _) => {}
    }
    match (request.protocols, locations.is_some_and(|locations| locations.subprotocol)) {
        (Some(header), true) => match token_location::without_subprotocol(header) {
            Some(rest) => set("protocols", Value::Text(&rest)),
            None => keep.add("protocols"),
        },
        (Some(_), false) => keep.add("protocols"),
        (None, _) if !request.passed.protocols && request.upgrades > 0 => keep.add("protocols"),
        (None, _) => {}
    }
    if !keep.0.is_empty() {
        set("keep", Value::Text(keep.0.as_bytes()));
    }
}

/// The credentials of a request that may reach the workspace unchanged, as words separated by
/// spaces.
///
/// HAProxy deletes what is not named here. If it has no memory for this variable, the workspace
/// misses a header, but never gets a credential of the gate.
#[derive(Default)]
struct Passthrough(ArrayString<40>);

impl Passthrough {
    fn add(&mut self, word: &str) {
        // INVARIANT: "authorization cookie query protocols" is 36 bytes long.
        if !self.0.is_empty() {
            let _ = self.0.try_push(' ');
        }
        let _ = self.0.try_push_str(word);
    }
}

/// Sets the variables of a named destination. The port has another name for each further variable
/// that HAProxy needs. If one of those is missing, the request fails, instead of going to a wrong
/// place or without TLS.
fn set_named_route(
    address: &SocketAddr,
    gateway: &NamedServer,
    request: &Request<'_>,
    set: &mut impl FnMut(&'static str, Value<'_>),
) {
    set("dst_ip", Value::Ip(address.ip()));
    let port = match (gateway.tls, gateway.sets_host_header) {
        (true, _) => "tls_port",
        (false, true) => "host_port",
        (false, false) => "dst_port",
    };
    set(port, Value::Int(address.port().into()));
    if gateway.sets_host_header {
        set("dst_host", Value::Text(authority(gateway).as_bytes()));
    } else if gateway.tls {
        set("dst_host", Value::Text(request.host.unwrap_or_default()));
    }
    if gateway.tls {
        set("sni", Value::Text(gateway.host.as_str().as_bytes()));
    }
}

/// The Host header for a named destination (RFC 9110 section 7.2), with the port unless it is the
/// default of the scheme.
fn authority(gateway: &NamedServer) -> ArrayString<{ MAX_HOST + 6 }> {
    let mut text = ArrayString::new();
    let usual = if gateway.tls { 443 } else { 80 };
    // At most a host name, a colon and five digits.
    let _ = if gateway.port == usual {
        write!(text, "{}", gateway.host)
    } else {
        write!(text, "{}:{}", gateway.host, gateway.port)
    };
    text
}

/// The metadata document of a workspace (RFC 9728 section 3.2). The host matched a pattern, so it
/// needs no escaping.
fn document(metadata: &Metadata, host: &[u8]) -> String {
    serde_json::json!({
        "resource": format!("https://{}", host.escape_ascii()),
        "authorization_servers": metadata.authorization_servers,
        "bearer_methods_supported": ["header"],
    })
    .to_string()
}

/// What is missing as well where a refused token could be the app's: with a session it would travel on.
fn also_missing(response: &Response, request: &Request<'_>) -> &'static str {
    let Reason::Refused(error) = response.decision.reason else { return "" };
    let is_apps = match error {
        TokenError::Inactive => true,
        TokenError::Malformed | TokenError::Issuer | TokenError::Encrypted | TokenError::Graph => {
            response.authorization == AuthorizationHeader::Workspaces
        }
        _ => false,
    };
    if is_apps && request.authorization.is_some() { ", and there is no session" } else { "" }
}

/// Writes the WWW-Authenticate challenge (RFC 6750 section 3). It has an error code only if the
/// request had a credential, and the address of the metadata document if there is one (RFC 9728
/// section 5.1).
fn set_challenge((reason, missing): (Reason, &str), host: Option<&[u8]>, set: impl FnOnce(&str)) {
    let mut value = ArrayString::<768>::new();
    let written = match (reason, reason.status()) {
        (Reason::Refused(error), _) => write!(
            value,
            "Bearer realm=\"workspaces\", error=\"invalid_token\", error_description=\"{error}{missing}\""
        ),
        (_, 401) => write!(value, "Bearer realm=\"workspaces\""),
        (_, 403) => write!(value, "Bearer realm=\"workspaces\", error=\"insufficient_scope\""),
        _ => return,
    };
    let told = host.map_or(Ok(()), |host| {
        let (host, path) = (host.escape_ascii(), Metadata::PATH);
        write!(value, ", resource_metadata=\"https://{host}{path}\"")
    });
    if written.is_ok() && told.is_ok() {
        set(&value);
    }
}
