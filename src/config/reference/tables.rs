//! The tables but `[[source]]`.

use super::{Key, Kind, Table};

const ADMISSIONS: &[&str] = &["owner", "grants", "organization", "authenticated", "public"];
const MATCH: &[&str] = &["subject", "email", "username"];
const CREATED: &str = "made if absent";

pub(super) use super::sources::SOURCE;

/// The document itself.
pub(super) const ROOT: Table = Table {
    path: "",
    repeated: false,
    what: "Every table of the configuration. Unknown keys are refused; paths are relative to the file.",
    keys: &[
        Key::new("agent", Kind::Table("agent"), "How HAProxy reaches the agent.").required(),
        Key::new("issuer", Kind::Table("issuer"), "Whose tokens count.").required(),
        Key::new(
            "credentials",
            Kind::Table("credentials"),
            "Where tokens may be beside the Authorization header.",
        ),
        Key::new("certificate", Kind::Table("certificate"), "Which client certificates count."),
        Key::new("host", Kind::Table("host"), "Which hosts are workspaces.").required(),
        Key::new(
            "workspaces",
            Kind::Table("workspaces"),
            "What holds for all workspaces, and a list of them.",
        ),
        Key::new("source", Kind::Table("source"), "Platforms that know workspaces."),
        Key::new("destinations", Kind::Table("destinations"), "Where requests may be sent."),
        Key::new("policy", Kind::Table("policy"), "Policies beyond ownership: see docs/policy.md."),
        Key::new("audit", Kind::Table("audit"), "Where decisions are recorded."),
        Key::new("sign_in", Kind::Table("sign_in"), "How people sign in with a browser."),
        Key::new(
            "shared",
            Kind::Table("shared"),
            "Where several agents share sessions and revocations.",
        ),
        Key::new(
            "haproxy",
            Kind::Table("haproxy"),
            "HAProxy's runtime API: live tunnels are followed, and cut when access ends.",
        ),
        Key::new("tunnels", Kind::Table("tunnels"), "What holds for live tunnels."),
        Key::new("admin", Kind::Table("admin"), "How administrators reach the agent."),
        Key::new("metrics", Kind::Table("metrics"), "Where metrics are beside the admin socket."),
        Key::new("traces", Kind::Table("traces"), "Where spans of decisions go."),
    ],
};

pub(super) const POLICY: Table = Table {
    path: "policy",
    repeated: false,
    what: "Policies beyond ownership, in the language Cedar: see docs/policy.md. At least `directory` or `shadow` is needed.",
    keys: &[
        Key::new("directory", Kind::Text, "Where the policies are that are enforced: every `*.cedar` in it."),
        Key::new(
            "mode",
            Kind::Choice(&["narrow", "replace"]),
            "`narrow`: policies only forbid what ownership allows. `replace`: they may also permit what it refuses, to somebody with an identity.",
        )
        .default("\"narrow\""),
        Key::new("shadow", Kind::Text, "Policies that are not enforced: what they would have decided is on record."),
        Key::new("shadow_mode", Kind::Choice(&["narrow", "replace"]), "What those might do.")
            .default("as `mode`"),
        Key::new("time_zone", Kind::Text, "Where policies are told hours and weekdays, such as `Europe/Berlin`.")
            .default("\"UTC\""),
    ],
};

