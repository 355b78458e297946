//! What people read, and how an operator says it in other words.
//!
//! A new text is one line in the table below; `docs/texts.toml` is made from it.

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
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable id, the key in a file of texts.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it says unless the operator says otherwise. `{user}`, `{host}` and the like stand for
            /// what is known then.
            #[must_use]
            pub const fn built_in(self) -> &'static str {
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
    SignedOutText = "signed_out_text": "Your session has ended at every workspace.",
    SignInAgain = "sign_in_again": "Sign in again",
    Switch = "switch": "Sign in as somebody else",
    TryAgain = "try_again": "Try again",
    BackToWorkspace = "back_to_workspace": "Back to the workspace",
    HandOverTitle = "hand_over_title": "Signing in",
    HandOverText = "hand_over_text": "You are being signed in at {host}.",
    Continue = "continue": "Continue",
    LateTitle = "late_title": "That took too long",
    LateText = "late_text": "The way to your workspace was open for a few minutes only, or was used already. Nothing is lost: please try again.",
    FailedTitle = "failed_title": "That did not work",
    FailedText = "failed_text": "This answer belongs to no sign-in of this browser, or came a second time. Please open the workspace again.",
    RefusedText = "refused_text": "{provider} did not sign you in.",
    UnverifiedText = "unverified_text": "The answer of {provider} could not be verified, so nobody was signed in.",
    NothingTitle = "nothing_title": "There is nothing here",
    NothingText = "nothing_text": "Please check the address.",
    UnavailableTitle = "unavailable_title": "Not possible at the moment",
    UnavailableText = "unavailable_text": "Nobody can be let in until this is over. Please try again in a minute.",
    DeniedTitle = "denied_title": "No access",
    StoppedTitle = "stopped_title": "This workspace is not running",
    UnknownTitle = "unknown_title": "No such workspace",
    StartingTitle = "starting_title": "This workspace is starting",
    InterruptedTitle = "interrupted_title": "This workspace is away for a moment",
    SignInFirstTitle = "sign_in_first_title": "Please sign in again",
    ReasonNotPermitted = "reason_not_permitted": "Your account may not open this workspace. Only its owner and the people it is shared with can.",
    ReasonGroupsOverage = "reason_groups_overage": "This workspace is shared with groups, and your provider did not say which groups you are in, since they are too many. An administrator can change that.",
    ReasonUserInactive = "reason_user_inactive": "Your account at the workspace platform is suspended or was removed.",
    ReasonUserAmbiguous = "reason_user_ambiguous": "Several accounts of the workspace platform fit you, so that nobody can tell which one is yours. An administrator can put that right.",
    ReasonOwnerInactive = "reason_owner_inactive": "Whoever this workspace belongs to is suspended or has left, so nobody may open it.",
    ReasonEndpointUndeclared = "reason_endpoint_undeclared": "The workspace does not offer anything at this address. Its owner can open the port.",
    ReasonEndpointTcp = "reason_endpoint_is_tcp": "There is no web page at this address, but a service such as SSH. Reach it with its own program.",
    ReasonPolicyForbidden = "reason_policy_forbidden": "A rule of your organization does not allow this: not from here, not at this time, or not with this workspace.",
    ReasonOriginForeign = "reason_origin_foreign": "Another site tried to open this workspace in your name.",
    ReasonRevoked = "reason_token_revoked": "An administrator has ended your access.",
    ReasonToken = "reason_token": "What your browser sent does not count any more.",
    ReasonUnknown = "reason_workspace_unknown": "There is no workspace at this address. It may have been deleted.",
    ReasonStopped = "reason_workspace_stopped": "If it is yours, start it and open this page again.",
    ReasonStarting = "reason_workspace_starting": "It will be there soon. Please try again in a moment.",
    ReasonInterrupted = "reason_workspace_interrupted": "It is expected back soon. Please try again in a moment.",
    ReasonUnmatched = "reason_host_unmatched": "No workspace has such an address. Please check it.",
    AskOwner = "ask_owner": "Ask the owner to share it with you, or sign in with an account that may open it.",
    AskNamedOwner = "ask_named_owner": "Ask {owner} to share it with you, or sign in with an account that may open it.",
    AskAdministrator = "ask_administrator": "If that is wrong, ask your administrator and name the decision below.",
    UserOf = "user_of": "{user} ({provider})",
    FactUser = "fact_user": "Signed in as",
    FactHost = "fact_host": "Workspace",
    FactOwner = "fact_owner": "Owner",
    FactReason = "fact_reason": "Reason",
    FactDecision = "fact_decision": "Decision",
    Contact = "contact": "Get help",
}

/// All texts, some of them the operator's.
#[derive(Debug, Default)]
pub struct Texts(Vec<(Text, Box<str>)>);

