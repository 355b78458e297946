//! `explain`: shows how one request would be decided, stage by stage, by the code that decides about real ones.
//!
//! The command builds the gate of a configuration, reads the workspaces of its sources once, and decides. Who asks is
//! told by a token, or assumed (`--user`, `--subject`), which the output says at each place. Nothing is recorded, and
//! the running agent is not asked: what only that knows, such as sessions, has no part in the result.

use std::{
    io::{Write, stdout},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::{
    ExplainArgs,
    terminal::{Progress, Tone, paint},
};
use crate::{
    agent::variables::{self, GroupsText, Value},
    app::setup,
    authz::{
        decision::{DecisionId, HostMatch},
        reason::{Reason, Verdict},
    },
    config::Config,
    gate::{Gate, Response, Step},
    identity::{credential::Credential, evidence::Evidence, issuers::Judgement, pending::Waiting},
    request::{PassedArguments, Request},
    time::Timestamp,
    workspaces::{
        Endpoint, Protocol, Workspace,
        pattern::{PatternMatch, Scratch},
        registry::LookupResult,
    },
};

mod assumed;

use assumed::Assumed;

pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config.config)?;
    let setup::Built { gate, feeds, .. } = setup::inspect(&config)?;
    let mut out = stdout();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(mut feeds) = feeds {
        let reading = Progress::of_steps("reading the workspaces");
        let failures = runtime.block_on(feeds.load());
        drop(reading);
        for failure in failures {
            writeln!(out, "workspaces  cannot be read, so none is known:\n{failure}")?;
        }
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
            token: true,
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
    let target = match gate.match_host(&request, &mut Scratch::default()) {
        HostMatch::Matched(_, target) => Some(target),
        _ => None,
    };
    let workspace = target.and_then(|target| workspace(&gate, &target).ok());
    let assumed = assumed::assume(&args.person, &gate, workspace.as_deref())?;
    let response = match &assumed {
        Some(assumed) => {
            show_assumption(&mut out, assumed)?;
            let (identity, snapshot) = (Arc::clone(&assumed.identity), gate.registry.snapshot());
            let now = Timestamp::now();
            gate.decide_as(identity, &request, &snapshot, now, &mut Scratch::default())
        }
        None => decide(&gate, &request)?,
    };
    show(&mut out, &gate, &request, &response, assumed.as_ref())?;
    let allowed = response.decision.verdict() == Verdict::Allow;
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// How long a person at the terminal waits for an issuer to answer about an opaque token.
const INTROSPECTION_TIMEOUT: Duration = Duration::from_secs(6);

/// Fetches the keys of every issuer once, and says how that went.
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
            Some(Credential::Bearer(token)) if gate.issuers.introspects(&token) => Waiting::Allowed,
            _ => Waiting::Never,
        };
        let step = match decide(waiting) {
            Step::Wait(wait) => {
                wait.ended(INTROSPECTION_TIMEOUT).await;
                decide(Waiting::Never)
            }
            done @ Step::Done(_) => done,
        };
        match step {
            Step::Done(response) => Ok(response),
            Step::Wait(_) => Ok(Response::refuse(Reason::Deadline)),
        }
    })
}

/// Says who is assumed, before anything that follows from it.
fn show_assumption(out: &mut impl Write, assumed: &Assumed) -> std::io::Result<()> {
    let identity = &assumed.identity;
    writeln!(
        out,
        "ASSUMED     {} of issuer '{}' has sent a valid token; no token was verified",
        identity.label().escape_debug(),
        identity.authority.name,
    )?;
    if let Some(from) = assumed.subject_from {
        writeln!(out, "            subject {}: {from}", identity.subject.escape_debug())?;
    }
    Ok(())
}