pub(super) const AGENT: Table = Table {
    path: "agent",
    repeated: false,
    what: "How HAProxy reaches the agent, and what it may cost.",
    keys: &[
        Key::new("listen", Kind::Texts, "Addresses: `unix:/path/to/socket`, `IP:PORT` or `systemd`.").required(),
        Key::new("socket_mode", Kind::Text, "The mode of unix sockets, in octal.").default("\"0660\""),
        Key::new("socket_owner", Kind::Text, "Who owns unix sockets: `USER`, `USER:GROUP` or `:GROUP`.").default("whoever runs the agent"),
        Key::new("resource_metadata", Kind::Bool, "Workspaces answer `/.well-known/oauth-protected-resource` with the issuers whose tokens count (RFC 9728).").default("false"),
        Key::new("workers", Kind::Number(1, 1024), "Threads that serve HAProxy.").default("one a core"),
        Key::new("answer_within_ms", Kind::Number(10, 10_000), "Every question is answered within this time; shorter than HAProxy's `timeout processing`.").default("300"),
        Key::new("reuse_ms", Kind::Number(0, 60_000), "How long HAProxy may reuse the last allow of a connection (docs/reuse.md); 5000 is a good value.").default("0, which is not at all"),
        Key::new("connections", Kind::Number(1, 100_000), "The most connections from HAProxy at once.").default("1024"),
        Key::new("waiting", Kind::Number(0, 1_000_000), "The most questions that wait for a key or a workspace at once.").default("1024"),
        Key::new("tokens", Kind::Number(0, 10_000_000), "The most verified tokens that are remembered.").default("100000"),
        Key::new("follow_file", Kind::Bool, "This file is read again when it changes, and not only on SIGHUP.").default("true"),
    ],
};

pub(super) const ISSUER: Table = Table {
    path: "issuer",
    repeated: true,
    what: "An identity provider whose tokens count.",
    keys: &[
        Key::new("name", Kind::Text, "What lists of workspaces, logs and the audit trail call it.")
            .required(),
        Key::new(
            "issuer",
            Kind::Text,
            "Its identifier, to the letter as in the tokens (`iss`); an https URL. Some presets know it.",
        ),
        Key::new(
            "audience",
            Kind::TextOrTexts,
            "The audiences (`aud`) that make a token one for workspaces.",
        )
        .required(),
        Key::new(
            "preset",
            Kind::Choice(&["okta", "entra", "auth0", "keycloak", "google", "gitpod", "ona"]),
            "A provider with habits of its own: see docs/providers/.",
        ),
        Key::new(
            "match",
            Kind::Choices(MATCH),
            "How a person is recognised as owner or guest; the first that both sides have decides.",
        )
        .default("[\"subject\"]"),
        Key::new(
            "tokens",
            Kind::Choices(&["at+jwt", "access", "id"]),
            "Which kinds of token count.",
        )
        .default("the preset's, else access tokens"),
        Key::new(
            "algorithms",
            Kind::Choices(&[
                "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
            ]),
            "Signatures that count.",
        )
        .default("all of them"),
        Key::new(
            "tenants",
            Kind::Texts,
            "The tenants that stand for `{tenantid}` in `issuer` and `also_issuers`.",
        ),
        Key::new("also_issuers", Kind::Texts, "Other spellings of the identifier in tokens."),
        Key::new("require", Kind::Table("issuer.require"), "What claims must say."),
        Key::new(
            "max_age_seconds",
            Kind::Number(60, 31_536_000),
            "How old a token may be by `iat`, whatever `exp` says.",
        ),
        Key::new("leeway_seconds", Kind::Number(0, 60), "By how much clocks may differ.")
            .default("30"),
        Key::new(
            "organization",
            Kind::Text,
            "The organization of everybody here; or `claims.organization`.",
        ),
        Key::new("claims", Kind::Table("issuer.claims"), "Where tokens say what."),
        Key::new(
            "introspection",
            Kind::Table("issuer.introspection"),
            "Asks this issuer about opaque tokens (RFC 7662); one issuer at most.",
        ),
        Key::new("sign_in", Kind::Table("issuer.sign_in"), "People sign in here with a browser."),
        Key::new("jwks_uri", Kind::Text, "The address of its keys, instead of discovery."),
        Key::new("discovery_url", Kind::Text, "The address of its discovery document.")
            .default("ISSUER/.well-known/openid-configuration"),
        Key::new("ca_file", Kind::Text, "A private authority beside the system's, PEM."),
        Key::new(
            "keys_file",
            Kind::Text,
            "Where the last good keys are kept, so that a restart during an outage has keys.",
        ),
        Key::new(
            "refresh_seconds",
            Kind::Number(60, 86_400),
            "Keys are fetched at least so often.",
        )
        .default("3600"),
        Key::new(
            "unknown_key_seconds",
            Kind::Number(1, 3600),
            "And once in this time for a key id nobody knows.",
        )
        .default("30"),
        Key::new(
            "max_stale_seconds",
            Kind::Number(60, 604_800),
            "The last good keys serve so long while the provider is down.",
        )
        .default("86400"),
    ],
};

