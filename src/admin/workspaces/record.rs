//! The audit record of a workspace that was written or deleted through the API.
//!
//! A record of a write lists who may reach the workspace from then on. Such workspaces have no other history, so the records
//! answer who could reach them at some time.

use crate::{
    admin::Caller,
    audit::{AuditEvent, AuditRecord, JsonObject},
    time::Timestamp,
    workspaces::{Admission, Grant, Grantee, Workspace},
};

/// A change that a process made through the API.
pub(super) struct WorkspaceEvent<'a> {
    /// The time of the change.
    pub time: Timestamp,
    /// `put_workspace` or `delete_workspace`.
    pub event: AuditEvent,
    /// The user id of the process at the other end of the socket.
    pub uid: Option<u32>,
    /// The name of the source.
    pub source: &'a str,
    /// The id of the workspace.
    pub workspace: &'a str,
    /// The revision of the workspace; zero if the writer gave none.
    pub revision: u64,
    /// Who may reach the workspace after a write, from [`access`].
    pub access: &'a [String],
}

impl<'a> WorkspaceEvent<'a> {
    /// A change of this workspace by this process now, still without the event.
    pub(super) fn by(caller: Caller, source: &'a str, workspace: &'a str) -> Self {
        Self {
            time: Timestamp::now(),
            event: AuditEvent::None,
            uid: caller.uid,
            source,
            workspace,
            revision: 0,
            access: &[],
        }
    }
}

impl AuditRecord for WorkspaceEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.display("uid", self.uid);
        line.text("source", self.source);
        line.text("workspace", self.workspace);
        line.number("revision", self.revision);
        // A list that is too long for a record becomes null, and the record says that it was cut.
        if self.event == AuditEvent::PutWorkspace {
            line.list("access", self.access.iter().map(String::as_str));
        }
        line.end();
    }
}

/// Who may reach a workspace: its owner, the admission of each endpoint that admits more than the owner, the pages of other
/// origins where the record names them, and the grants.
pub(super) fn access(workspace: &Workspace) -> Vec<String> {
    let owner = std::iter::once(format!("owner {}", workspace.owner_label));
    let wider =
        workspace.endpoints.iter().filter(|endpoint| endpoint.admission != Admission::Owner);
    let admissions = wider.map(|endpoint| format!("{}: {}", endpoint.name, endpoint.admission));
    let pages = workspace.endpoints.iter().filter_map(|endpoint| {
        let pages = endpoint.origins.cross_origin.as_ref()?;
        Some(format!("{}: cross_origin {pages}", endpoint.name))
    });
    owner.chain(admissions).chain(pages).chain(workspace.grants.iter().map(grant)).collect()
}

fn grant(grant: &Grant) -> String {
    let to = match &grant.to {
        Grantee::User(person) => format!("user {person}"),
        Grantee::Group { name, .. } => format!("group {name}"),
        Grantee::PlatformGroup(id) => format!("platform group {id}"),
    };
    match &grant.endpoints {
        None => to,
        Some(endpoints) => {
            let names: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
            format!("{to}: {}", names.join(" "))
        }
    }
}
