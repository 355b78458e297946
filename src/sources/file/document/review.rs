//! What a list of workspaces permits although it can have no effect, for `check`.
//!
//! A grant for an endpoint that is not declared, or for a person whom no identity can be, is not a mistake
//! of the format: the list is loaded, and requests are refused with `not_permitted` for a reason that is hard to
//! find. Each finding names the line and what to change. The running agent does not use this module.

use toml_span::{DeserError, Error, Span};

use super::{List, RawGrant};
use crate::{
    diagnostics::{self, Format, Mistakes, mistake},
    identity::profile::MatchBy,
    workspaces::{Admission, Endpoint, EndpointName, Grantee, IssuerNames, Person},
};

/// How the people of a configured issuer can be named in a list.
#[derive(Clone, Copy, Debug)]
pub struct KnownIssuer<'c> {
    /// Its configured name.
    pub name: &'c str,
    /// The names by which its identities are compared with people (`match`).
    pub matching: &'c [MatchBy],
    /// Whether its identities can have groups.
    pub has_groups: bool,
}

/// Finds what can have no effect in a list that [`super::parse`] accepts.
#[must_use]
pub fn list(file: &str, text: &str, format: Format, issuers: &[KnownIssuer<'_>]) -> Mistakes {
    let Ok(list) = diagnostics::read::<List>(file, text, format) else {
        return Mistakes::default();
    };
    let names = issuers.iter().map(|issuer| issuer.name).collect();
    let mut errors = Vec::new();
    for mut record in list.0 {
        errors.append(&mut record.useless);
        let owner = record.owner.span;
        let grants: Vec<Span> = record.grants.iter().map(|issuer_ref| issuer_ref.span).collect();
        // Mistakes about issuers were reported when the list was parsed.
        let workspace = record.resolve_issuers(&names, &mut Vec::new());
        let at = |span: Span, message: Option<String>| message.map(|text| mistake(span, text));
        errors.extend(at(owner, unknown_person(&workspace.owner, issuers)));
        for (grant, span) in workspace.grants.iter().zip(grants) {
            let message = match &grant.to {
                Grantee::User(person) => unknown_person(person, issuers),
                Grantee::Group { issuers: names, .. } => unknown_group(names, issuers),
                Grantee::PlatformGroup(_) => None,
            };
            errors.extend(at(span, message));
        }
    }
    diagnostics::mistakes(file, text, DeserError { errors })
}

/// The endpoints of a grant that it does not make reachable.
pub(super) fn grant(grant: &RawGrant, declared: &[Endpoint]) -> Vec<Error> {
    let Some(named) = &grant.endpoints else {
        let owners = declared.iter().all(|endpoint| endpoint.admission == Admission::Owner);
        let message = "this grant gives nothing: every endpoint of the workspace has 'admission: owner'; make one 'grants' or wider, or remove the grant";
        return (owners && !declared.is_empty())
            .then(|| mistake(grant.span, message))
            .into_iter()
            .collect();
    };
    if named.is_empty() {
        let message = "this grant gives nothing: its list 'endpoints' is empty; leave the key out to grant all endpoints";
        return vec![mistake(grant.span, message)];
    }
    let useless = named.iter().filter_map(|raw| {
        let name = &raw.name;
        let message = match declared.iter().find(|endpoint| endpoint.name == *name) {
            None => format!(
                "this grant gives nothing: the workspace does not declare {name}; {}",
                how_to_declare(name)
            ),
            Some(endpoint) if endpoint.admission == Admission::Owner => format!(
                "this grant gives nothing: {name} has 'admission: owner'; make it 'grants' or wider"
            ),
            Some(_) => return None,
        };
        Some(mistake(raw.span, message))
    });
    useless.collect()
}

fn how_to_declare(name: &EndpointName) -> String {
    match name {
        EndpointName::Main => "give the workspace a 'destination'".into(),
        EndpointName::Port(port) => format!("add {{ port: {port} }} to its 'ports'"),
        EndpointName::App(app) => {
            format!("add {{ app: {}, destination: … }} to its 'apps'", app.as_str())
        }
    }
}

/// Why no identity can be this person, if that is so.
fn unknown_person(person: &Person, issuers: &[KnownIssuer<'_>]) -> Option<String> {
    let own: Vec<_> =
        issuers.iter().filter(|issuer| person.issuers.contains(issuer.name)).collect();
    let has = |rule: &MatchBy| match rule {
        MatchBy::Subject => person.subject.is_some(),
        MatchBy::Email => person.email.is_some(),
        MatchBy::Username => person.username.is_some(),
    };
    if own.is_empty() || own.iter().any(|issuer| issuer.matching.iter().any(has)) {
        return None;
    }
    let named: Vec<_> = MATCH_WORDS.iter().filter(|(rule, _)| has(rule)).map(|(_, w)| *w).collect();
    let compared: Vec<_> = MATCH_WORDS
        .iter()
        .filter(|(rule, _)| own.iter().any(|issuer| issuer.matching.contains(rule)))
        .map(|(_, word)| *word)
        .collect();
    Some(format!(
        "no identity can be this person: {} compares people by {} (its key 'match'), and only {} is given here; name the person by {}, or add it to 'match'",
        called(own.iter().map(|issuer| issuer.name)),
        compared.join(" and "),
        named.join(" and "),
        compared.first().unwrap_or(&"subject"),
    ))
}

/// Why no identity can be in a group of these issuers, if that is so.
fn unknown_group(names: &IssuerNames, issuers: &[KnownIssuer<'_>]) -> Option<String> {
    let own: Vec<_> = issuers.iter().filter(|issuer| names.contains(issuer.name)).collect();
    let none = !own.is_empty() && own.iter().all(|issuer| !issuer.has_groups);
    none.then(|| {
        format!(
            "no identity can be in this group: {} gives its identities no groups; set 'groups' in its [issuer.claims], or grant to people",
            called(own.iter().map(|issuer| issuer.name))
        )
    })
}

fn called<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    format!("the issuer {}", names.join(" or "))
}

const MATCH_WORDS: [(MatchBy, &str); 3] =
    [(MatchBy::Subject, "subject"), (MatchBy::Email, "email"), (MatchBy::Username, "username")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::destination::AllowedBackends;

    const CORP: KnownIssuer<'static> =
        KnownIssuer { name: "corp", matching: &[MatchBy::Subject], has_groups: true };
    const LAPTOPS: KnownIssuer<'static> =
        KnownIssuer { name: "laptops", matching: &[MatchBy::Email], has_groups: false };

    fn found(record: &str, issuers: &[KnownIssuer<'_>]) -> Vec<String> {
        let text = format!(
            "workspaces:\n  - id: a\n    phase: running\n    destination: 10.0.0.1:80\n{record}"
        );
        let names = issuers.iter().map(|issuer| issuer.name).collect();
        super::super::parse("w.yaml", &text, Format::Yaml, &names, &AllowedBackends::default())
            .unwrap();
        list("w.yaml", &text, Format::Yaml, issuers).into_iter().map(|m| m.to_string()).collect()
    }

    const OWNER: &str = "    owner: { subject: x }\n";

    #[test]
    fn a_grant_for_an_endpoint_that_is_not_declared_is_found_with_its_line() {
        for (endpoints, want) in [
            (
                "[3000]",
                "w.yaml:6:41: this grant gives nothing: the workspace does not declare port:3000; add { port: 3000 } to its 'ports'",
            ),
            (
                "['port:3000']",
                "w.yaml:6:41: this grant gives nothing: the workspace does not declare port:3000; add { port: 3000 } to its 'ports'",
            ),
            (
                "['app:web']",
                "w.yaml:6:41: this grant gives nothing: the workspace does not declare app:web; add { app: web, destination: … } to its 'apps'",
            ),
        ] {
            let grants =
                format!("{OWNER}    grants: [{{ group: devs, endpoints: {endpoints} }}]\n");
            assert_eq!(found(&grants, &[CORP]), [want], "{endpoints}");
        }
        let two = format!(
            "{OWNER}    ports: [{{ port: 80 }}]\n    grants: [{{ group: devs, endpoints: [80, 81, main, 82] }}]\n"
        );
        assert_eq!(found(&two, &[CORP]).len(), 2);
    }

    #[test]
    fn a_grant_for_endpoints_of_the_owner_alone_is_found() {
        let grants = format!(
            "{OWNER}    ports: [{{ port: 80, admission: owner }}]\n    grants: [{{ group: devs, endpoints: [80] }}]\n"
        );
        let all = found(&grants, &[CORP]);
        assert_eq!(
            all,
            [
                "w.yaml:7:41: this grant gives nothing: port:80 has 'admission: owner'; make it 'grants' or wider"
            ]
        );
        let none = format!("{OWNER}    grants: [{{ group: devs, endpoints: [] }}]\n");
        let all = found(&none, &[CORP]);
        assert!(
            all.len() == 1 && all[0].starts_with("w.yaml:6:14: this grant gives nothing"),
            "{all:?}"
        );
        let whole = format!("{OWNER}    admission: owner\n    grants: [{{ group: devs }}]\n");
        let all = found(&whole, &[CORP]);
        assert!(
            all.len() == 1 && all[0].starts_with("w.yaml:7:14: this grant gives nothing"),
            "{all:?}"
        );
    }

    #[test]
    fn grants_that_can_have_an_effect_are_not_found() {
        for record in [
            "    grants: [{ group: devs }]\n",
            "    grants: [{ group: devs, endpoints: [main] }]\n",
            "    grants: [{ user: { subject: z } }]\n",
            "    ports: [{ port: 80 }]\n    grants: [{ group: devs, endpoints: [80] }]\n",
            "    ports: [{ port: 80, admission: public }]\n    grants: [{ group: devs, endpoints: [80] }]\n",
            "    apps: [{ app: web, destination: '10.0.0.1:1' }]\n    grants: [{ group: devs, endpoints: ['app:web'] }]\n",
            // One endpoint is open to the group.
            "    admission: owner\n    ports: [{ port: 80, admission: grants }]\n    grants: [{ group: devs }]\n",
            "    admission: owner\n",
            "",
        ] {
            assert_eq!(
                found(&format!("{OWNER}{record}"), &[CORP]),
                Vec::<String>::new(),
                "{record}"
            );
        }
    }

    #[test]
    fn a_person_by_a_name_that_the_issuer_does_not_compare_is_found() {
        let all = found("    owner: { email: a@example.com }\n", &[CORP]);
        assert_eq!(
            all,
            [
                "w.yaml:5:12: no identity can be this person: the issuer 'corp' compares people by subject (its key 'match'), and only email is given here; name the person by subject, or add it to 'match'"
            ]
        );
        let user = format!("{OWNER}    grants: [{{ user: {{ username: bob }} }}]\n");
        let all = found(&user, &[CORP]);
        assert!(all.len() == 1 && all[0].starts_with("w.yaml:6:22: no identity can be"), "{all:?}");
        let other = "    owner: { issuer: laptops, subject: x }\n";
        let all = found(other, &[CORP, LAPTOPS]);
        assert!(all.len() == 1 && all[0].contains("'laptops' compares people by email"), "{all:?}");
    }

    #[test]
    fn a_person_whom_an_identity_can_be_is_not_found() {
        for owner in [
            "{ issuer: corp, subject: x }",
            "{ issuer: corp, subject: x, email: a@example.com }",
            "{ issuer: laptops, email: a@example.com }",
            // One of the issuers is enough.
            "{ issuer: [corp, laptops], email: a@example.com }",
            "{ issuer: [corp, laptops], subject: x }",
        ] {
            let all = found(&format!("    owner: {owner}\n"), &[CORP, LAPTOPS]);
            assert_eq!(all, Vec::<String>::new(), "{owner}");
        }
    }

    #[test]
    fn a_group_of_an_issuer_without_groups_is_found_and_no_other() {
        let grant = |issuer: &str| {
            format!(
                "    owner: {{ issuer: corp, subject: x }}\n    grants: [{{ group: devs, issuer: {issuer} }}]\n"
            )
        };
        let all = found(&grant("laptops"), &[CORP, LAPTOPS]);
        assert!(
            all.len() == 1 && all[0].starts_with("w.yaml:6:14: no identity can be in"),
            "{all:?}"
        );
        for issuer in ["corp", "[corp, laptops]"] {
            assert_eq!(found(&grant(issuer), &[CORP, LAPTOPS]), Vec::<String>::new(), "{issuer}");
        }
    }
}