pub(super) const CLAIMS: Table = Table {
    path: "issuer.claims",
    repeated: false,
    what: "Claims by their name, or by a JSON Pointer such as `/realm_access/roles`.",
    keys: &[
        Key::new("subject", Kind::Text, "Who it is.").default("\"sub\""),
        Key::new(
            "email",
            Kind::Text,
            "The e-mail address; counts only beside `email_verified: true`.",
        )
        .default("\"email\""),
        Key::new("username", Kind::Text, "The login name.").default("\"preferred_username\""),
        Key::new(
            "groups",
            Kind::TextOrTables("issuer.claims.groups"),
            "The groups: a claim, or rules.",
        )
        .default("\"groups\""),
        Key::new("organization", Kind::Text, "The organization."),
    ],
};

pub(super) const GROUPS: Table = Table {
    path: "issuer.claims.groups",
    repeated: true,
    what: "A claim with names of groups, and what becomes of them.",
    keys: &[
        Key::new("claim", Kind::Text, "The claim.").required(),
        Key::new("strip", Kind::Text, "Taken off the front of each name."),
        Key::new("prefix", Kind::Text, "Put before each name."),
    ],
};

pub(super) const REQUIRE: Table = Table {
    path: "issuer.require",
    repeated: true,
    what: "A claim that must have one of some values.",
    keys: &[
        Key::new("claim", Kind::Text, "The claim.").required(),
        Key::new("any_of", Kind::Texts, "The values; at least one.").required(),
    ],
};

pub(super) const INTROSPECTION: Table = Table {
    path: "issuer.introspection",
    repeated: false,
    what: "How the issuer is asked about tokens that are no JWTs. One of the three keys is needed.",
    keys: &[
        Key::new("client_id", Kind::Text, "Our name there.").required(),
        Key::new("client_secret_file", Kind::Text, "A file with the secret."),
        Key::new("client_secret_env", Kind::Text, "A variable of the environment with the secret."),
        Key::new("private_key_file", Kind::Text, "A private key instead of a secret, PEM."),
        Key::new("key_id", Kind::Text, "What the issuer calls the private key."),
        Key::new("endpoint", Kind::Text, "The address, an https URL.")
            .default("the discovery document's"),
        Key::new(
            "cache_seconds",
            Kind::Number(1, 60),
            "How long an answer counts; never past the token's end.",
        )
        .default("60"),
    ],
};

pub(super) const CLIENT: Table = Table {
    path: "issuer.sign_in",
    repeated: false,
    what: "We as a client of the issuer. One of the three keys is needed.",
    keys: &[
        Key::new("client_id", Kind::Text, "Our name there.").required(),
        Key::new("client_secret_file", Kind::Text, "A file with the secret."),
        Key::new("client_secret_env", Kind::Text, "A variable of the environment with the secret."),
        Key::new("private_key_file", Kind::Text, "A private key instead of a secret, PEM."),
        Key::new("key_id", Kind::Text, "What the issuer calls the private key."),
        Key::new("scopes", Kind::Text, "What is asked for.").default("\"openid email profile\""),
        Key::new("label", Kind::Text, "What people call it, for the page to choose from.")
            .default("the issuer's `name`"),
    ],
};