fn show(
    out: &mut impl Write,
    gate: &Gate,
    request: &Request<'_>,
    response: &Response,
    assumed: Option<&Assumed>,
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
    show_identity(out, gate, request, response, assumed)?;
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
    let verdict = decision.verdict();
    let tone = match verdict {
        Verdict::Allow => Tone::Good,
        Verdict::SignIn => Tone::Warning,
        Verdict::Deny | Verdict::Unavailable => Tone::Bad,
    };
    let assumed = if assumed.is_some() { " (for the ASSUMED person)" } else { "" };
    writeln!(out, "verdict     {}: {reason}{assumed}", paint(tone, verdict.id()))?;
    if let Some(advice) = reason.advice() {
        writeln!(out, "to do       {advice}")?;
    }
    writeln!(out, "variables")?;
    let mut written = Ok(());
    variables::each(response, request, &DecisionId::new(), GroupsText::Whole, |name, value| {
        // Each real decision has an id of its own; this one is not recorded.
        if name != "decision_id" && written.is_ok() {
            written = writeln!(out, "  txn.identity.{name} = {}", text(value));
        }
    });
    written
}

/// Says who asks, or why that is not known.
fn show_identity(
    out: &mut impl Write,
    gate: &Gate,
    request: &Request<'_>,
    response: &Response,
    assumed: Option<&Assumed>,
) -> std::io::Result<()> {
    let decision = &response.decision;
    let given = request.authorization.is_some() || assumed.is_some();
    match (&decision.identity, decision.reason) {
        (Some(identity), _) => writeln!(
            out,
            "identity    {}{} (issuer '{}', subject {}), e-mail {}, groups {:?}",
            if assumed.is_some() { "ASSUMED: " } else { "" },
            identity.label(),
            identity.authority.name,
            identity.subject,
            identity.email.as_deref().unwrap_or("not verified"),
            identity.groups,
        ),
        (None, Reason::Refused(error)) => {
            writeln!(out, "identity    none: {error}")?;
            if is_apps(gate, request) {
                writeln!(
                    out,
                    "            the token is not for the gate: together with a session or a client certificate it is the app's, and travels on"
                )?;
            }
            Ok(())
        }
        (None, _) if is_apps(gate, request) => {
            writeln!(out, "identity    none: the token is not for the gate, so it is the app's")
        }
        (None, _) if request.is_stream && !given => {
            writeln!(
                out,
                "identity    none: of a stream, only its client certificate says who asks"
            )
        }
        (None, _) if !given => writeln!(
            out,
            "identity    none: the request is decided as one without any credential; --token-file takes a token, --user or --subject assumes a person"
        ),
        (None, _) => writeln!(out, "identity    not looked at: the request is decided without it"),
    }
}

/// Whether the token of the request cannot be one for the gate.
fn is_apps(gate: &Gate, request: &Request<'_>) -> bool {
    let Some(value) = request.authorization else { return false };
    let Credential::Bearer(token) = Credential::from_authorization(value) else { return false };
    let (now, evidence) = (Timestamp::now(), &mut Evidence::default());
    let judgement = gate.issuers.judge((value, &token), None, now, Waiting::Never, evidence);
    matches!(judgement, Judgement::Foreign(_))
}

/// The workspace that a host leads to, or why there is none, in words.
fn workspace(gate: &Gate, target: &PatternMatch) -> Result<Arc<Workspace>, &'static str> {
    let snapshot = gate.registry.snapshot();
    match snapshot.find(target.source, &target.workspace) {
        LookupResult::Workspace(record) => Ok(Arc::clone(record.workspace)),
        LookupResult::Unknown => Err("unknown"),
        LookupResult::NotLoaded => Err("not all sources are read"),
        LookupResult::Ambiguous => Err("several sources have it"),
    }
}

fn show_workspace(out: &mut impl Write, gate: &Gate, target: &PatternMatch) -> std::io::Result<()> {
    let workspace = match workspace(gate, target) {
        Ok(workspace) => workspace,
        Err(why) => return writeln!(out, "workspace   {}: {why}", target.workspace),
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
