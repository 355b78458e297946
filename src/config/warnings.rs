//! What a configuration permits although it can have no effect, or most likely not the intended one.
//!
//! `check` prints these findings and the agent logs them at the start. They never keep the agent from
//! starting: other parts of the configuration may be right, and a person may be about to complete it. Each
//! says which line it is about and what to change.

use toml_span::Value;

use super::{Config, kinds::Words as _};
use crate::{
    diagnostics::{self, Mistake},
    identity::{
        profile::{ClaimPath, MatchBy},
        settings::IssuerSettings,
    },
    sources::{file::KnownIssuer, settings::SourceKind},
    workspaces::{
        IssuerNames,
        pattern::{IdRule, coverage},
        source::SourceId,
    },
};

impl Config {
    /// What is permitted and most likely a mistake.
    #[must_use]
    pub fn warnings(&self) -> Vec<Mistake> {
        let patterns = coverage::useless(&self.hosts).into_iter().map(|(index, useless)| {
            let keys = ["pattern", "domain"].map(|key| format!("/host/{index}/{key}"));
            self.warning(&keys, useless.advice())
        });
        let sites = self.other_sites().into_iter().map(|message| self.warning(&[], message));
        patterns.chain(self.unknown_people()).chain(self.unused_tenants()).chain(sites).collect()
    }

    /// Literal hosts whose workspace does not exist. `is_missing` says whether no source can have it.
    #[must_use]
    pub fn missing_workspaces(
        &self,
        is_missing: impl Fn(Option<SourceId>, &str) -> bool,
    ) -> Vec<Mistake> {
        let literal = self.hosts.iter().enumerate().filter_map(|(index, spec)| match &spec.id {
            IdRule::Fixed(id) if is_missing(spec.source, id.as_str()) => Some((index, id)),
            _ => None,
        });
        let warn = |(index, id)| {
            let message = format!(
                "no list has a workspace '{id}', so requests for this host get 'workspace_unknown'; correct 'workspace', or add the workspace to the list"
            );
            self.warning(&[format!("/host/{index}/workspace")], message)
        };
        literal.map(warn).collect()
    }

    /// How lists can name the people of each issuer and of each rule for certificates.
    #[must_use]
    pub fn known_issuers(&self) -> Vec<KnownIssuer<'_>> {
        let issuers = self.issuers.iter().map(|issuer| KnownIssuer {
            name: &issuer.profile.authority.name,
            matching: &issuer.profile.authority.matching,
            has_groups: !issuer.profile.claims.groups.is_empty(),
        });
        let certificates = self.certificates.iter().map(|rule| KnownIssuer {
            name: &rule.authority.name,
            matching: &rule.authority.matching,
            has_groups: false,
        });
        issuers.chain(certificates).collect()
    }

    /// Sources whose people have only names that their issuers do not compare.
    fn unknown_people(&self) -> Vec<Mistake> {
        let issuers = self.known_issuers();
        // The list of [workspaces] is the first source and has no table [[source]].
        let tables = self.sources.sources.len().saturating_sub(self.listed_sources());
        let sources = self.sources.sources.iter().enumerate().filter_map(|(index, source)| {
            let (names, has) = people(&source.kind)?;
            let own = issuers.iter().filter(|issuer| names.contains(issuer.name));
            let own: Vec<_> = own.collect();
            let fits = |issuer: &&KnownIssuer<'_>| issuer.matching.iter().any(|rule| has.contains(rule));
            if own.is_empty() || own.iter().any(fits) {
                return None;
            }
            let called: Vec<_> = own.iter().map(|issuer| format!("'{}'", issuer.name)).collect();
            let called = called.join(" or ");
            let words: Vec<_> = has.iter().map(|rule| format!("{:?}", word(*rule))).collect();
            let words = words.join(" or ");
            let message = format!(
                "no identity can be a person of the source '{}': it names people by {words}, which the issuer {called} does not compare; add {words} to 'match' of that [[issuer]]",
                source.name
            );
            let table = index.checked_sub(tables);
            let keys = |table| ["issuer", "kind"].map(|key| format!("/source/{table}/{key}")).to_vec();
            Some(self.warning(&table.map(keys).unwrap_or_default(), message))
        });
        sources.collect()
    }

    /// How many sources have a table `[[source]]`.
    pub(super) fn listed_sources(&self) -> usize {
        let tree = diagnostics::tree(&self.text.0, self.text.1).ok();
        let listed = tree.as_ref().and_then(|root| root.pointer("/source"));
        listed.and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// Tenants whose tokens a requirement for the claim `tid` always refuses.
    fn unused_tenants(&self) -> Vec<Mistake> {
        let all = self.issuers.iter().enumerate().flat_map(|(index, issuer)| {
            refused_tenants(issuer).into_iter().map(move |tenant| (index, tenant))
        });
        let warn = |(index, tenant): (usize, String)| {
            let message = format!(
                "no token of the tenant {tenant} is accepted: a 'require' for the claim \"tid\" does not list it; add it there, or remove it from 'tenants'"
            );
            self.warning(&[format!("/issuer/{index}/tenants")], message)
        };
        all.map(warn).collect()
    }

    /// A warning about the first of these keys that the file has.
    fn warning(&self, keys: &[String], message: impl Into<String>) -> Mistake {
        Mistake { file: self.file.clone(), place: self.place(keys), message: message.into() }
    }

    /// The line and column of the first of these keys that the file has.
    pub(super) fn place(&self, keys: &[impl AsRef<str>]) -> Option<(usize, usize)> {
        let (text, format) = &self.text;
        let root = diagnostics::tree(text, *format).ok()?;
        let value = keys.iter().find_map(|key| root.pointer(key.as_ref()))?;
        Some(diagnostics::line_and_column(text, value.span.start))
    }
}