pub(super) const CREDENTIALS: Table = Table {
    path: "credentials",
    repeated: false,
    what: "Where a token may be beside the Authorization header; nowhere unless said. It never travels on.",
    keys: &[
        Key::new("cookie", Kind::Text, "The name of a cookie."),
        Key::new(
            "query",
            Kind::Text,
            "The name of a query parameter; ends up in histories and logs.",
        ),
        Key::new(
            "subprotocol",
            Kind::Bool,
            "A WebSocket subprotocol `base64url.bearer.authorization.k8s.io.TOKEN`.",
        )
        .default("false"),
    ],
};

pub(super) const CERTIFICATE: Table = Table {
    path: "certificate",
    repeated: true,
    what: "Client certificates that HAProxy verified, as identities. The first rule that fits decides.",
    keys: &[
        Key::new("name", Kind::Text, "What lists of workspaces call it.").required(),
        Key::new(
            "identity",
            Kind::Choice(&["common_name", "dns_name", "email", "uri"]),
            "What of the certificate is the subject; of several values none counts.",
        )
        .required(),
        Key::new("prefix", Kind::Text, "Only values that begin so count; it is taken off."),
        Key::new(
            "issuer",
            Kind::Text,
            "Only certificates of this issuer, such as `CN=Corp Machines`.",
        ),
        Key::new("match", Kind::Choices(MATCH), "As for issuers.").default("[\"subject\"]"),
    ],
};

pub(super) const HOST: Table = Table {
    path: "host",
    repeated: true,
    what: "Hosts that are workspaces; the first that fits decides. Either `preset` or `pattern`.",
    keys: &[
        Key::new(
            "preset",
            Kind::Choice(&["gitpod", "ona", "coder"]),
            "How the platform calls its workspaces.",
        ),
        Key::new("domain", Kind::Text, "With `preset`: the domain below which they are."),
        Key::new(
            "agent",
            Kind::Text,
            "With `preset = \"coder\"`: whose ports have no name of their own.",
        )
        .default("\"main\""),
        Key::new(
            "pattern",
            Kind::Text,
            "A regular expression over the whole host, with the captures `workspace` and `port` or `app`.",
        ),
        Key::new("id", Kind::Text, "With `pattern`: how the workspace's id is made from captures.")
            .default("\"{workspace}\""),
        Key::new("source", Kind::Text, "Whose workspaces these are.").default("any source's"),
    ],
};

pub(super) const WORKSPACES: Table = Table {
    path: "workspaces",
    repeated: false,
    what: "What holds for all workspaces, and a list of them in a file.",
    keys: &[
        Key::new(
            "file",
            Kind::Text,
            "The list: `.yaml`, `.toml` or `.json`. Read the moment it changes.",
        ),
        Key::new(
            "undeclared_ports",
            Kind::Choice(&["deny", "owner"]),
            "Whether the owner reaches ports that the list does not have.",
        )
        .default("\"deny\""),
        Key::new(
            "max_admission",
            Kind::Choice(ADMISSIONS),
            "No endpoint of any source admits more.",
        )
        .default("\"public\""),
        Key::new(
            "framing",
            Kind::Choice(&["workspace", "site", "any"]),
            "Which pages may show a workspace in a frame with its visitor's cookie or certificate, beside those of its own host: those of the workspace's other hosts, those of its site (registrable domain), or any.",
        )
        .default("\"workspace\""),
    ],
};

pub(super) const DESTINATIONS: Table = Table {
    path: "destinations",
    repeated: false,
    what: "Where requests may be sent. This machine, link-local and multicast addresses and cloud metadata are forbidden.",
    keys: &[
        Key::new(
            "allow",
            Kind::Texts,
            "Exceptions: addresses or ranges; the metadata of a cloud only by its very address.",
        ),
        Key::new("only", Kind::Texts, "Nowhere else than there."),
        Key::new("backends", Kind::Texts, "The backends of haproxy.cfg that a destination `backend:NAME` may name; `ws-*` stands for all that begin so. Never the gate's own.")
            .default("none"),
    ],
};

