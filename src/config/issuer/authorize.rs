//! The table `[issuer.sign_in.authorize]`: parameters of the provider's own in the address where people sign in.
//!
//! Only the parameters that are declared here can be set. Those that protect a sign-in (`state`, `nonce`, `redirect_uri`,
//! the code challenge) are the agent's, and so is what the response looks like.

use crate::{
    config::{
        kinds::Form,
        section::{Report, Section, table},
    },
    diagnostics::Word,
    identity::settings::AuthorizeParameters,
};

table! {
    /// Parameters that are added to the address where people sign in. What the provider does with them is its own matter: to be sure of it, check the claims of the token with `require`.
    AuthorizeTable = "issuer.sign_in.authorize";
    /// Google: `offline` for a refresh token.
    access_type: optional Word, note("`\"offline\"` with the preset `google`, or else none"), example("\"offline\"");
    /// What the provider asks the person each time: `login`, `consent`, `select_account`.
    prompt: optional Prompt, example("\"consent\"");
    /// How the person should sign in, such as with a second factor.
    acr_values: optional Word, example("\"urn:okta:loa:2fa:any\"");
    /// Entra: the domain of the person's account.
    domain_hint: optional Word, example("\"example.com\"");
    /// The service that the tokens are for (RFC 8707).
    resource: optional Word, example("\"https://workspaces.example.com\"");
    /// The same for Auth0 and others.
    audience: optional Word, example("\"workspaces\"");
    /// Google: the domain of the person's account.
    hd: optional Word, example("\"example.com\"");
    /// Auth0: the connection, and so the place where the person signs in.
    connection: optional Word, example("\"corp-saml\"");
    /// Auth0: the organization.
    organization: optional Word, example("\"org_1\"");
    /// Okta: the identity provider behind it.
    idp: optional Word, example("\"0oa1\"");
    /// Keycloak: the identity provider behind it.
    kc_idp_hint: optional Word, example("\"github\"");
    /// Cognito: the identity provider behind it.
    identity_provider: optional Word, example("\"Corp\"");
    /// The languages that the person prefers, such as `de en`.
    ui_locales: optional Word, example("\"de en\"");
}

impl Section for AuthorizeTable {
    type Value = AuthorizeParameters;

    fn build(self, _: &mut Report) -> Option<AuthorizeParameters> {
        let all = [
            ("access_type", self.access_type),
            ("prompt", self.prompt),
            ("acr_values", self.acr_values),
            ("domain_hint", self.domain_hint),
            ("resource", self.resource),
            ("audience", self.audience),
            ("hd", self.hd),
            ("connection", self.connection),
            ("organization", self.organization),
            ("idp", self.idp),
            ("kc_idp_hint", self.kc_idp_hint),
            ("identity_provider", self.identity_provider),
            ("ui_locales", self.ui_locales),
        ];
        let set = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
        Some(AuthorizeParameters(set.collect()))
    }
}

/// Words of OIDC Core section 3.1.2.1. Without `none`, with which a person who is not signed in gets an error and no page.
struct Prompt;

impl Form for Prompt {
    type Value = Box<str>;

    fn parse(text: &str) -> Result<Box<str>, String> {
        let mut words = text.split(' ');
        if words.all(|word| matches!(word, "login" | "consent" | "select_account" | "create")) {
            return Ok(text.into());
        }
        Err(format!(
            "expected some of \"login\", \"consent\", \"select_account\" and \"create\", separated by spaces, found {text:?}"
        ))
    }
}
