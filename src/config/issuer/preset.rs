//! What is peculiar to each provider. `docs/providers/` says what to set there.

use crate::{
    config::kinds::words_of,
    identity::profile::{ClaimPath, ClaimPaths, GroupRule, Requirement, TokenKinds},
};

/// A provider with habits of its own.
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
    /// The issuer identifier, where all customers of the provider have the same.
    pub(super) fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Entra => Some("https://login.microsoftonline.com/{tenantid}/v2.0"),
            Self::Google => Some("https://accounts.google.com"),
            Self::Gitpod => Some("https://api.gitpod.io/idp"),
            Self::Ona => Some("https://app.gitpod.io"),
            Self::Okta | Self::Auth0 | Self::Keycloak => None,
        }
    }

    /// Other spellings of the issuer in tokens.
    pub(super) fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::Google => &["accounts.google.com"],
            _ => &[],
        }
    }

    /// The kinds of token the provider has for us.
    pub(super) fn tokens(self) -> TokenKinds {
        match self {
            // Their access tokens are opaque or do not exist.
            Self::Google | Self::Gitpod | Self::Ona => {
                TokenKinds { typed_access: false, access: false, id: true }
            }
            Self::Okta | Self::Entra | Self::Auth0 | Self::Keycloak => TokenKinds::default(),
        }
    }

    /// Where the provider's claims are.
    pub(super) fn claims(self) -> ClaimPaths {
        let usual = ClaimPaths::default();
        let rule = |claim: &str, strip: &str, prefix: &str| {
            ClaimPath::new(claim).map(|claim| GroupRule {
                claim,
                strip: strip.into(),
                prefix: prefix.into(),
            })
        };
        let groups = |rules: [Option<GroupRule>; 2]| rules.into_iter().flatten().collect();
        match self {
            // The login name is the subject of Okta's access tokens.
            Self::Okta => ClaimPaths { username: ClaimPath::named("sub"), ..usual },
            // `sub` differs from application to application; `oid` is the person.
            Self::Entra => ClaimPaths {
                subject: ClaimPath::named("oid"),
                groups: groups([rule("groups", "", ""), rule("roles", "", "role:")]),
                ..usual
            },
            Self::Auth0 => ClaimPaths {
                groups: groups([rule("permissions", "", "permission:"), None]),
                ..usual
            },
            Self::Keycloak => ClaimPaths {
                groups: groups([rule("groups", "/", ""), rule("/realm_access/roles", "", "role:")]),
                ..usual
            },
            Self::Google => {
                ClaimPaths { groups: vec![], organization: ClaimPath::new("hd"), ..usual }
            }
            // `sub` is where the workspace came from; `user_id` is whose it is.
            Self::Gitpod => ClaimPaths {
                subject: ClaimPath::named("user_id"),
                groups: vec![],
                organization: ClaimPath::new("org_id"),
                ..usual
            },
            Self::Ona => ClaimPaths {
                subject: ClaimPath::named("creator_id"),
                groups: vec![],
                organization: ClaimPath::new("organization_id"),
                ..usual
            },
        }
    }

    /// What would not work, or be open to the world, with this provider.
    pub(super) fn objection(
        self,
        issuer: &str,
        tokens: TokenKinds,
        require: &[Requirement],
    ) -> Option<&'static str> {
        let access = tokens.access || tokens.typed_access;
        match self {
            Self::Okta if access && !issuer.contains("/oauth2/") => Some(
                "nobody but Okta can verify access tokens of Okta's org authorization server: use a custom one, such as \"https://YOUR.okta.com/oauth2/default\"",
            ),
            Self::Auth0 if !issuer.ends_with('/') => {
                Some("the issuer of Auth0 ends with a slash: \"https://YOUR.auth0.com/\"")
            }
            Self::Keycloak if !issuer.contains("/realms/") => {
                Some("the issuer of Keycloak names the realm: \"https://KEYCLOAK/realms/REALM\"")
            }
            Self::Google if !requires(require, "hd") => Some(
                "every Google account in the world would count: add require = [{ claim = \"hd\", any_of = [\"your-domain.example\"] }]",
            ),
            Self::Gitpod if !requires(require, "org_id") => Some(
                "workspaces of every Gitpod user would count: add require = [{ claim = \"org_id\", any_of = [\"YOUR-ORGANIZATION-ID\"] }]",
            ),
            Self::Ona if !requires(require, "organization_id") => Some(
                "environments of every Ona user would count: add require = [{ claim = \"organization_id\", any_of = [\"YOUR-ORGANIZATION-ID\"] }]",
            ),
            _ => None,
        }
    }
}

fn requires(require: &[Requirement], claim: &'static str) -> bool {
    require.iter().any(|requirement| requirement.claim == ClaimPath::named(claim))
}