pub(super) const AUDIT: Table = Table {
    path: "audit",
    repeated: false,
    what: "Where each decision is recorded.",
    keys: &[
        Key::new("file", Kind::Text, "The file; `-` is standard output.")
            .default("standard output"),
        Key::new(
            "buffer_kib",
            Kind::Number(16, 1_048_576),
            "Records that may wait to be written.",
        )
        .default("4096"),
        Key::new(
            "when_full",
            Kind::Choice(&["deny", "count"]),
            "What happens to requests whose record cannot be kept: refused, or allowed and the number of lost records is on record.",
        )
        .default("\"deny\""),
        Key::new("stdout", Kind::Bool, "Whether records go to standard output too.")
            .default("only where there is no `file` and no `syslog`"),
        Key::new("syslog", Kind::Text, "Syslog on this machine: `unix:/dev/log`, `udp:IP:PORT` or `tcp:IP:PORT`."),
        Key::new("key_file", Kind::Text, "The key that signs checkpoints.")
            .default("`FILE.key`, made if absent"),
        Key::new("checkpoint_records", Kind::Number(1, 100_000), "A checkpoint is made after so many records.")
            .default("10000"),
        Key::new("checkpoint_seconds", Kind::Number(1, 3600), "Or after so long.").default("10"),
        Key::new("rotate_mib", Kind::Number(1, 1_048_576), "A new file is begun at this size."),
        Key::new("rotate_hours", Kind::Number(1, 8784), "Or at this age."),
        Key::new("keep_days", Kind::Number(1, 36_525), "Old files are removed after this time.")
            .default("never"),
        Key::new("fold_seconds", Kind::Number(0, 3600), "Identical allows within this time become one record with a count; 0: never.")
            .default("0"),
    ],
};

pub(super) const METRICS: Table = Table {
    path: "metrics",
    repeated: false,
    what: "Where `/metrics`, `/livez` and `/readyz` are beside the admin socket.",
    keys: &[Key::new("listen", Kind::Text, "`IP:PORT`.").required()],
};

pub(super) const ADMIN: Table = Table {
    path: "admin",
    repeated: false,
    what: "How administrators reach the running agent.",
    keys: &[
        Key::new(
            "socket",
            Kind::Text,
            "A unix socket; whoever can write to it can revoke and write workspaces.",
        )
        .required(),
        Key::new("revocations", Kind::Text, "Where revocations are kept.")
            .required()
            .default(CREATED),
        Key::new("socket_mode", Kind::Text, "The mode of the socket, in octal.")
            .default("\"0600\""),
        Key::new("socket_owner", Kind::Text, "Who owns it: `USER`, `USER:GROUP` or `:GROUP`.")
            .default("whoever runs the agent"),
    ],
};

pub(super) const SIGN_IN: Table = Table {
    path: "sign_in",
    repeated: false,
    what: "How people sign in with a browser; needs an issuer with `[issuer.sign_in]`.",
    keys: &[
        Key::new(
            "host",
            Kind::Text,
            "The login host; of the same site (registrable domain) as the workspaces.",
        )
        .required(),
        Key::new("listen", Kind::Text, "Where HAProxy finds the pages, `IP:PORT`.").required(),
        Key::new("keys_file", Kind::Text, "The keys that seal: the first seals, all of them open.")
            .required()
            .default(CREATED),
        Key::new("sessions_file", Kind::Text, "Where sessions outlive the agent.")
            .default("in memory"),
        Key::new("port", Kind::Number(1, 65_535), "Of HAProxy's https, as browsers see it.")
            .default("443"),
        Key::new(
            "idle_seconds",
            Kind::Number(60, 2_592_000),
            "Sessions end without a request in this time.",
        )
        .default("28800"),
        Key::new("absolute_seconds", Kind::Number(60, 2_592_000), "And in any case.")
            .default("86400"),
        Key::new(
            "refresh_seconds",
            Kind::Number(0, 86_400),
            "Providers are asked so often about sessions in use, with refresh tokens; 0: never.",
        )
        .default("300"),
        Key::new("pages", Kind::Table("sign_in.pages"), "What the pages say."),
    ],
};

