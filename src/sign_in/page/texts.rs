//! The words of the pages, and the operator's own words in their place.
//!
//! Each text has a stable id, which is its key in the operator's `texts_file`, and placeholders in braces for values such
//! as the person's name. A new text is one line in the table below; `docs/texts.toml` is made from the table.
//!
//! A file of texts is read as a whole with all its mistakes. Texts are plain text: the template escapes them.

use std::{fmt::Write as _, path::Path};

use toml_span::{DeserError, Deserialize, Spanned, Value, de_helpers::TableHelper};

use crate::{
    authz::reason::Reason,
    diagnostics::{self, Format, Mistakes, mistake},
    identity::TokenError,
};

/// The largest file of texts, in bytes.
const MAX_FILE: u64 = 256 * 1024;

macro_rules! texts {
    ($($name:ident = $id:literal: $text:literal,)*) => {
        /// One text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Text {
            $(#[doc = $text] $name,)*
        }

        impl Text {
            /// All texts.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable id, the key in a file of texts.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// The default words. Placeholders such as `{user}` are replaced by values.
            #[must_use]
            pub const fn default_words(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

texts! {
    ChooseTitle = "choose_title": "Sign in",
    ChooseText = "choose_text": "Choose where you have an account.",
    ChooseFor = "choose_for": "Choose where you have an account. You will come back to {host}.",
    ChooseLink = "choose_link": "Sign in with {provider}",
    HomeTitle = "home_title": "You are signed in",
    HomeText = "home_text": "You are signed in as {user}. Open the address of a workspace to go there.",
    SignOutTitle = "sign_out_title": "Sign out?",
    SignOutText = "sign_out_text": "This ends your session at every workspace, in this browser and wherever its cookies were copied to.",
    SignOut = "sign_out": "Sign out",
    SignedOutTitle = "signed_out_title": "You are signed out",
    SignedOutText = "signed_out_text": "Your session has ended.",
    SignInAgain = "sign_in_again": "Sign in again",
    Switch = "switch": "Sign in as another person",
    TryAgain = "try_again": "Try again",
    BackToWorkspace = "back_to_workspace": "Back to the workspace",
    HandOverTitle = "hand_over_title": "Signing in",
    HandOverText = "hand_over_text": "You are being signed in at {host}.",
    Continue = "continue": "Continue",
    LateTitle = "late_title": "That took too long",
    LateText = "late_text": "The link to your workspace is valid for a few minutes and only once, and this one is not valid any more. Nothing is lost: please try again.",
    FailedTitle = "failed_title": "That did not work",
    FailedText = "failed_text": "This response does not belong to a sign-in of this browser, or was used before. Please open the workspace again.",
    RefusedText = "refused_text": "{provider} did not sign you in.",
    UnverifiedText = "unverified_text": "The response of {provider} could not be verified, so you are not signed in.",
    NothingTitle = "nothing_title": "There is nothing here",
    NothingText = "nothing_text": "Please check the address.",
    ProviderAwayTitle = "provider_away_title": "Your identity provider does not answer",
    ProviderAwayText = "provider_away_text": "{provider} does not answer, so you cannot sign in at the moment. Please try again in a minute.",
    StoreAwayTitle = "store_away_title": "Sign-in is interrupted",
    StoreAwayText = "store_away_text": "The session store does not answer, so it is not possible to sign in at the moment. Please try again in a minute.",
    NotRecordedTitle = "not_recorded_title": "Your sign-in could not be recorded",
    NotRecordedText = "not_recorded_text": "Each sign-in must be recorded, and records cannot be written at the moment. Please try again in a minute.",
    TooManyTitle = "too_many_title": "Too many sign-ins",
    TooManyText = "too_many_text": "You, or too many people at once, signed in too often within minutes. Please try again in ten minutes.",
    InternalTitle = "internal_title": "Sign-in failed because of an error",
    InternalText = "internal_text": "An error in the sign-in service stopped your sign-in. If trying again does not help, tell your administrator the error below.",
    UnavailableTitle = "unavailable_title": "Your access cannot be checked",
    DeniedTitle = "denied_title": "No access",
    StoppedTitle = "stopped_title": "This workspace is not running",
    UnknownTitle = "unknown_title": "No such workspace",
    StartingTitle = "starting_title": "This workspace is starting",
    InterruptedTitle = "interrupted_title": "This workspace is away for a moment",
    SignInFirstTitle = "sign_in_first_title": "Please sign in again",
    ReasonNotPermitted = "reason_not_permitted": "Your account may not open this workspace. Only its owner and the people it is shared with can.",
    ReasonGroupsOverage = "reason_groups_overage": "This workspace is shared with groups, but you are in so many groups that your provider does not list them. An administrator can change that.",
    ReasonUserInactive = "reason_user_inactive": "Your account at the workspace platform is suspended or was removed.",
    ReasonUserAmbiguous = "reason_user_ambiguous": "Several accounts of the workspace platform fit you, so it is not known which one is yours. An administrator can correct that.",
    ReasonOwnerInactive = "reason_owner_inactive": "The owner of this workspace is suspended or has left, so it cannot be opened.",
    ReasonEndpointUndeclared = "reason_endpoint_undeclared": "The workspace does not offer anything at this address. Its owner can open the port.",
    ReasonEndpointTcp = "reason_endpoint_is_tcp": "There is no web page at this address, but a service such as SSH. Connect to it with its own program.",
    ReasonPolicyForbidden = "reason_policy_forbidden": "A rule of your organization does not allow this: not from here, not at this time, or not with this workspace.",
    ReasonOriginForeign = "reason_origin_foreign": "Another site tried to open this workspace in your name.",
    ReasonRevoked = "reason_token_revoked": "An administrator has ended your access.",
    ReasonToken = "reason_token": "Your sign-in is not valid any more.",
    ReasonUnknown = "reason_workspace_unknown": "There is no workspace at this address. It may have been deleted.",
    ReasonStopped = "reason_workspace_stopped": "If it is yours, start it and open this page again.",
    ReasonStarting = "reason_workspace_starting": "It will be there soon. Please try again in a moment.",
    ReasonInterrupted = "reason_workspace_interrupted": "It is expected back soon. Please try again in a moment.",
    ReasonProviderAway = "reason_provider_away": "The identity provider does not answer, so your sign-in cannot be checked. Please try again in a minute.",
    ReasonStoreAway = "reason_store_away": "The session store does not answer, so your session cannot be checked. It has not ended: please try again in a minute.",
    ReasonPlatformAway = "reason_platform_away": "The workspace platform does not answer, so it is not known who may open this workspace. Please try again in a minute.",
    ReasonDestination = "reason_destination": "The address of this workspace is not known, not unique or not permitted. If trying again does not help, tell your administrator the decision below.",
    ReasonNotRecorded = "reason_not_recorded": "Nothing is allowed without a record, and records cannot be written at the moment. Please try again in a minute.",
    ReasonOverloaded = "reason_overloaded": "There are too many requests at the moment. Please try again in a minute.",
    ReasonInternal = "reason_internal": "An error in the access check or its configuration stopped this request. If trying again does not help, tell your administrator the decision below.",
    ReasonUnmatched = "reason_host_unmatched": "No workspace has such an address. Please check it.",
    FrameTitle = "frame_title": "Sign in to see this page",
    FrameSignIn = "frame_sign_in": "You are not signed in here, and a page inside another page cannot sign you in. Open it in a new tab and sign in there. Then load this page again.",
    OpenInTab = "open_in_tab": "Open in a new tab",
    UnsentTitle = "unsent_title": "You are not signed in",
    UnsentSignIn = "unsent_sign_in": "What you sent did not reach the workspace, because you are not signed in any more. It is not lost: sign in in a new tab, come back to this page and reload it. Your browser then asks whether to send it again.",
    SignInTab = "sign_in_tab": "Sign in in a new tab",
    Unsent = "unsent": "What you sent did not reach the workspace.",
    UnsentReload = "unsent_reload": "What you sent did not reach the workspace. Reload this page to send it again.",
    AskOwner = "ask_owner": "Ask the owner to share it with you, or sign in with an account that may open it.",
    AskNamedOwner = "ask_named_owner": "Ask {owner} to share it with you, or sign in with an account that may open it.",
    AskAdministrator = "ask_administrator": "If that is wrong, ask your administrator and name the decision below.",
    UserOf = "user_of": "{user} ({provider})",
    FactUser = "fact_user": "Signed in as",
    FactHost = "fact_host": "Workspace",
    FactOwner = "fact_owner": "Owner",
    FactAddress = "fact_address": "Address",
    FactReason = "fact_reason": "Reason",
    FactDecision = "fact_decision": "Decision",
    FactError = "fact_error": "Error",
    Contact = "contact": "Get help",
}

/// The operator's texts; all others have their default words.
#[derive(Debug, Default)]
pub struct Texts(Vec<(Text, Box<str>)>);

impl Text {
    /// The title of the page about a refusal, and the text that says why.
    #[must_use]
    pub const fn for_reason(reason: Reason) -> (Self, Self) {
        match reason {
            Reason::NotPermitted => (Self::DeniedTitle, Self::ReasonNotPermitted),
            Reason::GroupsOverage => (Self::DeniedTitle, Self::ReasonGroupsOverage),
            Reason::UserInactive => (Self::DeniedTitle, Self::ReasonUserInactive),
            Reason::UserAmbiguous => (Self::DeniedTitle, Self::ReasonUserAmbiguous),
            Reason::OwnerInactive => (Self::DeniedTitle, Self::ReasonOwnerInactive),
            // TCP streams get no page. Their reasons are here so that the last arm has only failures.
            Reason::EndpointUndeclared | Reason::EndpointNotTcp | Reason::StreamNeedsAddress => {
                (Self::DeniedTitle, Self::ReasonEndpointUndeclared)
            }
            Reason::EndpointIsTcp => (Self::DeniedTitle, Self::ReasonEndpointTcp),
            Reason::PolicyForbidden | Reason::PolicyError => {
                (Self::DeniedTitle, Self::ReasonPolicyForbidden)
            }
            Reason::OriginForeign | Reason::CorsPreflight => {
                (Self::DeniedTitle, Self::ReasonOriginForeign)
            }
            Reason::Refused(TokenError::Revoked) => (Self::DeniedTitle, Self::ReasonRevoked),
            Reason::Refused(_) | Reason::CredentialMissing => {
                (Self::SignInFirstTitle, Self::ReasonToken)
            }
            Reason::WorkspaceUnknown => (Self::UnknownTitle, Self::ReasonUnknown),
            Reason::HostUnmatched => (Self::NothingTitle, Self::ReasonUnmatched),
            Reason::WorkspaceStopped => (Self::StoppedTitle, Self::ReasonStopped),
            Reason::WorkspaceStarting => (Self::StartingTitle, Self::ReasonStarting),
            Reason::WorkspaceInterrupted => (Self::InterruptedTitle, Self::ReasonInterrupted),
            Reason::KeysUnavailable | Reason::IntrospectionUnavailable => {
                (Self::UnavailableTitle, Self::ReasonProviderAway)
            }
            Reason::SessionsUnavailable => (Self::UnavailableTitle, Self::ReasonStoreAway),
            Reason::WorkspacesNotLoaded | Reason::WorkspaceStale => {
                (Self::UnavailableTitle, Self::ReasonPlatformAway)
            }
            Reason::DestinationContested
            | Reason::DestinationUnresolved
            | Reason::DestinationForbidden
            | Reason::WorkspaceAmbiguous => (Self::UnavailableTitle, Self::ReasonDestination),
            Reason::AuditUnavailable => (Self::UnavailableTitle, Self::ReasonNotRecorded),
            Reason::Overloaded | Reason::Deadline | Reason::TunnelsFull => {
                (Self::UnavailableTitle, Self::ReasonOverloaded)
            }
            // An error of the gate or its configuration, or a reason that does not refuse.
            _ => (Self::UnavailableTitle, Self::ReasonInternal),
        }
    }

    /// The text of `docs/texts.toml`: all texts with their default words.
    #[must_use]
    pub fn reference() -> String {
        let mut file = String::from(
            "# Every text of the sign-in pages, with its default words. A texts_file may have any of these keys; the\n\
             # others keep these words. A text may leave out a placeholder in braces, and may use no other.\n\
             # Made by `cargo test --test it the_texts_are_written -- --ignored`.\n\n",
        );
        for text in Self::ALL {
            // Writing to a String cannot fail.
            let _ = writeln!(file, "{} = {:?}", text.id(), text.default_words());
        }
        file
    }
}

impl Texts {
    /// Reads the operator's texts.
    ///
    /// # Errors
    /// The file cannot be read, or the mistakes in it, all of them.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let cannot = |error| Mistakes::whole(&name, format!("cannot read the texts: {error}"));
        if std::fs::metadata(path).map_err(cannot)?.len() > MAX_FILE {
            return Err(Mistakes::whole(&name, "the file is longer than all texts can be"));
        }
        let text = std::fs::read_to_string(path).map_err(cannot)?;
        diagnostics::read(&name, &text, Format::from_path(path).unwrap_or(Format::Toml))
    }

    /// A text in which placeholders are replaced by `values`.
    #[must_use]
    pub fn say(&self, text: Text, values: &[(&str, &str)]) -> String {
        let own = self.0.iter().find(|(own, _)| *own == text).map(|(_, own)| &**own);
        let mut said = String::new();
        let mut rest = own.unwrap_or(text.default_words());
        while let Some((before, name, after)) = placeholder(rest) {
            said.push_str(before);
            let value = values.iter().find(|(known, _)| *known == name);
            said.push_str(value.map_or("", |(_, value)| value));
            rest = after;
        }
        said.push_str(rest);
        said
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let mut own = Vec::new();
        for text in Text::ALL {
            let Some(Spanned { value: said, span }) = table.optional_s::<String>(text.id()) else {
                continue;
            };
            if said.trim().is_empty() || said.chars().any(|c| c.is_control() && c != '\n') {
                let message = "expected a text that is not empty and has no control characters";
                table.errors.push(mistake(span, message));
            }
            let known: Vec<_> = placeholders(text.default_words()).collect();
            for name in placeholders(&said).filter(|name| !known.contains(name)) {
                let known: Vec<_> = known.iter().map(|name| format!("{{{name}}}")).collect();
                let expected = if known.is_empty() {
                    "this text has no placeholders".to_owned()
                } else {
                    format!("expected {}", known.join(", "))
                };
                table.errors.push(mistake(span, format!("unknown {{{name}}}: {expected}")));
            }
            own.push((*text, said.into()));
        }
        table.finalize(None)?;
        Ok(Self(own))
    }
}

/// The first placeholder: the text before it, its name, and the rest.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// The names of all placeholders in a text.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, name, after) = placeholder(rest)?;
        rest = after;
        Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Texts, String> {
        diagnostics::read("texts.toml", text, Format::Toml).map_err(|m| m.to_string())
    }

    #[test]
    fn a_text_of_the_operator_replaces_the_default_and_others_stay() {
        let texts = read("home_text = 'Moin {user}'").unwrap();
        assert_eq!(texts.say(Text::HomeText, &[("user", "{user}<b>")]), "Moin {user}<b>");
        assert_eq!(texts.say(Text::SignOut, &[]), "Sign out");
        let all = read(&Text::reference()).unwrap();
        for text in Text::ALL {
            assert_eq!(all.say(*text, &[]), Texts::default().say(*text, &[]));
        }
    }

    #[test]
    fn unknown_texts_and_unknown_placeholders_are_refused_with_their_lines() {
        let error = read("sign_out = 'Out'\nsign_uot = 'x'\nswitch = 'As {who}'\nhome_text = ''\n")
            .unwrap_err();
        for part in [
            "texts.toml:2:1: unknown key 'sign_uot': did you mean 'sign_out'?",
            "unknown {who}: this text has no placeholders",
            "texts.toml:4:",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(read("choose_link = '{user}'").unwrap_err().contains("expected {provider}"));
    }

    #[test]
    fn every_refusal_has_a_title_and_an_explanation() {
        for reason in Reason::ALL.into_iter().chain(TokenError::ALL.map(Reason::Refused)) {
            let (title, why) = Text::for_reason(reason);
            if reason.status() == 503 {
                let is_about_outage = title == Text::UnavailableTitle;
                let is_about_workspace = [Text::StartingTitle, Text::InterruptedTitle];
                assert!(is_about_outage || is_about_workspace.contains(&title), "{reason}");
                assert!(why.id().starts_with("reason_"), "{reason}");
            }
            if [403, 404].contains(&reason.status()) && reason != Reason::ResourceMetadata {
                assert_ne!(title, Text::UnavailableTitle, "{reason}");
                assert!(why.id().starts_with("reason_"), "{reason}");
            }
        }
    }
}
