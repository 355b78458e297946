//! What an issuer is trusted to say, as configured.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use url::Url;

mod address;
mod claims;

pub use address::{IssuerUrl, UrlError, secure_url};
pub use claims::{ClaimPath, ClaimPaths, GroupRule, Requirement};

/// The signature algorithms that can be accepted: asymmetric ones only, so that a published key can
/// never be used as a shared secret (RFC 8725 section 3.1).
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

/// A way to tell that an identity is the person a workspace record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The subject, byte for byte.
    Subject,
    /// The verified e-mail address, without regard to the case of ASCII letters.
    Email,
    /// The login name, byte for byte.
    Username,
}

/// Somebody who vouches for identities: an issuer of tokens, or of client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The operator's name for it, in workspace records and logs. It may change: what outlives a configuration
    /// (revocations, sessions, tunnels) knows the authority by what follows.
    pub name: Box<str>,
    /// What tells it from others whatever it is called: the issuer identifier, or for a rule about certificates
    /// `certificate:FIELD:PREFIX`.
    pub identifier: Box<str>,
    /// The `iss` values of its tokens; none for a rule about certificates, whose identities have the name of the
    /// certificate's issuer there.
    pub accepted: Box<[Box<str>]>,
    /// How identities are joined to people; the first rule that a record has a field for decides.
    pub matching: Vec<MatchBy>,
}

impl Authority {
    /// An authority that has one identifier.
    #[must_use]
    pub fn new(name: &str, identifier: &str, matching: Vec<MatchBy>) -> Self {
        Self {
            name: name.into(),
            identifier: identifier.into(),
            accepted: [identifier.into()].into(),
            matching,
        }
    }

    /// The one of `all` whose identities have this identifier and this `iss`. Where several are told apart by their
    /// names alone, the one called `name`; none where that does not tell either.
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

/// What kinds of token count (RFC 8725 section 3.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenKinds {
    /// Access tokens that say so (`typ: at+jwt`, RFC 9068).
    pub typed_access: bool,
    /// Access tokens that do not say so: any JWT without the marks of another kind.
    pub access: bool,
    /// ID tokens (OIDC Core section 2).
    pub id: bool,
}

/// An `iss` that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedIssuer {
    /// The value, compared byte for byte.
    pub iss: Box<str>,
    /// The tenant it belongs to; the `tid` claim must say the same.
    pub tenant: Option<Box<str>>,
}

/// Stands for the tenant's id in an issuer identifier (Entra's own spelling).
pub const TENANT: &str = "{tenantid}";

/// An issuer as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name, and how its identities are joined to people.
    pub authority: Arc<Authority>,
    /// The issuer identifier; its discovery document must have the same to the letter.
    pub issuer: IssuerUrl,
    /// Where the discovery document is.
    pub discovery: Url,
    /// The `iss` values that count; just the issuer identifier unless it has tenants or spellings.
    pub accepted: Vec<AcceptedIssuer>,
    /// A token must be meant for one of these.
    pub audience: Vec<String>,
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// What kinds of token count.
    pub tokens: TokenKinds,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How old a token may be by its `iat`, whatever its `exp` says.
    pub max_age: Option<Duration>,
    /// Which claims carry what.
    pub claims: ClaimPaths,
    /// What the claims must say.
    pub require: Vec<Requirement>,
    /// The organization of everybody at this issuer, if no claim carries it.
    pub organization: Option<Box<str>>,
}

impl Profile {
    /// How far clocks may be apart by default.
    pub const LEEWAY: Duration = Duration::from_secs(30);

    /// An issuer with nothing peculiar: every algorithm, access tokens, the usual claims.
    #[must_use]
    pub fn new(name: &str, issuer: IssuerUrl, audience: Vec<String>) -> Self {
        let matching = vec![MatchBy::Subject];
        Self {
            authority: Arc::new(Authority::new(name, issuer.as_str(), matching)),
            discovery: issuer.discovery(),
            accepted: vec![AcceptedIssuer { iss: issuer.as_str().into(), tenant: None }],
            issuer,
            audience,
            algorithms: ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
            tokens: TokenKinds::default(),
            leeway: Self::LEEWAY,
            max_age: None,
            claims: ClaimPaths::default(),
            require: vec![],
            organization: None,
        }
    }

    /// The accepted issuer of that `iss`, byte for byte.
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

/// The algorithm of that exact name, if it is one that can be accepted at all. `Ed25519` is the newer name
/// of what `EdDSA` means here, where no other curve is accepted (RFC 9864 section 2.2).
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let name = if name == "Ed25519" { "EdDSA" } else { name };
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}