impl Text {
    /// What a page about a refusal is called, and why it is one.
    #[must_use]
    pub const fn of(reason: Reason) -> (Self, Self) {
        match reason {
            Reason::NotPermitted => (Self::DeniedTitle, Self::ReasonNotPermitted),
            Reason::GroupsOverage => (Self::DeniedTitle, Self::ReasonGroupsOverage),
            Reason::UserInactive => (Self::DeniedTitle, Self::ReasonUserInactive),
            Reason::UserAmbiguous => (Self::DeniedTitle, Self::ReasonUserAmbiguous),
            Reason::OwnerInactive => (Self::DeniedTitle, Self::ReasonOwnerInactive),
            // Streams get no page: theirs are here so that none of them is called a failure.
            Reason::EndpointUndeclared | Reason::EndpointNotTcp | Reason::StreamNeedsAddress => {
                (Self::DeniedTitle, Self::ReasonEndpointUndeclared)
            }
            Reason::EndpointIsTcp => (Self::DeniedTitle, Self::ReasonEndpointTcp),
            Reason::PolicyForbidden | Reason::PolicyError => {
                (Self::DeniedTitle, Self::ReasonPolicyForbidden)
            }
            Reason::OriginForeign => (Self::DeniedTitle, Self::ReasonOriginForeign),
            Reason::Refused(TokenError::Revoked) => (Self::DeniedTitle, Self::ReasonRevoked),
            Reason::Refused(_) | Reason::CredentialMissing => {
                (Self::SignInFirstTitle, Self::ReasonToken)
            }
            Reason::WorkspaceUnknown => (Self::UnknownTitle, Self::ReasonUnknown),
            Reason::HostUnmatched => (Self::NothingTitle, Self::ReasonUnmatched),
            Reason::WorkspaceStopped => (Self::StoppedTitle, Self::ReasonStopped),
            Reason::WorkspaceStarting => (Self::StartingTitle, Self::ReasonStarting),
            Reason::WorkspaceInterrupted => (Self::InterruptedTitle, Self::ReasonInterrupted),
            _ => (Self::UnavailableTitle, Self::UnavailableText),
        }
    }

    /// A file of texts with the built-in ones.
    #[must_use]
    pub fn reference() -> String {
        let mut file = String::from(
            "# Every text of the sign-in pages, as it is built in. A texts_file may have any of these keys;\n\
             # what is missing there stays as it is here. A text may leave out what stands in braces, and may\n\
             # use no other. Made by `cargo test --test it the_texts_are_written -- --ignored`.\n\n",
        );
        for text in Self::ALL {
            // Writing to a String cannot fail.
            let _ = writeln!(file, "{} = {:?}", text.id(), text.built_in());
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
        diagnostics::read(&name, &text, Format::of(path).unwrap_or(Format::Toml))
    }

    /// A text with what its places in braces stand for.
    #[must_use]
    pub fn say(&self, text: Text, values: &[(&str, &str)]) -> String {
        let own = self.0.iter().find(|(own, _)| *own == text).map(|(_, own)| &**own);
        let mut said = String::new();
        let mut rest = own.unwrap_or(text.built_in());
        while let Some((before, name, after)) = place(rest) {
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
                let message = "expected text without control characters, and not nothing";
                table.errors.push(mistake(span, message));
            }
            let known: Vec<_> = places(text.built_in()).collect();
            for name in places(&said).filter(|name| !known.contains(name)) {
                let known: Vec<_> = known.iter().map(|name| format!("{{{name}}}")).collect();
                let expected = if known.is_empty() {
                    "this text has nothing in braces".to_owned()
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

/// The first place in braces: what stands before it, its name, and the rest.
fn place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

fn places(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, name, after) = place(rest)?;
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
    fn a_text_of_the_operator_takes_the_place_of_the_built_in_one_and_others_stay() {
        let texts = read("home_text = 'Moin {user}'").unwrap();
        assert_eq!(texts.say(Text::HomeText, &[("user", "{user}<b>")]), "Moin {user}<b>");
        assert_eq!(texts.say(Text::SignOut, &[]), "Sign out");
        let all = read(&Text::reference()).unwrap();
        for text in Text::ALL {
            assert_eq!(all.say(*text, &[]), Texts::default().say(*text, &[]));
        }
    }

    #[test]
    fn unknown_texts_and_unknown_places_are_refused_with_their_lines() {
        let error = read("sign_out = 'Out'\nsign_uot = 'x'\nswitch = 'As {who}'\nhome_text = ''\n")
            .unwrap_err();
        for part in [
            "texts.toml:2:1: unknown key 'sign_uot': did you mean 'sign_out'?",
            "unknown {who}: this text has nothing in braces",
            "texts.toml:4:",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(read("choose_link = '{user}'").unwrap_err().contains("expected {provider}"));
    }

    #[test]
    fn every_refusal_has_a_title_and_an_explanation() {
        for reason in Reason::ALL.into_iter().chain(TokenError::ALL.map(Reason::Refused)) {
            let (title, why) = Text::of(reason);
            if [403, 404].contains(&reason.status()) && reason != Reason::ResourceMetadata {
                assert_ne!(title, Text::UnavailableTitle, "{reason}");
                assert!(why.id().starts_with("reason_"), "{reason}");
            }
        }
    }
}
