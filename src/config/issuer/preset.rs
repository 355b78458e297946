//! Presets: the defaults for each well-known provider, and what does not work or is unsafe with it.
//!
//! `docs/providers/` has a page for each preset, which says what to set at the provider.

use crate::{
    config::kinds::words_of,
    identity::profile::{ClaimPath, ClaimPaths, GroupRule, Requirement, TokenKinds},
};

/// A well-known provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Preset {
    Okta,
    Entra,
    Auth0,
    Keycloak,
    Google,
    Gitpod,
    Ona,
}

words_of!(Preset);

impl Preset {
    /// The issuer identifier, if all customers of the provider have the same one.
    pub(super) fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Entra => Some("https://login.microsoftonline.com/{tenantid}/v2.0"),
            Self::Google => Some("https://accounts.google.com"),
            Self::Gitpod => Some("https://api.gitpod.io/idp"),
            Self::Ona => Some("https://app.gitpod.io"),
            Self::Okta | Self::Auth0 | Self::Keycloak => None,
        }
    }

    /// Other spellings of the issuer identifier in tokens.
    pub(super) fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::Google => &["accounts.google.com"],
            _ => &[],
        }
    }

    /// The types of token that the provider issues and the agent can verify.
    pub(super) fn tokens(self) -> TokenKinds {
        match self {
            // These providers have opaque access tokens or none.
            Self::Google | Self::Gitpod | Self::Ona => {
                TokenKinds { typed_access: false, access: false, id: true }
            }
            Self::Okta | Self::Entra | Self::Auth0 | Self::Keycloak => TokenKinds::default(),
        }
    }

    /// The claims that have the fields of the identity.
    pub(super) fn claims(self) -> ClaimPaths {
        let defaults = ClaimPaths::default();
        let rule = |claim: &str, strip: &str, prefix: &str| {
            ClaimPath::new(claim).map(|claim| GroupRule {
                claim,
                strip: strip.into(),
                prefix: prefix.into(),
            })
        };
        let groups = |rules: [Option<GroupRule>; 2]| rules.into_iter().flatten().collect();
        match self {
            // In Okta's access tokens the subject is the login name.
            Self::Okta => ClaimPaths { username: ClaimPath::named("sub"), ..defaults },
            // At Entra `sub` differs for each application; `oid` identifies the person.
            Self::Entra => ClaimPaths {
                subject: ClaimPath::named("oid"),
                groups: groups([rule("groups", "", ""), rule("roles", "", "role:")]),
                ..defaults
            },
            Self::Auth0 => ClaimPaths {
                groups: groups([rule("permissions", "", "permission:"), None]),
                ..defaults
            },
            Self::Keycloak => ClaimPaths {
                groups: groups([rule("groups", "/", ""), rule("/realm_access/roles", "", "role:")]),
                ..defaults
            },
            Self::Google => {
                ClaimPaths { groups: vec![], organization: ClaimPath::new("hd"), ..defaults }
            }
            // At Gitpod `sub` names the repository of the workspace; `user_id` is its owner.
            Self::Gitpod => ClaimPaths {
                subject: ClaimPath::named("user_id"),
                groups: vec![],
                organization: ClaimPath::new("org_id"),
                ..defaults
            },
            Self::Ona => ClaimPaths {
                subject: ClaimPath::named("creator_id"),
                groups: vec![],
                organization: ClaimPath::new("organization_id"),
                ..defaults
            },
        }
    }

    /// The reason to refuse these settings with this provider: they cannot work, or accept tokens of strangers.
    pub(super) fn objection(
        self,
        issuer: &str,
        tokens: TokenKinds,
        require: &[Requirement],
    ) -> Option<&'static str> {
        let access = tokens.access || tokens.typed_access;
        match self {
            Self::Okta if access && !issuer.contains("/oauth2/") => Some(
                "only Okta can verify the access tokens of Okta's org authorization server: use a custom one, such as \"https://YOUR.okta.com/oauth2/default\"",
            ),
            Self::Auth0 if !issuer.ends_with('/') => {
                Some("the issuer of Auth0 ends with a slash: \"https://YOUR.auth0.com/\"")
            }
            Self::Keycloak if !issuer.contains("/realms/") => {
                Some("the issuer of Keycloak names the realm: \"https://KEYCLOAK/realms/REALM\"")
            }
            Self::Google if !requires(require, "hd") => Some(
                "tokens of every Google account in the world would be accepted: add require = [{ claim = \"hd\", any_of = [\"your-domain.example\"] }]",
            ),
            Self::Gitpod if !requires(require, "org_id") => Some(
                "tokens of every Gitpod user's workspaces would be accepted: add require = [{ claim = \"org_id\", any_of = [\"YOUR-ORGANIZATION-ID\"] }]",
            ),
            Self::Ona if !requires(require, "organization_id") => Some(
                "tokens of every Ona user's environments would be accepted: add require = [{ claim = \"organization_id\", any_of = [\"YOUR-ORGANIZATION-ID\"] }]",
            ),
            _ => None,
        }
    }
}

/// Whether a token needs that claim.
fn requires(require: &[Requirement], claim: &'static str) -> bool {
    require.iter().any(|requirement| requirement.claim == ClaimPath::named(claim))
}
