//! Presets: the defaults for each well-known provider, and what does not work or is unsafe with it.
//!
//! `docs/providers/` has a page for each preset, which says what to set at the provider.

use crate::{
    config::kinds::words_of,
    identity::{
        client_auth::AssertionAudience,
        profile::{
            ClaimPath, ClaimPaths, EmailVouching, GroupNames, GroupRule, Requirement, TokenKinds,
            VouchingForm,
        },
        settings::{AuthorizeParameters, ClientDefaults},
        userinfo::UserinfoUse,
    },
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
    Cognito,
    Zitadel,
    Authelia,
    Authentik,
    Gitlab,
    Dex,
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
            _ => None,
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
            Self::Google | Self::Gitlab | Self::Gitpod | Self::Ona => {
                TokenKinds { typed_access: false, access: false, id: true }
            }
            // Their access tokens have claims of ID tokens (`nonce`, `at_hash`), and the same audience.
            Self::Authentik | Self::Dex => {
                TokenKinds { typed_access: false, access: true, id: true }
            }
            Self::Okta
            | Self::Entra
            | Self::Auth0
            | Self::Keycloak
            | Self::Cognito
            | Self::Zitadel
            | Self::Authelia => TokenKinds::default(),
        }
    }

    /// The claims that have the fields of the identity.
    pub(super) fn claims(self) -> ClaimPaths {
        let defaults = ClaimPaths::default();
        let rule = |claim: &str, strip: &str, prefix: &str| {
            let rule = GroupRule::of(ClaimPath::new(claim)?);
            Some(GroupRule { strip: strip.into(), prefix: prefix.into(), ..rule })
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
            Self::Cognito => ClaimPaths {
                username: ClaimPath::named("cognito:username"),
                groups: groups([rule("cognito:groups", "", ""), None]),
                ..defaults
            },
            // An object with a role for each key, and the organizations that granted it as the value.
            Self::Zitadel => ClaimPaths {
                groups: rule("urn:zitadel:iam:org:project:roles", "", "role:")
                    .into_iter()
                    .map(|rule| GroupRule { names: GroupNames::Keys, ..rule })
                    .collect(),
                organization: ClaimPath::new("urn:zitadel:iam:user:resourceowner:id"),
                ..defaults
            },
            // `groups` is at userinfo only.
            Self::Gitlab => {
                ClaimPaths { groups: groups([rule("groups_direct", "", ""), None]), ..defaults }
            }
            Self::Authelia | Self::Authentik | Self::Dex => defaults,
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

    /// The claim that stands for the audience of access tokens without `aud`.
    pub(super) fn audience_claim(self) -> Option<ClaimPath> {
        (self == Self::Cognito).then(|| ClaimPath::named("client_id"))
    }

    /// How the provider vouches for e-mail addresses.
    pub(super) fn email_vouching(self) -> EmailVouching {
        match self {
            // True only if the owner of the domain was verified; present only if the application asks for it.
            Self::Entra => EmailVouching::by(ClaimPath::named("xms_edov"), VouchingForm::Lenient),
            // `true` in tokens, and "true" at userinfo.
            Self::Cognito => {
                EmailVouching::by(ClaimPath::named("email_verified"), VouchingForm::Lenient)
            }
            _ => EmailVouching::default(),
        }
    }

    /// What the provider needs of its clients.
    pub(super) fn client(self) -> ClientDefaults {
        let defaults = ClientDefaults::default();
        match self {
            Self::Okta => {
                ClientDefaults { assertion_audience: Some(AssertionAudience::Endpoint), ..defaults }
            }
            // Its userinfo is Microsoft Graph, which takes tokens for Graph alone and has no more than the ID token.
            Self::Entra => ClientDefaults {
                assertion_audience: Some(AssertionAudience::Endpoint),
                userinfo: Some(UserinfoUse::Never),
                ..defaults
            },
            Self::Google => ClientDefaults {
                authorize: AuthorizeParameters(vec![("access_type", "offline".into())]),
                // It knows no `login`.
                ask_prompt: Some("select_account"),
                ..defaults
            },
            _ => defaults,
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
            Self::Cognito if !issuer.contains("cognito-idp") => Some(
                "the issuer of Cognito names the user pool, not the domain of its pages: \"https://cognito-idp.REGION.amazonaws.com/USER-POOL-ID\"",
            ),
            Self::Authentik if !issuer.ends_with('/') => Some(
                "the issuer of authentik ends with a slash: \"https://AUTHENTIK/application/o/APPLICATION/\"",
            ),
            Self::Gitlab
                if issuer == "https://gitlab.com" && !requires(require, "groups_direct") =>
            {
                Some(
                    "tokens of every GitLab.com account, and of jobs of every project there, would be accepted: add require = [{ claim = \"groups_direct\", any_of = [\"YOUR-GROUP\"] }]",
                )
            }
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
