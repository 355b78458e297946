//! `explain`: one request through the very code of the live path, each stage shown.

use std::{
    io::{Write, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::ExplainArgs;
use crate::{
    agent::variables::{self, Value},
    app::setup,
    authz::{
        decision::{DecisionId, HostMatch},
        reason::Verdict,
    },
    config::Config,
    gate::{Gate, Response, Step},
    identity::{credential::Credential, introspection::Introspector, pending::Waiting},
    request::{PassedArguments, Request},
    time::Timestamp,
    workspaces::{Endpoint, Protocol, pattern::Scratch, registry::LookupResult},
};

pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config.config)?;
    let setup::Built { gate, mut feeds, .. } = setup::build(&config, setup::Purpose::Inspect)?;
    let mut out = stdout();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for failure in runtime.block_on(feeds.load()) {
        writeln!(out, "workspaces  cannot be read, so none is known:\n{failure}")?;
    }
    let authorization = match &args.token_file {
        Some(path) => {
            let token = std::fs::read(path).map(Zeroizing::new);
            let token = token.with_context(|| format!("cannot read {}", path.display()))?;
            fetch_keys(&gate, &mut out)?;
            Some(Zeroizing::new([b"Bearer ", token.trim_ascii()].concat()))
        }
        None => None,
    };
    let request = Request {
        method: Some(args.method.as_bytes()).filter(|_| !args.tcp),
        host: Some(args.host.as_bytes()),
        hosts: 1,
        path: Some(args.path.as_bytes()).filter(|_| !args.tcp),
        is_stream: args.tcp,
        passed: PassedArguments {
            query: true,
            protocols: true,
            browser: true,
            tunnels: true,
            policies: true,
        },
        authorizations: u64::from(authorization.is_some()),
        client: args.client,
        authorization: authorization.as_ref().map(|value| value.as_slice()),
        ..Request::default()
    };
    let response = decide(&gate, &request)?;
    show(&mut out, &gate, &request, &response)?;
    let allowed = response.decision.verdict() == Verdict::Allow;
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// How long a person waits for an issuer to be asked about an opaque token.
const PATIENCE: Duration = Duration::from_secs(6);

/// Fetches the keys of every issuer, once.
fn fetch_keys(gate: &Gate, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for provider in gate.issuers.providers() {
        let name = &provider.profile().authority.name;
        match runtime.block_on(provider.fetch()) {
            Ok(_) => writeln!(out, "keys        of issuer '{name}': fetched")?,
            Err(error) => writeln!(out, "keys        of issuer '{name}': {error}")?,
        }
    }
    Ok(())
}

fn decide(gate: &Gate, request: &Request<'_>) -> anyhow::Result<Response> {
    let snapshot = gate.registry.snapshot();
    let decide = |waiting| {
        gate.decide(request, &snapshot, Timestamp::now(), &mut Scratch::default(), waiting)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Keys were fetched a moment ago, so only an opaque token is worth a wait.
        let waiting = match request.authorization.map(Credential::from_authorization) {
            Some(Credential::Bearer(token)) if Introspector::is_opaque(&token) => Waiting::Allowed,
            _ => Waiting::Never,
        };
        let step = match decide(waiting) {
            Step::Wait(wait) => {
                wait.ended(PATIENCE).await;
                decide(Waiting::Never)
            }
            done @ Step::Done(_) => done,
        };
        match step {
            Step::Done(response) => Ok(response),
            Step::Wait(_) => Ok(Response::refuse(crate::authz::reason::Reason::Deadline)),
        }
    })
}

fn show(
    out: &mut impl Write,
    gate: &Gate,
    request: &Request<'_>,
    response: &Response,
) -> std::io::Result<()> {
    let decision = &response.decision;
    match gate.match_host(request, &mut Scratch::default()) {
        HostMatch::Missing => writeln!(out, "host        missing")?,
        HostMatch::Invalid(error) => writeln!(out, "host        {error}")?,
        HostMatch::Unmatched(host) => {
            writeln!(out, "host        {host}: no [[host]] pattern matches")?;
        }
        HostMatch::Matched(host, target) => {
            writeln!(
                out,
                "host        {host}: workspace {}, endpoint {}",
                target.workspace, target.endpoint
            )?;
            show_workspace(out, gate, &target)?;
        }
    }
    match (&decision.identity, decision.reason) {
        (Some(identity), _) => {
            writeln!(
                out,
                "identity    {} (issuer '{}', subject {}), e-mail {}, groups {:?}",
                identity.label(),
                identity.authority.name,
                identity.subject,
                identity.email.as_deref().unwrap_or("not verified"),
                identity.groups,
            )?;
        }
        (None, crate::authz::reason::Reason::Refused(error)) => {
            writeln!(out, "identity    none: {error}")?;
        }
        (None, _) if request.is_stream => {
            writeln!(
                out,
                "identity    none: of a stream, only its client certificate says who asks"
            )?;
        }
        (None, _) if request.authorization.is_none() => {
            writeln!(out, "identity    none: no token given")?;
        }
        (None, _) => writeln!(out, "identity    not looked at")?,
    }
    let reason = decision.reason;
    if let Some(relation) = decision.relation {
        write!(out, "policy      ownership says {}", relation.reason())?;
        match &decision.policy {
            Some(id) => writeln!(out, "; {id} decides")?,
            None if gate.versions.policy.is_some() => writeln!(out, "; no policy is about it")?,
            None => writeln!(out)?,
        }
    }
    if let Some(shadow) = &decision.shadow {
        write!(out, "shadow      {}: {}", shadow.reason.verdict().id(), shadow.reason)?;
        match &shadow.policy {
            Some(id) => writeln!(out, " ({id})")?,
            None => writeln!(out)?,
        }
    }
    writeln!(out, "verdict     {}: {reason}", decision.verdict().id())?;
    if let Some(advice) = reason.advice() {
        writeln!(out, "to do       {advice}")?;
    }
    writeln!(out, "variables")?;
    let mut written = Ok(());
    variables::each(response, request, &DecisionId::new(), |name, value| {
        // Each real decision has an id of its own; this one is not recorded.
        if name != "decision_id" && written.is_ok() {
            written = writeln!(out, "  txn.identity.{name} = {}", text(value));
        }
    });
    written
}

fn show_workspace(
    out: &mut impl Write,
    gate: &Gate,
    target: &crate::workspaces::pattern::PatternMatch,
) -> std::io::Result<()> {
    let snapshot = gate.registry.snapshot();
    let workspace = match snapshot.find(target.source, &target.workspace) {
        LookupResult::Workspace(record) => record.workspace,
        LookupResult::Unknown => return writeln!(out, "workspace   {}: unknown", target.workspace),
        LookupResult::NotLoaded => {
            return writeln!(out, "workspace   {}: not all sources are read", target.workspace);
        }
        LookupResult::Ambiguous => {
            return writeln!(out, "workspace   {}: several sources have it", target.workspace);
        }
    };
    write!(
        out,
        "workspace   {}: {:?}, owner {}",
        workspace.id, workspace.phase, workspace.owner_label
    )?;
    match workspace.endpoint(&target.endpoint) {
        Some(Endpoint { name, protocol: Protocol::Http, admission, .. }) => {
            writeln!(out, ", {name} admits {admission}")
        }
        Some(Endpoint { name, protocol, admission, .. }) => {
            writeln!(out, ", {name} ({protocol}) admits {admission}")
        }
        None => writeln!(out, ", {} is not declared", target.endpoint),
    }
}

fn text(value: Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Text(text) => format!("\"{}\"", text.escape_ascii()),
    }
}
