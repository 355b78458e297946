//! What the configuration says about an issuer: where it is, which of its tokens are accepted, and what its claims mean.
//!
//! [`Authority`] is the part that identities keep: it matches people with workspace records, and tells one issuer or
//! certificate rule from another for as long as something of it lasts. [`Profile`] adds what the check of a token needs.
//! Nothing here does I/O.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use url::Url;

mod address;
mod claims;
mod email;

pub use address::{IssuerUrl, UrlError, secure_url};
pub use claims::{ClaimPath, ClaimPaths, GroupNames, GroupRule, Requirement};
pub use email::{EmailStanding, EmailVouching, VouchingForm};

/// The signature algorithms that can be accepted. All are asymmetric, so that a published key can never serve as a shared
/// secret (RFC 8725 section 3.1).
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// A field by which an identity is matched with a person in a workspace record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The subject, byte for byte.
    Subject,
    /// The verified e-mail address, without regard to the case of ASCII letters.
    Email,
    /// The login name, byte for byte.
    Username,
}

/// A party that vouches for identities: an issuer of tokens, or a rule about client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The operator's name for it, in workspace records and logs. The name may change, so what outlives a configuration
    /// (revocations, sessions, tunnels) refers to the identifier.
    pub name: Box<str>,
    /// The identifier, which does not change with the name: the issuer identifier, or `certificate:FIELD:PREFIX` for a rule
    /// about certificates.
    pub identifier: Box<str>,
    /// The `iss` values of its tokens. Empty for a rule about certificates, whose identities have the name of the
    /// certificate's issuer instead.
    pub accepted: Box<[Box<str>]>,
    /// The fields that are compared with a person of a workspace record; the first one that the record has decides.
    pub matching: Vec<MatchBy>,
}

impl Authority {
    /// An authority whose tokens have the identifier as their only `iss`.
    #[must_use]
    pub fn new(name: &str, identifier: &str, matching: Vec<MatchBy>) -> Self {
        Self {
            name: name.into(),
            identifier: identifier.into(),
            accepted: [identifier.into()].into(),
            matching,
        }
    }

    /// The authority of `all` whose identities have this identifier and this `iss`. If several have them, the one with this
    /// name; `None` if that does not select one either.
    #[must_use]
    pub fn find<'a>(
        all: impl Iterator<Item = &'a Arc<Self>>,
        name: &str,
        identifier: &str,
        iss: &str,
    ) -> Option<&'a Arc<Self>> {
        let fitting: Vec<_> = all.filter(|one| one.is(identifier, iss)).collect();
        match fitting.as_slice() {
            [only] => Some(only),
            several => several.iter().find(|one| *one.name == *name).copied(),
        }
    }

    fn is(&self, identifier: &str, iss: &str) -> bool {
        if self.accepted.is_empty() {
            return *self.identifier == *identifier;
        }
        self.accepted.iter().any(|accepted| **accepted == *iss)
    }
}

/// The kinds of token that are accepted (RFC 8725 section 3.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenKinds {
    /// Access tokens whose header says so (`typ: at+jwt`, RFC 9068).
    pub typed_access: bool,
    /// Access tokens whose header does not say so: every JWT without the signs of another kind.
    pub access: bool,
    /// ID tokens (OIDC Core section 2).
    pub id: bool,
}

/// An accepted value of `iss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedIssuer {
    /// The value, compared byte for byte.
    pub iss: Box<str>,
    /// The tenant that it belongs to; the `tid` claim must have the same.
    pub tenant: Option<Box<str>>,
}

/// The placeholder for the tenant's id in an issuer identifier, as Entra spells it.
pub const TENANT: &str = "{tenantid}";

/// An issuer as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name, and how its identities are matched with people.
    pub authority: Arc<Authority>,
    /// The issuer identifier. The discovery document must have exactly the same.
    pub issuer: IssuerUrl,
    /// The address of the discovery document.
    pub discovery: Url,
    /// The accepted values of `iss`: the issuer identifier, or those of the tenants and other spellings.
    pub accepted: Vec<AcceptedIssuer>,
    /// The accepted audiences. Every token must name at least one of them.
    pub audience: Vec<String>,
    /// The other audiences that an ID token may name. A token for these alone is not accepted.
    pub trusted_audiences: Vec<Box<str>>,
    /// The claim that stands for the audience of access tokens without `aud`.
    pub audience_claim: Option<ClaimPath>,
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// The accepted kinds of token.
    pub tokens: TokenKinds,
    /// The accepted difference between the clocks of agent and issuer.
    pub leeway: Duration,
    /// The maximum age of a token by its `iat`, even if its `exp` is later.
    pub max_age: Option<Duration>,
    /// The claims that have subject, e-mail address, login name, groups and organization.
    pub claims: ClaimPaths,
    /// Which e-mail addresses are taken as verified.
    pub email: EmailVouching,
    /// The values that claims must have.
    pub require: Vec<Requirement>,
    /// The organization of every person at this issuer, if no claim has it.
    pub organization: Option<Box<str>>,
}

impl Profile {
    /// The default of [`Self::leeway`].
    pub const LEEWAY: Duration = Duration::from_secs(30);

    /// An issuer with the defaults: every algorithm, access tokens, the usual claims.
    #[must_use]
    pub fn new(name: &str, issuer: IssuerUrl, audience: Vec<String>) -> Self {
        let matching = vec![MatchBy::Subject];
        Self {
            authority: Arc::new(Authority::new(name, issuer.as_str(), matching)),
            discovery: issuer.discovery(),
            accepted: vec![AcceptedIssuer { iss: issuer.as_str().into(), tenant: None }],
            issuer,
            audience,
            trusted_audiences: vec![],
            audience_claim: None,
            algorithms: ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
            tokens: TokenKinds::default(),
            leeway: Self::LEEWAY,
            max_age: None,
            claims: ClaimPaths::default(),
            email: EmailVouching::default(),
            require: vec![],
            organization: None,
        }
    }

    /// The accepted issuer with this `iss`, compared byte for byte.
    #[must_use]
    pub fn accepts(&self, iss: &str) -> Option<&AcceptedIssuer> {
        self.accepted.iter().find(|accepted| *accepted.iss == *iss)
    }
}

impl Default for TokenKinds {
    fn default() -> Self {
        Self { typed_access: true, access: true, id: false }
    }
}

/// The algorithm of this exact name, if it can be accepted. `Ed25519` is the newer name of `EdDSA` with the only curve that
/// is accepted (RFC 9864 section 2.2).
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let name = if name == "Ed25519" { "EdDSA" } else { name };
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}
