//! The keys of `[[source]]`, which depend on its kind.

use super::{Key, Kind, Table};

const KINDS: &[&str] = &["file", "api", "jupyterhub", "coder", "gitpod", "kubernetes", "ona"];
const ADMISSIONS: &[&str] = &["owner", "grants", "organization", "authenticated", "public"];
/// Kinds with an API over HTTP.
const HTTP: &[&str] = &["jupyterhub", "coder", "gitpod", "ona"];
/// Kinds that say who is who.
const PLATFORMS: &[&str] = &["jupyterhub", "coder", "gitpod", "kubernetes", "ona"];

pub(super) const SOURCE: Table = Table {
    path: "source",
    repeated: true,
    what: "A platform that knows workspaces: see docs/platforms/.",
    keys: &[
        Key::new("name", Kind::Text, "What `[[host]]`, logs and metrics call it.").required(),
        Key::new("kind", Kind::Choice(KINDS), "What it is.").required(),
        Key::new("max_admission", Kind::Choice(ADMISSIONS), "No endpoint of it admits more.")
            .default("\"public\""),
        Key::new(
            "undeclared_ports",
            Kind::Choice(&["deny", "owner"]),
            "Whether owners reach ports that the platform does not list.",
        )
        .default("\"deny\""),
        Key::new(
            "stale_seconds",
            Kind::Number(1, 86_400),
            "Owners are let in so long after the platform last confirmed a workspace.",
        )
        .default("300; jupyterhub: 60"),
        Key::new("stale_open_seconds", Kind::Number(1, 86_400), "Everybody else.").default("60"),
        Key::new("url", Kind::Text, "Where its API is.")
            .of(HTTP)
            .default("ona: `https://app.ona.com/api`"),
        Key::new(
            "token_file",
            Kind::Text,
            "A file with a token, read anew for every question; or `token_env`.",
        )
        .of(HTTP),
        Key::new("token_env", Kind::Text, "A variable of the environment with a token.").of(HTTP),
        Key::new("ca_file", Kind::Text, "A private authority beside the system's, PEM.").of(HTTP),
        Key::new("resync_seconds", Kind::Number(1, 3600), "The time between complete lists.")
            .of(PLATFORMS)
            .default("60; coder, gitpod: 5; jupyterhub: 30"),
        Key::new(
            "issuer",
            Kind::TextOrTexts,
            "The issuer (or `[[certificate]]` rule) whose people it has, or several that vouch for the same people; required where several are configured.",
        )
        .of(PLATFORMS),
        Key::new("organization", Kind::Text, "The organization of its workspaces, as that issuer calls it.").of(PLATFORMS),
        Key::new("destination", Kind::Text, "Where a workspace is, made from its id and port.")
            .of(&["coder", "gitpod"])
            .required(),
        Key::new("destination", Kind::Text, "Where a workspace is, made from its id and port.")
            .of(&["kubernetes", "ona"]),
        Key::new("file", Kind::Text, "The list: `.yaml`, `.toml` or `.json`.")
            .of(&["file"])
            .required(),
        Key::new(
            "lease_seconds",
            Kind::Number(1, 86_400),
            "How long a workspace may be held that somebody writes.",
        )
        .of(&["api"])
        .default("300"),
        Key::new("host", Kind::Text, "The hub's own host.").of(&["jupyterhub"]).required(),
        Key::new("routes_listen", Kind::Text, "Where the hub tells of its routes, `IP:PORT`.")
            .of(&["jupyterhub"])
            .required(),
        Key::new(
            "routes_token_file",
            Kind::Text,
            "A file with the token that the hub shows there; or `routes_token_env`.",
        )
        .of(&["jupyterhub"]),
        Key::new("routes_token_env", Kind::Text, "A variable of the environment with that token.")
            .of(&["jupyterhub"]),
        Key::new("hub_admission", Kind::Choice(ADMISSIONS), "Who reaches the hub itself.")
            .of(&["jupyterhub"])
            .default("\"authenticated\""),
        Key::new("shares", Kind::Bool, "Whether people with whom a workspace is shared reach it.")
            .of(&["jupyterhub", "ona"])
            .default("jupyterhub: true, ona: false"),
        Key::new("agent", Kind::Text, "Whose ports have no name of their own.")
            .of(&["coder"])
            .default("\"main\""),
        Key::new("port_shares", Kind::Bool, "Whether shared ports count.")
            .of(&["coder"])
            .default("true"),
        Key::new("organization_id", Kind::Text, "The organization whose workspaces are listed.")
            .of(&["gitpod"])
            .required(),
        Key::new("lookback_days", Kind::Number(1, 365), "How old a running workspace may be.")
            .of(&["gitpod"])
            .default("30"),
        Key::new(
            "resource",
            Kind::Choice(&["gitpod", "devworkspace"]),
            "What the cluster's workspaces are.",
        )
        .of(&["kubernetes"])
        .required(),
        Key::new(
            "ide_port",
            Kind::Number(1, 65_535),
            "The editor's port, with `resource = \"gitpod\"`.",
        )
        .of(&["kubernetes"])
        .default("23000"),
        Key::new("namespace", Kind::Text, "Only this namespace.")
            .of(&["kubernetes"])
            .default("all"),
        Key::new("kubeconfig", Kind::Text, "How the cluster is reached.")
            .of(&["kubernetes"])
            .default("as a pod in it"),
        Key::new(
            "owner",
            Kind::Choice(&["subject", "email", "username"]),
            "What the owner in a record is.",
        )
        .of(&["kubernetes"])
        .default("\"subject\""),
        Key::new(
            "policies",
            Kind::Bool,
            "Whether the organization's policies limit what is shared.",
        )
        .of(&["ona"])
        .default("true"),
    ],
};
