//! What HAProxy is told: the variables of a decision, `txn.identity.*` there.

use std::{fmt::Write as _, net::IpAddr};

use arrayvec::ArrayString;

use super::{Decision, Metadata, Reason, Route, Verdict};
use crate::{
    request::{Request, cookie, place},
    workspace::{EndpointName, Gateway, host::MAX_HOST},
};

/// The id of one decision: when it was made, by which run of the agent, and its number there.
pub type DecisionId = ArrayString<40>;

/// The value of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// true or false.
    Bool(bool),
    /// A number.
    Int(u32),
    /// An address.
    Ip(IpAddr),
    /// Text, or bytes of a header.
    Text(&'a [u8]),
}

/// Gives every variable of the decision to `set`, `allow` and `reason` first.
pub fn each(
    decision: &Decision,
    request: &Request<'_>,
    id: &DecisionId,
    mut set: impl FnMut(&'static str, Value<'_>),
) {
    let allowed = decision.verdict() == Verdict::Allow;
    set("allow", Value::Bool(allowed));
    set("reason", Value::Text(decision.reason.id().as_bytes()));
    set("decision_id", Value::Text(id.as_bytes()));
    if !allowed {
        match &decision.offer {
            Some(offer) => {
                set("status", Value::Int(302));
                set("location", Value::Text(offer.location.as_bytes()));
                set("set_cookie", Value::Text(offer.cookie.as_bytes()));
            }
            None => set("status", Value::Int(decision.reason.status().into())),
        }
        let metadata = decision.metadata.as_deref().zip(request.host);
        challenge(decision.reason, metadata.map(|(_, host)| host), |value| {
            set("www_authenticate", Value::Text(value.as_bytes()));
        });
        if let (Reason::ResourceMetadata, Some((metadata, host))) = (decision.reason, metadata) {
            set("metadata", Value::Text(document(metadata, host).as_bytes()));
        }
    }
    if let Some(identity) = &decision.identity {
        set("user", Value::Text(identity.label().as_bytes()));
        set("subject", Value::Text(identity.subject.as_bytes()));
        set("issuer", Value::Text(identity.issuer.as_bytes()));
        if let Some(email) = &identity.email {
            set("email", Value::Text(email.as_bytes()));
        }
        if !identity.groups_joined.is_empty() {
            set("groups", Value::Text(identity.groups_joined.as_bytes()));
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
        travel(decision, request, set);
    }
}

/// Where an allowed request goes, and what may travel on.
fn travel(
    decision: &Decision,
    request: &Request<'_>,
    mut set: impl FnMut(&'static str, Value<'_>),
) {
    match &decision.route {
        Some(Route::Direct(address)) => {
            set("dst_ip", Value::Ip(address.ip()));
            set("dst_port", Value::Int(address.port().into()));
        }
        Some(Route::Named(address, gateway)) => {
            set("dst_ip", Value::Ip(address.ip()));
            set("dst_port", Value::Int(address.port().into()));
            if gateway.renames {
                set("dst_host", Value::Text(authority(gateway).as_bytes()));
            }
            if gateway.tls {
                set("sni", Value::Text(gateway.host.as_str().as_bytes()));
            }
        }
        Some(Route::Backend(name)) => set("backend", Value::Text(name.as_bytes())),
        None => {}
    }
    if decision.strip_authorization {
        set("strip_authorization", Value::Bool(true));
    }
    let sources = decision.sources.as_deref();
    let token = sources.and_then(|sources| sources.cookie.as_deref());
    if let Some(rest) =
        request.cookie.and_then(|header| cookie::without_ours(header, token.map(str::as_bytes)))
    {
        set("cookie", Value::Text(&rest));
    }
    let Some(sources) = sources else { return };
    if let Some((name, query)) = sources.query.as_deref().zip(request.query)
        && let Some(rest) = place::without_parameter(query, name.as_bytes())
    {
        set("query", Value::Text(&rest));
    }
    if let Some(header) = request.protocols.filter(|_| sources.subprotocol)
        && let Some(rest) = place::without_subprotocol(header)
    {
        set("protocols", Value::Text(&rest));
    }
}

/// The Host header for a named place (RFC 9110 section 7.2): with the port where it is not the scheme's.
fn authority(gateway: &Gateway) -> ArrayString<{ MAX_HOST + 6 }> {
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

/// What a workspace at this host accepts (RFC 9728 section 3.2). The host matched a pattern, so it is a
/// plain name.
fn document(metadata: &Metadata, host: &[u8]) -> String {
    serde_json::json!({
        "resource": format!("https://{}", host.escape_ascii()),
        "authorization_servers": metadata.authorization_servers,
        "bearer_methods_supported": ["header"],
    })
    .to_string()
}

/// The WWW-Authenticate challenge (RFC 6750 section 3): without an error code when there was no
/// credential, with one when there was; with the address of the metadata for a host that has some
/// (RFC 9728 section 5.1).
fn challenge(reason: Reason, host: Option<&[u8]>, set: impl FnOnce(&str)) {
    let mut value = ArrayString::<768>::new();
    let written = match (reason, reason.status()) {
        (Reason::Refused(refusal), _) => write!(
            value,
            "Bearer realm=\"workspaces\", error=\"invalid_token\", error_description=\"{refusal}\""
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