/// The tenants of an issuer that its requirements exclude.
fn refused_tenants(issuer: &IssuerSettings) -> Vec<String> {
    let profile = &issuer.profile;
    let of_tenant = profile.require.iter().filter(|rule| rule.claim == ClaimPath::named("tid"));
    let excludes =
        |tenant: &str| of_tenant.clone().any(|rule| rule.any_of.iter().all(|t| **t != *tenant));
    let mut refused: Vec<String> = profile
        .accepted
        .iter()
        .filter_map(|accepted| accepted.tenant.as_deref())
        .filter(|tenant| excludes(tenant))
        .map(str::to_owned)
        .collect();
    // Each spelling of the issuer has every tenant.
    refused.sort();
    refused.dedup();
    refused
}

/// The issuers of a platform's people, and the names that the platform knows of them. `None` where records
/// name people themselves.
fn people(kind: &SourceKind) -> Option<(&IssuerNames, Vec<MatchBy>)> {
    match kind {
        SourceKind::File(_) | SourceKind::Api(_) => None,
        SourceKind::Hub(_, hub, _) => {
            Some((&hub.identity_mapping.issuers, vec![MatchBy::Username]))
        }
        SourceKind::Coder(_, coder) => {
            Some((&coder.identity_mapping.issuers, vec![MatchBy::Email, MatchBy::Username]))
        }
        SourceKind::Gitpod(_, gitpod) => {
            Some((&gitpod.identity_mapping.issuers, vec![MatchBy::Email]))
        }
        SourceKind::Kubernetes(cluster, _) => {
            Some((&cluster.identity_mapping.issuers, vec![cluster.owner]))
        }
        SourceKind::Ona(_, ona) => Some((&ona.identity_mapping.issuers, vec![MatchBy::Email])),
    }
}

