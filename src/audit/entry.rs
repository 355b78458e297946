//! What an entry of the audit log is, and the list of events.
//!
//! Decisions have a verdict; every other entry has one of the [events](AuditEvent). The entries themselves are written
//! by the modules that know what happened: this one knows none of their types.

/// One line of the audit log.
pub trait Entry {
    /// Appends the line, its end included.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! events {
    ($($variant:ident = $id:literal: $what:literal;)*) => {
        /// What happened, for every entry that is no decision. `docs/audit.md` has the same list.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum AuditEvent {
            $(
                #[doc = $what]
                $variant,
            )*
            /// No event.
            #[default]
            None,
        }

        impl AuditEvent {
            /// All of them, in the order of the list.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Those that are about sessions of browsers, which metrics count.
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

            /// The stable id, as it is written.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$variant => $id,)*
                    Self::None => "none",
                }
            }

            /// What it means, in one sentence.
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
    Stop = "stop": "The agent ended in good order.";
    Reload = "reload": "The agent took a changed configuration; `note` says what differs.";
    ReloadRefused = "reload_refused": "A changed configuration was refused; `note` says why.";
    KeySet = "key_set": "The keys of an issuer changed.";
    Revoke = "revoke": "An administrator or a provider's logout revoked access.";
    Lift = "lift": "An administrator lifted a revocation.";
    PutWorkspace = "put_workspace": "A workspace was written through the administrator's API.";
    DeleteWorkspace = "delete_workspace": "A workspace was deleted through the administrator's API.";
    SignIn = "sign_in": "A person signed in with a browser.";
    SignInDenied = "sign_in_denied": "A person signed in and may not open the workspace; `reason` says why.";
    SessionHost = "session_host": "A session got a cookie for a workspace's host.";
    SessionChanged = "session_changed": "A provider says other things of a session's person than before.";
    SessionRefused = "session_refused": "A session ended because its provider says that it is over.";
    SessionDeparted = "session_departed": "A session ended because its person is no longer active at the platform.";
    SignOut = "sign_out": "A person signed out.";
    EndSession = "end_session": "An administrator ended sessions.";
    BackChannelLogout = "back_channel_logout": "A provider ended sessions by a logout token.";
    BackChannelLogoutUnmatched = "back_channel_logout_unmatched": "A provider's logout token matched no session of this agent.";
    TunnelOpen = "tunnel_open": "A tunnel was opened.";
    TunnelClose = "tunnel_close": "A tunnel was closed by one of its ends.";
    TunnelTerminate = "tunnel_terminate": "The agent terminated a tunnel; `cause` says why.";
    TunnelTerminateFailed = "tunnel_terminate_failed": "A tunnel could not be terminated within a second; `error` says why. The agent tries again.";
    Open = "open": "The agent opened the log; `after` says what was there before.";
    ContinueFile = "continue": "A new file begins after rotation.";
    Checkpoint = "checkpoint": "A signed checkpoint.";
    Gap = "gap": "So many entries were lost.";
    Expire = "expire": "An old file was removed.";
    Unreadable = "unreadable": "Members of an entry could not be written as they were.";
}

/// An entry for tests: an event with some text.
#[cfg(test)]
pub(crate) struct TestEntry<'a>(pub(crate) AuditEvent, pub(crate) &'a [u8]);

#[cfg(test)]
impl Entry for TestEntry<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = super::Object::begin(out);
        line.number("time_ms", crate::time::Timestamp::now().as_millis());
        line.event(self.0);
        line.foreign("note", self.1);
        line.end();
    }
}
