//! The interface of audit records, and the list of events.
//!
//! A record is either a decision, which has a verdict, or one of the [events](AuditEvent). The modules that know what
//! happened write their records themselves, through [`AuditRecord`]; this module knows none of their types. The list of
//! events is here, so that ids are unique and `docs/audit.md` and the metrics can be checked against it.

/// A record of the audit log: something that writes itself as one line of JSON.
pub trait AuditRecord {
    /// Appends the line, including its end.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! events {
    ($($variant:ident = $id:literal: $what:literal;)*) => {
        /// What happened, for each record that is not a decision. `docs/audit.md` has the same list.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum AuditEvent {
            $(
                #[doc = $what]
                $variant,
            )*
            /// The default for records that are filled in later; never written.
            #[default]
            None,
        }

        impl AuditEvent {
            /// All events, in the order of `docs/audit.md`.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The events about browser sessions, which `session_events_total` counts.
            pub const SESSION: [Self; 10] = [
                Self::SignIn,
                Self::SignInDenied,
                Self::SessionHost,
                Self::SessionChanged,
                Self::SessionRefused,
                Self::SessionDeparted,
                Self::SignOut,
                Self::EndSession,
                Self::BackChannelLogout,
                Self::BackChannelLogoutUnmatched,
            ];

            /// The stable id: the value of the field `event`.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$variant => $id,)*
                    Self::None => "none",
                }
            }

            /// The meaning in one sentence, as in `docs/audit.md`.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $what,)*
                    Self::None => "",
                }
            }
        }
    };
}

events! {
    Start = "start": "The agent started.";
    Stop = "stop": "The agent was stopped.";
    Reload = "reload": "The agent applied a changed configuration; `note` says what differs.";
    ReloadRefused = "reload_refused": "A changed configuration was refused; `note` says why.";
    KeySet = "key_set": "The keys of an issuer changed.";
    Revoke = "revoke": "An administrator or a provider's logout revoked access.";
    Lift = "lift": "An administrator lifted a revocation.";
    PutWorkspace = "put_workspace": "A workspace was written through the admin API.";
    DeleteWorkspace = "delete_workspace": "A workspace was deleted through the admin API.";
    SignIn = "sign_in": "A person signed in with a browser.";
    SignInDenied = "sign_in_denied": "A person signed in and may not open the workspace; `reason` says why.";
    SessionHost = "session_host": "A session got a cookie for a workspace's host.";
    SessionChanged = "session_changed": "A provider reported changed claims about the person of a session.";
    SessionRefused = "session_refused": "A session ended because its provider ended it.";
    SessionDeparted = "session_departed": "A session ended because its person is no longer active at the platform.";
    SignOut = "sign_out": "A person signed out.";
    EndSession = "end_session": "An administrator ended sessions.";
    BackChannelLogout = "back_channel_logout": "A provider ended sessions by a logout token.";
    BackChannelLogoutUnmatched = "back_channel_logout_unmatched": "A provider's logout token matched no session of this agent.";
    TunnelOpen = "tunnel_open": "A tunnel was opened.";
    TunnelClose = "tunnel_close": "A tunnel has ended. After a termination `cause` says why.";
    TunnelTerminate = "tunnel_terminate": "The agent terminated a tunnel; `cause` says why.";
    TunnelTerminateFailed = "tunnel_terminate_failed": "A tunnel could not be terminated within a second; `error` says why. The agent tries again.";
    Open = "open": "The agent opened the log; `after` says what was there before.";
    ContinueFile = "continue": "A new file was begun after rotation.";
    Checkpoint = "checkpoint": "A signature over all records before it.";
    Gap = "gap": "Records were lost; `lost` says how many.";
    Expire = "expire": "An old file was removed; `file` names it.";
    Unreadable = "unreadable": "A record could not be written as it was; `line` has its beginning.";
}

/// A record for tests: an event with some text.
#[cfg(test)]
pub(crate) struct TestEntry<'a>(pub(crate) AuditEvent, pub(crate) &'a [u8]);

#[cfg(test)]
impl AuditRecord for TestEntry<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = super::JsonObject::begin(out);
        line.number("time_ms", crate::time::Timestamp::now().as_millis());
        line.event(self.0);
        line.untrusted("note", self.1);
        line.end();
    }
}