/// The word for it in `match`.
fn word(rule: MatchBy) -> &'static str {
    let words = MatchBy::words().into_iter();
    words.filter(|(_, value)| *value == rule).map(|(word, _)| word).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Format;

    /// The warnings about a configuration with these lines for its issuer, its hosts and its sources.
    fn warnings(issuer: &str, rest: &str) -> Vec<String> {
        let text = format!(
            "[agent]\nlisten = ['127.0.0.1:0']\n[[issuer]]\nname = 'corp'\naudience = 'a'\n{issuer}\n{rest}\n"
        );
        let directory = std::path::Path::new("/");
        let config = Config::parse("agent.toml", &text, Format::Toml, directory).unwrap();
        let config = Config { file: "agent.toml".into(), text: (text, Format::Toml), ..config };
        config.warnings().iter().map(Mistake::as_warning).collect()
    }

    const PLAIN: &str = "issuer = 'https://idp.example.com'";
    const LIST: &str = "[workspaces]\nfile = 'w.yaml'";

    #[test]
    fn a_pattern_that_is_never_used_is_found_with_its_line() {
        let host = |pattern: &str| format!("[[host]]\npattern = '{pattern}'\n");
        let wide = host(r"(?<workspace>[a-z]+)\.example\.com");
        let port = host(r"(?<workspace>[a-z]+)\.example\.com:443");
        let found = warnings(PLAIN, &format!("{wide}{port}{LIST}"));
        assert!(found.len() == 1, "{found:?}");
        assert!(
            found[0].starts_with("agent.toml:10:12: warning: no host name matches"),
            "{found:?}"
        );
        let found = warnings(PLAIN, &format!("{wide}{wide}{LIST}"));
        assert!(found.len() == 1, "{found:?}");
        assert!(
            found[0].starts_with("agent.toml:10:12: warning: the patterns before"),
            "{found:?}"
        );
        assert_eq!(warnings(PLAIN, &format!("{wide}{LIST}")), Vec::<String>::new());
        let preset = "[[host]]\npreset = 'ona'\ndomain = 'x.test'\n";
        let found = warnings(PLAIN, &format!("{preset}{preset}{LIST}"));
        assert!(found[0].starts_with("agent.toml:12:11: warning: the patterns"), "{found:?}");
    }

    #[test]
    fn a_source_whose_people_no_identity_can_be_is_found_with_its_line() {
        let source = |kind: &str| {
            format!(
                "[[host]]\npreset = 'ona'\ndomain = 'x.test'\n[[source]]\nname = 's'\nkind = '{kind}\nurl = 'https://p.test'\ntoken_file = 't'\n"
            )
        };
        let hub = source(
            "jupyterhub'\nhost = 'hub.x.test'\nroutes_listen = '127.0.0.1:0'\nroutes_token_file = 'r'",
        );
        let coder = source("coder'\ndestination = 'backend:c'");
        let coder = format!("{coder}[destinations]\nbackends = ['c']\n");
        let rule = |words: &str| format!("{PLAIN}\nmatch = [{words}]");
        for (source, rules, harmless) in [
            (source("ona'"), "'subject'", false),
            (source("ona'"), "'subject', 'username'", false),
            (source("ona'"), "'subject', 'email'", true),
            (hub.clone(), "'email'", false),
            (hub, "'username'", true),
            (coder.clone(), "'subject'", false),
            (coder.clone(), "'email'", true),
            (coder, "'username'", true),
        ] {
            let found = warnings(&rule(rules), &source);
            let line = "agent.toml:13:9: warning: no identity can be a person of the source 's'";
            assert_eq!(found.is_empty(), harmless, "{rules} {source} {found:?}");
            assert!(harmless || found[0].starts_with(line), "{found:?}");
        }
        // A list in a file is the first source and has no table.
        let both = format!("{LIST}\n{}", source("ona'"));
        let found = warnings(&rule("'subject'"), &both);
        assert!(found.len() == 1 && found[0].starts_with("agent.toml:15:9: "), "{found:?}");
    }

    #[test]
    fn a_tenant_that_a_requirement_excludes_is_found_with_its_line() {
        let (one, two) =
            ("72f988bf-86f1-41af-91ab-2d7cd011db47", "00000000-0000-0000-0000-000000000002");
        let entra = |tenants: &str, required: &str| {
            let hosts = format!("[[host]]\npreset = 'ona'\ndomain = 'x.test'\n{LIST}");
            let issuer = format!("preset = 'entra'\ntenants = [{tenants}]\n{required}");
            warnings(&issuer, &hosts)
        };
        let require = |claim: &str, values: &str| {
            format!("[[issuer.require]]\nclaim = '{claim}'\nany_of = [{values}]")
        };
        let both = format!("'{one}', '{two}'");
        let found = entra(&both, &require("tid", &format!("'{one}'")));
        let wanted = format!("agent.toml:7:11: warning: no token of the tenant {two} is accepted");
        assert!(found.len() == 1 && found[0].starts_with(&wanted), "{found:?}");
        for (tenants, required) in [
            (both.clone(), String::new()),
            (both.clone(), require("tid", &both)),
            (both.clone(), require("oid", &format!("'{one}'"))),
            (format!("'{one}'"), require("tid", &both)),
        ] {
            assert_eq!(entra(&tenants, &required), Vec::<String>::new(), "{required}");
        }
    }

    #[test]
    fn a_literal_host_whose_workspace_does_not_exist_is_found() {
        let text = "[agent]\nlisten = ['127.0.0.1:0']\n[[issuer]]\nname = 'corp'\naudience = 'a'\nissuer = 'https://idp.example.com'\n\
             [[host]]\npattern = 'app\\.example\\.com'\nworkspace = 'app'\n[workspaces]\nfile = 'w.yaml'\n";
        let directory = std::path::Path::new("/");
        let config = Config::parse("agent.toml", text, Format::Toml, directory).unwrap();
        let config =
            Config { file: "agent.toml".into(), text: (text.into(), Format::Toml), ..config };
        let found = config.missing_workspaces(|_, id| id == "app");
        let line = "agent.toml:9:14: warning: no list has a workspace 'app'";
        assert!(found.len() == 1 && found[0].as_warning().starts_with(line), "{found:?}");
        assert_eq!(config.missing_workspaces(|_, id| id == "other"), []);
        assert_eq!(config.warnings(), []);
    }
}