pub(super) const PAGES: Table = Table {
    path: "sign_in.pages",
    repeated: false,
    what: "What the pages of sign-in say and show: docs/pages.md.",
    keys: &[
        Key::new("title", Kind::Text, "Whose workspaces they are, above everything else."),
        Key::new("language", Kind::Text, "The language of the texts (RFC 5646).").default("\"en\""),
        Key::new("logo_file", Kind::Text, "An image, PNG or SVG."),
        Key::new("help_text", Kind::Text, "What stands below everything else."),
        Key::new("contact", Kind::Text, "Where people get help: `mailto:` or `https:`."),
        Key::new("texts_file", Kind::Text, "The operator's own texts: docs/texts.toml."),
        Key::new("show_owner", Kind::Bool, "Whether who is denied is told whose workspace it is.")
            .default("false"),
    ],
};

pub(super) const SHARED: Table = Table {
    path: "shared",
    repeated: false,
    what: "A Redis (6.2 or later) or Valkey in which several agents share sessions and revocations; needs `[sign_in]`.",
    keys: &[
        Key::new(
            "url",
            Kind::Text,
            "`redis://HOST:PORT/DATABASE`, `rediss://…` (TLS) or `redis+unix:///PATH`, without a password.",
        )
        .required(),
        Key::new("username", Kind::Text, "Who we are to it."),
        Key::new("password_file", Kind::Text, "A file with the password."),
        Key::new("password_env", Kind::Text, "A variable of the environment with the password."),
        Key::new("ca_file", Kind::Text, "A private authority instead of the system's, PEM."),
        Key::new("prefix", Kind::Text, "Of all names in it.").default("\"identity-spoa\""),
        Key::new(
            "keep_seconds",
            Kind::Number(0, 86_400),
            "Sessions count so long after the store was last heard; then 503.",
        )
        .default("300"),
    ],
};

pub(super) const TRACES: Table = Table {
    path: "traces",
    repeated: false,
    what: "Where OpenTelemetry spans of decisions go; only in programs that are built with the feature `otel`.",
    keys: &[
        Key::new(
            "endpoint",
            Kind::Text,
            "The collector's URL for OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; https unless it is on this machine.",
        )
        .required(),
        Key::new("one_in", Kind::Number(1, 1_000_000), "One of so many decisions has a span.")
            .default("100"),
        Key::new("user", Kind::Bool, "Whether spans say who asked.").default("false"),
    ],
};

pub(super) const HAPROXY: Table = Table {
    path: "haproxy",
    repeated: false,
    what: "Where HAProxy's runtime API is.",
    keys: &[
        Key::new(
            "sockets",
            Kind::Texts,
            "`unix:/path/to/socket` or `IP:PORT`, of a process (`stats socket … level admin`) or of its master (`haproxy -S`), one for each HAProxy.",
        )
        .required(),
        Key::new("frontends", Kind::Texts, "Whose tunnels are this gate's, before the first question comes from them."),
    ],
};

pub(super) const TUNNELS: Table = Table {
    path: "tunnels",
    repeated: false,
    what: "What holds for live tunnels; needs `[haproxy]`.",
    keys: &[
        Key::new(
            "max",
            Kind::Number(8, 1_000_000),
            "The most at once; of one person, or address without a person, an eighth of it.",
        )
        .default("20000"),
        Key::new("max_seconds", Kind::Number(1, 31_536_000), "No tunnel lasts longer."),
        Key::new(
            "outlive_token",
            Kind::Bool,
            "Whether a tunnel goes on when the token it was opened with ends.",
        )
        .default("false"),
        Key::new(
            "cut_unknown",
            Kind::Bool,
            "Whether tunnels that the agent does not know are cut when it starts.",
        )
        .default("false"),
        Key::new("file", Kind::Text, "Where tunnels are kept for the next agent."),
    ],
};
